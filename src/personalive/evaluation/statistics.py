"""How alike two series are, and how sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STILL = 1e-9
"""A series whose standard deviation is below this does not move: there is no correlation with it."""


def correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson's r of two series (F,), -1..1, higher is better; NaN where one of them stands still or F < 3."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two series of one length are expected, not {a.shape} and {b.shape}")
    if len(a) < 3 or a.std() < STILL or b.std() < STILL:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` independent cases (people, videos) with the bounds of its 95 % bootstrap interval.

    One case alone has no interval: low and high are NaN then.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(values: Sequence[float], draws: int = 2000, seed: int = 0) -> Estimate:
    """Percentile bootstrap (Efron 1979) of the mean: cases are drawn with replacement `draws` times.

    NaN values (nothing could be measured) are left out and `count` says how many remain; all NaN when none do.
    Frames of one video are not independent: give one value for each video.
    """
    known = np.array([value for value in values if not np.isnan(value)], np.float64)
    if not len(known):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if len(known) == 1:
        return Estimate(float(known[0]), float("nan"), float("nan"), 1)
    chosen = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    low, high = np.percentile(known[chosen].mean(1), [2.5, 97.5])
    return Estimate(float(known.mean()), float(low), float(high), len(known))
