"""The scores of many cases, summed up and written: JSON, CSV, Markdown, HTML."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from personalive.errors import OutputError
from personalive.evaluation.frechet import frechet_distance
from personalive.evaluation.measures import BETTER, EFFICIENCY, not_measured
from personalive.evaluation.outputs import Run
from personalive.evaluation.page import Report, page
from personalive.evaluation.report import Row, markdown, write_json
from personalive.evaluation.score import Scored
from personalive.evaluation.statistics import Estimate, estimate


def summarise(cases: Sequence[Scored]) -> list[Row]:
    """A row for each measure over the self cases, then over the crossed ones, which are never averaged together; at the
    end those of speed, over all.

    A video in which a measure could not be taken does not count. FVD is of all clips of a section: its `count` is that
    of the clips, and it has no interval, because drawing clips anew makes it larger.
    """
    rows = []
    for section, cross in (("self", False), ("cross", True)):
        some = [case for case in cases if case.figures.cross == cross]
        rows += _rows(section, [name for name in BETTER if name not in EFFICIENCY], some)
        made, true = (
            (np.concatenate(side) for side in zip(*(_features(some)), strict=True)) if _features(some) else _NONE
        )
        if len(made):
            distance = frechet_distance(made, true)
            rows.append(Row(section, "FVD", Estimate(distance, math.nan, math.nan, len(made)), higher=False))
    return rows + _rows(SPEED_SECTION, EFFICIENCY, cases)


def with_run(scored: Scored, run: Run | None) -> Scored:
    """A case with what its animation took among its figures."""
    if run is None:
        return scored
    source = scored.figures.source | {"animated": ", ".join(run.source[name] for name in ("date", "commit", "machine"))}
    figures = replace(scored.figures, figures=scored.figures.figures | run.figures, source=source)
    return replace(scored, figures=figures)


def _rows(section: str, names: Sequence[str], cases: Sequence[Scored]) -> list[Row]:
    """Of the measures that were taken in any of the cases."""
    taken = {name for case in cases for name in case.figures.figures}
    return [
        Row(
            section,
            name,
            estimate([case.figures.figures.get(name, math.nan) for case in cases]),
            higher=BETTER[name] is not False,
        )
        for name in names
        if name in taken
    ]


SPEED_SECTION = "speed"
_NONE = (np.empty((0, 1)), np.empty((0, 1)))


def _features(cases: Sequence[Scored]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [case.features for case in cases if len(case.features[0])]


def write_report(folder: Path, report: Report) -> str:
    """scores.json, scores.csv, scores.md and report.html in `folder`, made where it is missing; the Markdown table.

    Raises OutputError where they cannot be written.
    """
    lines = [markdown(report.rows, dict(report.source)), ""]
    missing = not_measured({row.measure for row in report.rows})
    lines += [f"not measured: {name} ({how})" for name, how in missing.items()]
    lines += [f"left out: {line}" for line in report.problems]
    text = "\n".join(lines)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "scores.json", report.rows, dict(report.source), {"videos": list(report.videos)})
        _write_table(folder / "scores.csv", report)
        (folder / "scores.md").write_text(f"{text}\n", "utf-8")
        (folder / "report.html").write_text(page(report), "utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return text


def _write_table(path: Path, report: Report) -> None:
    """A line for each case, with where it comes from; empty: not measured."""
    names = [name for name in BETTER if any(name in video.figures for video in report.videos)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        given = ("model", "config", "commit", "machine", "date")
        writer.writerow(["video", "category", "frames", *names, *given])
        for video in report.videos:
            values = (video.figures.get(name, math.nan) for name in names)
            category = "cross" if video.cross else "self"
            cells = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
            source = {**report.source, **video.source}
            writer.writerow([video.name, category, video.frames, *cells, *(source.get(name, "") for name in given)])
