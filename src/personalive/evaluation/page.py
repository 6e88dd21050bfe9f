"""The report as one HTML file that needs nothing else: tables, a plot over time and a strip of pictures per video."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from personalive.evaluation.folders import ALWAYS, CROSS, NOT_MEASURED, SELF, VideoFigures
from personalive.evaluation.report import Row
from personalive.media.frames import Pixels

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #2266cc; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; border-radius: .4rem; }
svg { width: 100%; height: 7rem; border: 1px solid var(--line); border-radius: .4rem; }
polyline { fill: none; stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
figcaption, .note { color: #777; font-size: .9rem; }
"""

_BETTER = {True: "higher", False: "lower", None: "near 1"}


def page(
    rows: Sequence[Row],
    videos: Sequence[VideoFigures],
    strips: Mapping[str, Pixels],
    problems: Sequence[str],
    source: Mapping[str, str],
) -> str:
    """The whole page. strips: a picture (H, W, 3) by video's name; problems: a line for each video left out."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>PersonaLive evaluation</title><style>{_STYLE}</style><h1>Evaluation, videos: {len(videos)}</h1>",
        f"<p class=note>{escape(', '.join(f'{name}: {value}' for name, value in source.items()))}</p>",
        _left_out(problems),
        "<h2>Means over videos</h2>",
        _table(("measure", "mean", "95 % interval", "videos", "better"), [_summary(row) for row in rows]),
        "<p class=note>A dash: not measured. Definitions: docs/evaluation.md.</p><h2>Not measured here</h2>",
        "<dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in NOT_MEASURED.items()),
        "</dl>",
        "<h2>Every video</h2>",
        _table(("video", "frames", *(row.measure for row in rows)), [_line(video, rows) for video in videos]),
        *(_video(video, strips.get(video.name)) for video in videos),
    ]  # fmt: skip
    return "\n".join(parts)


def _left_out(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in problems)
    return f"<h2>Left out: {len(problems)}</h2><ul>{lines}</ul>"


def _summary(row: Row) -> list[str]:
    e = row.estimate
    interval = f"{_number(e.low)} .. {_number(e.high)}" if e.count > 1 else ""
    return [row.measure, _number(e.mean), interval, str(e.count), _BETTER[{**SELF, **CROSS, **ALWAYS}.get(row.measure)]]


def _line(video: VideoFigures, rows: Sequence[Row]) -> list[str]:
    return [video.name, str(video.frames), *(_number(video.figures.get(row.measure, math.nan)) for row in rows)]


def _video(video: VideoFigures, strip: Pixels | None) -> str:
    plots = "".join(
        f"<figure>{_plot(values)}<figcaption>{escape(name)} by frame, {_range(values)}</figcaption></figure>"
        for name, values in video.over_time.items()
    )
    picture = "" if strip is None else f"<img alt='portrait, then drivers above results' src='{_embedded(strip)}'>"
    return f"<h3>{escape(video.name)}</h3>{picture}{plots}"


def _plot(values: Sequence[float]) -> str:
    """A line from the least to the highest value; frames that were not measured are passed over."""
    known = [(number, value) for number, value in enumerate(values) if not math.isnan(value)]
    if len(known) < 2:
        return "<p>not measured</p>"
    low, high = min(v for _, v in known), max(v for _, v in known)
    spread = (high - low) or 1.0
    points = " ".join(f"{n / max(len(values) - 1, 1) * 1000:.1f},{95 - (v - low) / spread * 90:.1f}" for n, v in known)
    return f"<svg viewBox='0 0 1000 100' preserveAspectRatio='none' role=img><polyline points='{points}'/></svg>"


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{_number(min(known))} to {_number(max(known))}" if known else "not measured"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _embedded(pixels: Pixels) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
