"""What benchmarks/gpu.py says: the rows as a table, the checks, and each of issue 5's aims against its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
"""A line of the output file."""

Best = tuple[float, str]
"""A figure and the row that has it."""


@dataclass(frozen=True)
class Aim:
    """A figure that is wanted of one H200 at the official size; `find` takes it from the rows that did not fail."""

    what: str
    least: float | None
    most: float | None
    find: Callable[[list[Row]], Best | None]

    def line(self, rows: list[Row]) -> str:
        """A row of the table; nothing is met that was not measured."""
        bounds = [f"{self.least:g} or more"] if self.least is not None else []
        bounds += [f"{self.most:g} or less"] if self.most is not None else []
        wanted = ", ".join(bounds)
        found = self.find(rows)
        if found is None:
            return f"| {self.what} | {wanted} | not measured | | |"
        value, name = found
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        said = ("yes" if met else "**no**") if bounds else ""
        return f"| {self.what} | {wanted} | {value:.3g} | {name} | {said} |"


def report_of(rows: list[Row]) -> str:
    """Markdown: the paths, what the checks say, and the aims."""
    good = [row for row in rows if "failed" not in row]
    lines = [
        "| path | window | keyframes | frames/s | chunk ms | delay ms | window ms | decode ms "
        "| UNet share of matrix rate | peak GB | planned GB | error /255 | made, opened s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows if "failed" in row or "stages" in row),
        "",
        "| check | |",
        "|---|---|",
    ]
    for row in good:
        if "stages" not in row:
            values = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("note", "key"))
            lines.append(f"| {row['note']} | {values} |")
    lines += ["", "| aim | wanted | measured | by | met |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(aim.line(good) for aim in AIMS)])


def _line(row: Row) -> str:
    if "failed" in row:
        return f"| {row['note']} | | {row['keyframes']} | failed: {row['failed']} |" + " |" * 9
    peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}"
    made = f"{row['made_s']:.1f}, {row['opened_s']:.1f}" if "made_s" in row else ""
    return (
        f"| {row['note']} | {row['window']} | {row['keyframes']} | {row['frames_per_second']:.2f} "
        f"| {row['chunk_ms']:.1f} | {row['delay_ms']:.0f} | {row['stages']['window']:.1f} "
        f"| {row['stages']['decode']:.1f} | {100 * row['share']:.0f} % | {peak} | {row['planned_gb']:.2f} "
        f"| {row['error_255']:.3f} | {made} |"
    )


def _best(rows: Iterable[Row], figure: Callable[[Row], float], least: bool = False) -> Best | None:
    found = [(figure(row), str(row["key"])) for row in rows]
    return (min(found) if least else max(found)) if found else None


def _timed(rows: list[Row], low: bool, tiny: bool) -> list[Row]:
    """Rows of one window and one decoder, within the golden's error; the low-latency window has no keyframes."""
    return [
        row for row in rows
        if "stages" in row and ("low latency" in row["key"]) == low and ("tiny" in row["key"]) == tiny
        and "fp8" not in row["key"] and (low or row["keyframes"] == 3)
    ]  # fmt: skip


def _share(rows: list[Row]) -> Best | None:
    """The window's TFLOP/s against the rate of large bf16 products, whatever the row's own precision."""
    rates = [row["matrix_tflops"] for row in rows if row.get("dtype") == "bfloat16"]
    if not rates:
        return None
    return _best(
        _timed(rows, low=False, tiny=False),
        lambda row: 1e5 * row["tflop"]["window"] / row["stages"]["window"] / max(rates),
    )


def _check(rows: list[Row], name: str, figure: str, least: bool = False) -> Best | None:
    """The largest (or least) figure of the checks whose names begin so."""
    named = [row for row in rows if row["key"].startswith(name) and figure in row]
    return _best(named, lambda row: row[figure], least)


def _speed(low: bool, tiny: bool) -> Callable[[list[Row]], Best | None]:
    return lambda rows: _best(_timed(rows, low, tiny), lambda row: row["frames_per_second"])


def _delay(rows: list[Row]) -> Best | None:
    return _best(_timed(rows, low=True, tiny=False), lambda row: row["delay_ms"], least=True)


def _golden(rows: list[Row]) -> Best | None:
    return _check([row for row in rows if "fp16" in row["key"]], "golden", "mean")


AIMS = (
    Aim("frames/s, SD VAE, 3 keyframes", 45, None, _speed(low=False, tiny=False)),
    Aim("frames/s, tiny decoder, 3 keyframes", 60, None, _speed(low=False, tiny=True)),
    Aim("UNet, % of the bf16 matrix rate", 50, None, _share),
    Aim("first frame, warm start, s", None, 20, lambda r: _check(r, "warm start", "again_first_frame_s", least=True)),
    Aim("GB of the device, fp16, 3 keyframes", None, 8, lambda rows: _check(rows, "8 GB card", "device_gb")),
    Aim("growth over that run, MB", None, 16, lambda rows: _check(rows, "8 GB card", "grown_mb")),
    Aim("bytes changed by decoding beside", None, 0, lambda rows: _check(rows, "no race", "different_bytes")),
    Aim("largest mean error of fp16 paths on the golden, /255", None, 1, _golden),
    Aim("two levels of two frames: frames/s", None, None, _speed(low=True, tiny=False)),
    Aim("two levels of two frames: delay, ms", None, None, _delay),
)
"""Issue 5's, in its order."""
