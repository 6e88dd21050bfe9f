"""A small picture-to-picture network: folds pixels into channels, goes down, comes up with shortcuts, unfolds."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F


class _Residual(nn.Module):
    """x plus two 3x3 convolutions of it; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        _start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + y


def _start_at_zero(layer: nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class CompactUNet(nn.Module):
    """Levels of `channels`, the first at 1/fold of the side, each further one at half of it. Starts with output 0."""

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...], fold: int = 2) -> None:
        super().__init__()
        self.fold = fold
        self.stem = nn.Conv2d(inputs * fold**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Residual(width) for width in channels)
        self.narrow = nn.ModuleList(nn.Conv2d(near, far, 2, stride=2) for near, far in itertools.pairwise(channels))
        self.widen = nn.ModuleList(nn.Conv2d(far, near, 1) for near, far in itertools.pairwise(channels))
        self.up = nn.ModuleList(_Residual(width) for width in channels[:-1])
        self.last = nn.Conv2d(channels[0], outputs * fold**2, 3, padding=1)
        _start_at_zero(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W); H and W multiples of fold * 2^(levels - 1)."""
        x = self.down[0](self.stem(F.pixel_unshuffle(x, self.fold)))
        kept = []
        for narrow, block in zip(self.narrow, list(self.down)[1:], strict=True):
            kept.append(x)
            x = block(narrow(x))
        for widen, block, near in zip(reversed(self.widen), reversed(self.up), reversed(kept), strict=True):
            x = block(near + F.interpolate(widen(x), scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.last(F.silu(x)), self.fold)
