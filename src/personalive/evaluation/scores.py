"""The scores of many cases, summed up and written: JSON, CSV, Markdown, HTML."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from personalive.errors import OutputError
from personalive.evaluation.frechet import frechet_distance
from personalive.evaluation.measures import BETTER, not_measured
from personalive.evaluation.page import Report, page
from personalive.evaluation.report import Row, markdown, write_json
from personalive.evaluation.score import Scored
from personalive.evaluation.statistics import Estimate, estimate


def summarise(cases: Sequence[Scored]) -> list[Row]:
    """A row for each measure over the self cases, then over the crossed ones, which are never averaged together.

    A video in which a measure could not be taken does not count. FVD is of all clips of a section: its `count` is that
    of the clips, and it has no interval, because drawing clips anew makes it larger.
    """
    rows = []
    for section, cross in (("self", False), ("cross", True)):
        some = [case for case in cases if case.figures.cross == cross]
        taken = {name for case in some for name in case.figures.figures}
        for name, better in BETTER.items():
            if name in taken:
                values = [case.figures.figures.get(name, math.nan) for case in some]
                rows.append(Row(section, name, estimate(values), higher=better is not False))
        made, true = (
            (np.concatenate(side) for side in zip(*(_features(some)), strict=True)) if _features(some) else _NONE
        )
        if len(made):
            distance = frechet_distance(made, true)
            rows.append(Row(section, "FVD", Estimate(distance, math.nan, math.nan, len(made)), higher=False))
    return rows


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
    """A line for each case; empty: not measured."""
    names = [name for name in BETTER if any(name in video.figures for video in report.videos)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "category", "frames", *names])
        for video in report.videos:
            values = (video.figures.get(name, math.nan) for name in names)
            category = "cross" if video.cross else "self"
            writer.writerow(
                [video.name, category, video.frames, *("" if math.isnan(v) else f"{v:.6g}" for v in values)]
            )
