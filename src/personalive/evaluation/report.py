"""Figures as rows with their interval and goal, written as JSON and Markdown, with where they come from."""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from personalive import contracts
from personalive.evaluation.measures import SAME_PERSON, STRANGERS
from personalive.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Row:
    """One figure: where it belongs, what it is, its mean over cases with interval, and what was asked.

    goal None: nothing was asked. higher: whether more is better.
    """

    section: str
    measure: str
    estimate: Estimate
    goal: float | None = None
    higher: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the mean reaches the goal; None where there is no goal or nothing was measured."""
        if self.goal is None or math.isnan(self.estimate.mean):
            return None
        return self.estimate.mean >= self.goal if self.higher else self.estimate.mean <= self.goal


def provenance(model: str, config: str = "not stated") -> dict[str, str]:
    """What every figure has to say about itself: model, config, commit, machine, torch and date."""
    return {
        "model": model,
        "config": config,
        "commit": _commit(),
        "machine": _machine(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _machine() -> str:
    """Device, threads, and how busy it is: a speed that was measured beside other work says so."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores{busy}, {platform.system()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, f"{platform.machine()} CPU")


@functools.cache
def _commit() -> str:
    root = Path(contracts.__file__).parents[2]
    if not (root / ".git").exists():
        return "installed, no repository"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def markdown(rows: Sequence[Row], source: dict[str, str]) -> str:
    """Return a table with a line for each row; "not measured" where there is no number.

    What a cosine of identity is held against stands in columns beside it.
    """
    asked = any(row.goal is not None for row in rows)
    scale = {(row.section, row.measure): row for row in rows if row.measure.endswith(SCALE)}
    head = ["", "measure", "mean", "95 %", "cases", *[end[2:] for end in SCALE] * bool(scale)]
    head += ["asked", "reached"] * asked
    lines = [", ".join(f"{name}: {value}" for name, value in source.items()), "", f"| {' | '.join(head)} |"]
    lines.append("|---" * len(head) + "|")
    for row in (row for row in rows if not row.measure.endswith(SCALE)):
        e = row.estimate
        goal = "" if row.goal is None else f"{'>=' if row.higher else '<='} {row.goal:g}"
        met = {None: "", True: "yes", False: "no"}[row.met]
        interval = f"{e.low:.4f} .. {e.high:.4f}" if e.count > 1 else ""
        number = f"{e.mean:.4f} | {interval}" if e.count else "not measured | "
        beside = "".join(f" {_mean_of(scale.get((row.section, row.measure + end)))} |" for end in SCALE if scale)
        lines.append(f"| {row.section} | {row.measure} | {number} | {e.count} |{beside}" + f" {goal} | {met} |" * asked)
    return "\n".join(lines)


SCALE = (SAME_PERSON, STRANGERS)


def _mean_of(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.estimate.mean:.4f}" if row.estimate.count else "not measured"


def write_json(path: Path, rows: Iterable[Row], source: dict[str, str], cases: dict[str, list[Any]]) -> None:
    """Rows, source, and every single case (dataclasses) behind them. What was not measured is null, never a number."""
    content = {
        "source": source,
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        "cases": {section: [asdict(case) for case in some] for section, some in cases.items()},
    }
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(_without_nan(content), indent=1), "utf-8")
    partial.replace(path)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
