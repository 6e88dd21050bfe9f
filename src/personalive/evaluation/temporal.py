"""How a video changes from frame to frame, beside how the true video (or the driver) does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from personalive.evaluation.metrics import pyramid_distance
from personalive.media.frames import Pixels, resize_to, to_unit

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Pictures (N, 3, H, W) in [0, 1] twice -> how far apart each pair is (N,); LPIPS, or `metrics.pyramid_distance`."""


@dataclass(frozen=True)
class TemporalFigures:
    """See `compare`. Error: lower is better, 0 at best; ratios: 1 is the true video's, more is restless, less is dull.

    error: mean of |D(g_t, g_t+1) - D(d_t, d_t+1)|, the form of TecoGAN's tLP; called tLP only with LPIPS as D.
    change_ratio: mean D(g_t, g_t+1) over mean D(d_t, d_t+1). flicker_ratio: mean |g_t-1 - 2 g_t + g_t+1| over the
    same of d: steady motion hardly counts, jitter does.
    """

    error: float
    change_ratio: float
    flicker_ratio: float


class TemporalMeter:
    """Takes both videos frame by frame and remembers numbers only, so that a stream may be of any length."""

    def __init__(self, distance: Distance = pyramid_distance) -> None:
        self._distance = distance
        self._frames: list[tuple[Tensor, Tensor]] = []  # the latest two
        self.moved: list[tuple[float, float]] = []
        """How far each frame is from the one before it, in the generated and in the true video."""
        self._sums = np.zeros(4)  # change of g and d, bend of g and d

    @torch.inference_mode()
    def add(self, generated: Pixels, true: Pixels) -> None:
        """One frame (H, W, 3) of each, of one size."""
        if generated.shape != true.shape:
            raise ValueError(f"frames of one size are expected, not {generated.shape} and {true.shape}")
        self._frames = [*self._frames[-2:], (to_unit(generated), to_unit(true))]
        if len(self._frames) < 2:
            return
        moved = [float(self._distance(before, now)) for before, now in zip(*self._frames[-2:], strict=True)]
        self.moved.append((moved[0], moved[1]))
        self._sums[:2] += moved
        if len(self._frames) == 3:
            self._sums[2:] += [float((a - 2 * b + c).abs().mean()) for a, b, c in zip(*self._frames, strict=True)]

    def figures(self) -> TemporalFigures:
        """So far. NaN for fewer than three frames, and for ratios to a video that does not change."""
        if len(self.moved) < 2:
            return TemporalFigures(float("nan"), float("nan"), float("nan"))
        change, true_change, bend, true_bend = (float(value) for value in self._sums)
        error = float(np.mean([abs(made - true) for made, true in self.moved]))
        return TemporalFigures(error, _ratio(change, true_change), _ratio(bend, true_bend))


def compare(generated: Pixels, true: Pixels, distance: Distance = pyramid_distance) -> TemporalFigures:
    """Both videos (F, H, W, 3) at once."""
    meter = TemporalMeter(distance)
    for pair in zip(generated, true, strict=True):
        meter.add(*pair)
    return meter.figures()


def at_one_size(generated: Pixels, true: Pixels) -> tuple[Pixels, Pixels]:
    """Two frames (H, W, 3) of one shape, the larger one made as small as the other."""
    height, width = min(generated.shape[:2], true.shape[:2])
    return resize_to(generated, height, width), resize_to(true, height, width)


def ping_pong(frames: int, length: int) -> NDArray[np.int64]:
    """Indices (length,) that go through `frames` frames to and fro, without a jump: 0 1 2 2 1 0 0 1 ..."""
    place = np.arange(length) % (2 * frames)
    return np.asarray(np.minimum(place, 2 * frames - 1 - place))


def _ratio(value: float, of: float) -> float:
    return value / of if of > 1e-12 else float("nan")
