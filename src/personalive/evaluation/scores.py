"""The scores of many videos, summed up and written: JSON, CSV, Markdown, HTML."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from personalive.errors import OutputError
from personalive.evaluation.folders import ALWAYS, CROSS, SELF, VideoFigures
from personalive.evaluation.page import page
from personalive.evaluation.report import Row, markdown, provenance, write_json
from personalive.evaluation.statistics import estimate
from personalive.media.frames import Pixels


def summarise(videos: Sequence[VideoFigures], cross: bool) -> list[Row]:
    """A row for each measure over the videos; a video in which it was not measured does not count."""
    measures = {**({} if cross else SELF), **(CROSS if cross else {}), **ALWAYS}
    return [
        Row("all", name, estimate([video.figures.get(name, math.nan) for video in videos]), higher=better is not False)
        for name, better in measures.items()
    ]


def write_report(
    folder: Path,
    system: str,
    rows: Sequence[Row],
    videos: Sequence[VideoFigures],
    strips: Mapping[str, Pixels],
    problems: Sequence[str],
) -> str:
    """scores.json, scores.csv, scores.md and report.html in `folder`, made where it is missing; the Markdown table.

    Raises OutputError where they cannot be written.
    """
    source = provenance(system)
    table = markdown(rows, source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "scores.json", rows, source, {"videos": list(videos)})
        with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "frames", *(row.measure for row in rows)])
            for video in videos:
                values = (video.figures.get(row.measure, math.nan) for row in rows)
                writer.writerow([video.name, video.frames, *("" if math.isnan(v) else f"{v:.6g}" for v in values)])
        left_out = "".join(f"\nleft out: {line}" for line in problems)
        (folder / "scores.md").write_text(f"{table}\n{left_out}\n", "utf-8")
        (folder / "report.html").write_text(page(rows, videos, strips, problems, source), "utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return table
