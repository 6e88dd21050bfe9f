"""Other systems' scores beside those of this report: the same cases, measured by the same program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personalive.errors import InputError
from personalive.evaluation.report import Row

SPEED, TIMED_ON = "frames per second", "timed on"
"""Entries of a report's source where the system's speed is known."""


@dataclass(frozen=True)
class System:
    """What a system reached. means: by section and measure; speed: frames per second, None: not known."""

    name: str
    means: Mapping[tuple[str, str], float]
    speed: float | None
    timed_on: str


def system_of(rows: Sequence[Row], source: Mapping[str, str]) -> System:
    """The system that a report is about."""
    means = {(row.section, row.measure): row.estimate.mean for row in rows}
    return System(source["model"], means, _speed(means, source), source.get(TIMED_ON, source.get("machine", "")))


def read_system(path: Path, cases: Sequence[str]) -> System:
    """From another report's scores.json, made from cases of these names.

    Raises InputError for another kind of file, and for other cases: means over different videos do not compare.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        rows, source = content["rows"], content["source"]
        names = [video["name"] for video in content["cases"]["videos"]]
        means = {(row["section"], row["measure"]): _known(row["estimate"]["mean"]) for row in rows}
        timed_on = source.get(TIMED_ON, source.get("machine", ""))
        found = System(source["model"], means, _speed(means, source), timed_on)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name another report's scores.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a report's scores.json; name one that `personalive evaluate` wrote") from error
    if sorted(names) != sorted(cases):
        other = next(iter(sorted(set(names) ^ set(cases))), "?")
        raise InputError(f"{path} is about other cases (for one: {other}); measure both systems on the same")
    return found


def _speed(means: Mapping[tuple[str, str], float], source: Mapping[str, str]) -> float | None:
    """As measured with the outputs, or as stated for a system that was not run here."""
    measured = means.get(("speed", SPEED), math.nan)
    if not math.isnan(measured):
        return measured
    return None if SPEED not in source else float(source[SPEED])


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
