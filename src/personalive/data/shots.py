"""Where a video's camera cuts: one picture at a time, by how much it differs from the one before."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from personalive.media.frames import Pixels


@dataclass(frozen=True)
class CutConfig:
    """A cut is a change that is large, changes the colours too, and stands out from the changes just before."""

    thumbnail: int = 32
    """Side in pixels to which pictures are brought, so that noise and small movements do not count."""

    difference: float = 0.08
    """Mean absolute difference of two thumbnails, of 1."""

    histogram: float = 0.20
    """Share of the pixels that a colour channel's histogram (16 bins) has elsewhere, mean over the channels."""

    standing_out: float = 4.0
    """Times the median difference of the last `memory` pictures: a swaying camera makes no cuts."""

    memory: int = 12


class CutDetector:
    """Hard cuts (and flashes) of one video. A slow dissolve passes unseen."""

    def __init__(self, config: CutConfig | None = None) -> None:
        self._config = config or CutConfig()
        self._last: NDArray[np.uint8] | None = None
        self._differences: deque[float] = deque(maxlen=self._config.memory)

    def is_cut(self, picture: Pixels) -> bool:
        """Takes the next picture (H, W, 3); True where another shot begins with it, never for the first."""
        config, last = self._config, self._last
        small = cv2.resize(picture, (config.thumbnail, config.thumbnail), interpolation=cv2.INTER_AREA)
        self._last = np.asarray(small, np.uint8)
        if last is None:
            return False
        difference = float(np.abs(self._last.astype(np.float32) - last).mean()) / 255
        usual = statistics.median(self._differences) if self._differences else 0.0
        self._differences.append(difference)
        if difference < config.difference or difference < config.standing_out * usual:
            return False
        if _moved_share(self._last, last) < config.histogram:
            return False
        self._differences.clear()  # what was usual in the old shot says nothing about the new one
        return True


def _moved_share(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Half the L1 distance of the channels' histograms, mean over the channels: 0 the same colours, 1 none shared."""
    shares = []
    for channel in range(3):
        counts = [np.bincount(picture[..., channel].ravel() // 16, minlength=16) for picture in (one, other)]
        shares.append(np.abs(counts[0] - counts[1]).sum() / 2 / counts[0].sum())
    return float(np.mean(shares))
