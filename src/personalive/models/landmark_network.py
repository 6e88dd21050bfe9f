"""The landmark network: a picture of a face -> where the head mesh's landmarks lie in it, and how sure that is."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import LandmarkConfig


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; `stride` 2 halves the side."""

    def __init__(self, narrow: int, wide: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(wide)
        self.second = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(wide)
        changed = stride != 1 or narrow != wide
        self.shortcut = nn.Conv2d(narrow, wide, 1, bias=False) if changed else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        x = F.avg_pool2d(x, 2) if self.stride == 2 else x
        return F.relu(y + self.shortcut(x))


class LandmarkNetwork(nn.Module):
    """An encoder to 1/32 of the side, a decoder to 1/4, one soft-argmax map a landmark (Wood et al. 2022 for dense
    landmarks with their uncertainty from synthetic faces alone)."""

    def __init__(self, config: LandmarkConfig) -> None:
        super().__init__()
        widths = config.channels
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.down = nn.ModuleList(
            nn.Sequential(_Residual(narrow, wide, 2), _Residual(wide, wide))
            for narrow, wide in itertools.pairwise(widths)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for narrow, wide in itertools.pairwise(widths[1:]))
        self.up = nn.ModuleList(_Residual(width, width) for width in widths[1:-1])
        self.maps = nn.Conv2d(widths[1], config.landmarks, 1)
        self.spread = nn.Linear(widths[-1], config.landmarks)
        self.config = config

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (N, 3, S, S) in [-1, 1] -> points (N, K, 2) in [-1, 1], x right, y down, and spreads (N, K) > 0.

        A spread is the expected distance of a point from the truth, in the same units.
        """
        x = self.stem(faces)
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        pooled = x.mean((2, 3))
        for level in reversed(range(len(self.up))):
            x = kept[level] + F.interpolate(self.narrow[level](x), scale_factor=2.0, mode="bilinear")
            x = self.up[level](x)
        maps = self.maps(x).float()
        share = maps.flatten(2).softmax(-1).view(maps.shape)  # (N, K, s, s)
        line = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) / maps.shape[-1] * 2 - 1
        # Sums, not products of matrices: these autocast would round to 8 bits.
        points = torch.stack([(share.sum(side) * line).sum(-1) for side in (2, 3)], dim=-1)
        return points, F.softplus(self.spread(pooled).float() - 3) + 1e-3
