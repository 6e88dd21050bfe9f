"""The report as one HTML file that needs nothing else: tables, distributions, plots over time, strips and videos."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from personalive.evaluation import plots
from personalive.evaluation.beside import SPEED, System
from personalive.evaluation.measures import BETTER, COSINE, GROUPS, ID_SIM, RENDERED, SEEN, not_measured
from personalive.evaluation.plots import number
from personalive.evaluation.report import SCALE, Row
from personalive.evaluation.score import VideoFigures

MOST_MEDIA = 24_000_000
"""Bytes of strips and videos that a page may hold; later cases are shown by their figures alone."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --text: #1c1c1e; --soft: #5c5f66; --line: #c9ccd2; --ink: #1f5fbf;
  --faint: #a3590b; --shade: #f4f5f7; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --text: #e8e9ec; --soft: #a6aab3; --line: #3d424b;
  --ink: #7fb2ff; --faint: #f0b46a; --shade: #1f2228; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--text); max-width: 72rem;
  margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: .25rem; } h2 { margin-top: 2.2rem; } h3 { margin-bottom: .3rem; }
.note, dd { color: var(--soft); font-size: .9rem; } .note { margin-top: .3rem; }
.scroll { overflow-x: auto; margin-bottom: .8rem; }
.glance { display: flex; flex-wrap: wrap; gap: .6rem; }
.glance div { flex: 1 1 auto; background: var(--shade); border-radius: .5rem; padding: .5rem .9rem; }
.glance b { display: block; font-size: 1.35rem; } .glance span { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); white-space: normal; min-width: 7rem; overflow-wrap: anywhere; }
.part th { padding-top: .9rem; color: var(--soft); white-space: normal; }
.part span { display: block; max-width: 85vw; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem 1.5rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
summary span { font-weight: 400; color: var(--soft); }
img, video { display: block; max-width: 100%; border-radius: .4rem; margin: .5rem 0; background: var(--shade); }
video { width: 40rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  th, td { padding: .3rem .45rem; } }
"""

_BETTER = {True: "higher", False: "lower", None: "near 1"}
_OPEN = 3  # cases shown unfolded
_SECTIONS = {"self": "Driven by their own video", "cross": "Driven by another person", "speed": "How fast"}
_SPEED_REMARK = (
    "Of our own model while it made these videos, one stream at a time, without reading and writing files. The delay "
    "is computed: the window's frames at the driver's rate (or the model's, if that is slower) and one chunk's work, "
    "without transport and display."
)
_WHOSE = {"self": ", own video", "cross": ", another person", "speed": ""}
_GLANCE = (
    (("self", "SSIM"),),
    (("self", "LPIPS"), ("self", "L1")),
    (
        ("cross", ID_SIM),
        ("cross", COSINE),
        ("self", ID_SIM),
        ("self", COSINE),
        ("cross", f"nearer to the portrait{RENDERED}"),
    ),
    tuple((section, name) for name in ("follows yaw, mesh", "follows yaw") for section in ("cross", "self")),
    tuple((section, name) for name in ("follows mouth, mesh", "follows mouth") for section in ("cross", "self")),
    (("speed", SPEED),),
    (("speed", "chunk time, s"),),
)
"""Of each the first that was measured is shown at the top."""

_PLANES = (
    ("SSIM", "LPIPS", "L1"),
    (ID_SIM, COSINE, f"identity distance{RENDERED}"),
    ("AED", "follows mouth"),
    ("tLP", "temporal error"),
)


@dataclass(frozen=True)
class Shown:
    """A case's media: a JPEG strip and a WebM side by side; panes: what the video shows from left to right."""

    strip: bytes
    clip: bytes
    panes: str


@dataclass(frozen=True)
class Report:
    """All that a report says. problems: a line for each case left out; systems: this one, then those beside it."""

    rows: Sequence[Row]
    videos: Sequence[VideoFigures]
    problems: Sequence[str]
    source: Mapping[str, str]
    systems: Sequence[System]
    shown: Mapping[str, Shown] = field(default_factory=dict)


def page(report: Report) -> str:
    """The whole page."""
    source = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.source.items())
    parts = [
        heading(report.source["model"]),
        f"<p class=note>{len(report.videos)} videos scored, {len(report.problems)} left out</p>",
        _glance(report.rows),
        _left_out(report.problems),
        *(_section(section, title, report) for section, title in _SECTIONS.items()),
        _missing(report),
        _beside(report.systems),
        "<h2>Every video</h2>",
        *_cases(report),
        f"<h2>Where this comes from</h2><dl>{source}</dl>",
        "<p class=note>A dash: could not be measured in this video. Definitions: docs/evaluation.md.</p>",
    ]  # fmt: skip
    return "\n".join(parts)


def heading(title: str) -> str:
    """The beginning of a page that needs nothing else."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>Evaluation: {escape(title)}</title><style>{_STYLE}{plots.STYLE}</style><h1>{escape(title)}</h1>"
    )


def _glance(rows: Sequence[Row]) -> str:
    """The first known measure of each kind, large."""
    means = {(row.section, row.measure): row.estimate.mean for row in rows if not math.isnan(row.estimate.mean)}
    found = [next((key for key in kinds if key in means), None) for kinds in _GLANCE]
    tiles = "".join(
        f"<div><b>{number(means[key])}</b><span>{escape(key[1])}{_WHOSE[key[0]]}{_scale(means, *key)}</span></div>"
        for key in found
        if key
    )
    return f"<div class=glance>{tiles}</div>" if tiles else ""


def _scale(means: Mapping[tuple[str, str], float], section: str, measure: str) -> str:
    """What a cosine of identity is held against, in brackets; nothing for other measures."""
    known = [f"{end[2:]} {number(means[key])}" for end in SCALE if (key := (section, measure + end)) in means]
    return f" ({', '.join(known)})" if known else ""


def _left_out(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in problems)
    return f"<h2>Left out: {len(problems)}</h2><ul>{lines}</ul>"


def _section(section: str, title: str, report: Report) -> str:
    """Means, distributions and every case's figures of one category."""
    every_row = [row for row in report.rows if row.section == section]
    rows = [row for row in every_row if not row.measure.endswith((SEEN, *SCALE))]
    videos = [video for video in report.videos if section == "speed" or video.cross == (section == "cross")]
    if not videos or not rows:
        return ""
    beside = {row.measure: row.estimate.mean for row in every_row if row.measure.endswith((SEEN, *SCALE))}
    columns = {end: title for end, title in _BESIDE.items() if any(name.endswith(end) for name in beside)}
    head = ["measure", "mean", "better", "cases", "95 % interval", *columns.values()]
    lines: list[list[str]] = []
    for part, group in GROUPS.items():
        some = [_summary(row, beside, columns) for row in rows if row.measure in group]
        lines += [[part], *some] if some and section != "speed" else some
    means = table(head, lines)
    remark = ""
    if section == "speed":
        remark = note(f"{_SPEED_REMARK} Peak memory: {report.source.get('peak memory', 'as each run says')}.")
    spread = [
        plots.distribution(row.measure, {v.name: v.figures.get(row.measure, math.nan) for v in videos}, row.estimate)
        for row in rows
        if sum(not math.isnan(v.figures.get(row.measure, math.nan)) for v in videos) > 1
    ]
    said = note("A dot is a video; the line is the mean, the band its 95 % interval.")
    shown = [row for row in every_row if not row.measure.endswith(SEEN)]
    every = table(
        ("video", "frames", *(row.measure for row in shown)),
        [[v.name, str(v.frames), *(number(v.figures.get(row.measure, math.nan)) for row in shown)] for v in videos],
    )
    drawn = f"<div class=grid>{''.join(spread)}</div>"
    dots = f"<details><summary>Distributions <span>a dot for each video</span></summary>{said}{drawn}</details>"
    by_video = f"<details><summary>By video <span>{len(videos)} lines</span></summary>{every}</details>"
    return f"<h2>{title}: means over {len(videos)}</h2>{remark}{means}{dots if spread else ''}{by_video}"


_BESIDE = {SEEN: "seen in true video", **{end: end[2:] for end in SCALE}}
"""Ending of a measure that stands in a column beside the one without it -> the column's title."""


def _summary(row: Row, beside: Mapping[str, float], columns: Mapping[str, str]) -> list[str]:
    e = row.estimate
    interval = "" if math.isnan(e.low) else f"{number(e.low)} .. {number(e.high)}"
    cells = [row.measure, number(e.mean), _BETTER[BETTER.get(row.measure, True)], str(e.count), interval]
    return [*cells, *(number(beside[name]) if (name := row.measure + end) in beside else "" for end in columns)]


def _missing(report: Report) -> str:
    missing = not_measured({row.measure for row in report.rows})
    if not missing:
        return ""
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(how)}</dd>" for name, how in missing.items())
    said = note("What this run lacks, and what each needs.")
    return f"<h2>Not measured</h2>{said}<dl>{entries}</dl>"


def _beside(systems: Sequence[System]) -> str:
    """A table of systems, and speed against quality of those whose speed is known; nothing for one alone."""
    if len(systems) < 2:
        return ""
    columns = list(dict.fromkeys(key for system in systems for key in system.means))
    head = ("system", SPEED, *(f"{measure}, {section}" for section, measure in columns))
    lines = [
        [
            system.name,
            "–" if system.speed is None else f"{number(system.speed)} ({system.timed_on})",
            *(number(system.means.get(key, math.nan)) for key in columns),
        ]
        for system in systems
    ]
    timed = [system for system in systems if system.speed]
    drawn = [_plane(key, timed) for key in _plane_keys(columns)]
    said = note("Speeds are as stated for each system, on the machine in brackets: compare them within one machine.")
    planes = f"<h3>Speed against quality</h3>{said}<div class=grid>{''.join(drawn)}</div>" if any(drawn) else ""
    return f"<h2>Beside other systems</h2>{table(head, lines)}{planes}"


def _plane(key: tuple[str, str], systems: Sequence[System]) -> str:
    """Speed against one measure; nothing for fewer than two systems that have both."""
    points = {system.name: (system.speed or 0.0, system.means.get(key, math.nan)) for system in systems}
    known = {name: point for name, point in points.items() if not math.isnan(point[1])}
    section, measure = key
    better = _BETTER[BETTER.get(measure, True)]
    return plots.plane(SPEED, f"{measure}, {section} ({better} is better)", known) if len(known) > 1 else ""


def _plane_keys(columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of each kind of quality the first measure that there is, by section."""
    chosen = []
    for section in _SECTIONS:
        for names in _PLANES:
            chosen += [(section, name) for name in names if (section, name) in columns][:1]
    return chosen


def _cases(report: Report) -> list[str]:
    left, texts = MOST_MEDIA, []
    for place, video in enumerate(report.videos):
        shown = report.shown.get(video.name)
        size = 0 if shown is None else len(shown.strip) + len(shown.clip)
        media = "<p class=note>Pictures are left out: the page is full.</p>" if size > left else ""
        if shown is not None and size <= left:
            left -= size
            media = (
                "<video controls muted loop playsinline preload=metadata "
                f"src='{_embedded('video/webm', shown.clip)}'></video>{note(shown.panes)}"
                f"<img alt='portrait, then drivers above results' src='{_embedded('image/jpeg', shown.strip)}'>"
                "<p class=note>Portrait; drivers above, results below.</p>"
            )
        kind = "another person drives" if video.cross else "its own video drives"
        texts.append(
            f"<details{' open' if place < _OPEN else ''}><summary>{escape(video.name)} <span>{video.frames} frames, "
            f"{kind}</span></summary>{media}<div class=grid>{''.join(_courses(video))}</div>{_taken(video)}</details>"
        )
    return texts


def _taken(video: VideoFigures) -> str:
    """When and where a case was measured, and animated."""
    parts = [video.source[name] for name in ("date", "commit", "machine") if name in video.source]
    told = [f"Measured {', '.join(parts)}."] if parts else []
    told += [f"Animated {video.source['animated']}."] if "animated" in video.source else []
    return note(" ".join(told)) if told else ""


def _courses(video: VideoFigures) -> list[str]:
    """A plot for each measure over time; "mouth ..., output" and "mouth ..., driver" share one."""
    grouped: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in video.over_time.items():
        measure, _, whose = name.partition(", ")
        if whose in ("output", "driver"):
            grouped.setdefault(measure, {})[whose] = values
        else:
            grouped[name] = {name: values}
    ordered = {name: dict(sorted(series.items(), reverse=True)) for name, series in grouped.items()}  # output first
    return [plots.lines(name, series) for name, series in ordered.items()]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """HTML of plain text cells; wide ones scroll on their own. A line of one cell is a heading over all columns."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)

    def row(line: Sequence[str]) -> str:
        if len(line) == 1:
            return f"<tr class=part><th colspan={len(head)}><span>{escape(line[0])}</span></th></tr>"
        return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"

    body = "".join(map(row, lines))
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def note(text: str) -> str:
    """HTML of a remark."""
    return f"<p class=note>{escape(text)}</p>"


def _embedded(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
