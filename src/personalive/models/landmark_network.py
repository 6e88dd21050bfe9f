"""The landmark network: a picture of a face -> where the head mesh's landmarks lie in it, and how sure that is."""

from __future__ import annotations

import itertools
import math

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
        return locate(self.evidence(faces))

    def evidence(self, faces: Tensor) -> Tensor:
        """All that `locate` needs, in one tensor: (N, K, s * s + 1), the maps of s x s cells and, last, the spreads."""
        x = self.stem(faces)
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        pooled = x.mean((2, 3))
        for level in reversed(range(len(self.up))):
            x = kept[level] + F.interpolate(self.narrow[level](x), scale_factor=2.0, mode="bilinear")
            x = self.up[level](x)
        return torch.cat([self.maps(x).flatten(2), self.spread(pooled)[..., None]], dim=2)


def locate(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, K, 2) and spreads (N, K) from what a network sees, (N, K, s * s + 1): means of places on the maps."""
    side = math.isqrt(evidence.shape[2] - 1)
    share = evidence[..., :-1].float().softmax(-1).view(*evidence.shape[:2], side, side)  # (N, K, s, s)
    line = (torch.arange(side, device=evidence.device) + 0.5) / side * 2 - 1
    # Sums, not products of matrices: these autocast would round to 8 bits.
    points = torch.stack([(share.sum(across) * line).sum(-1) for across in (2, 3)], dim=-1)
    return points, F.softplus(evidence[..., -1].float() - 3) + 1e-3


class LandmarksElsewhere(nn.Module):
    """A landmark network whose convolutions another runtime computes; what is exact to a fraction of a pixel is not."""

    def __init__(self, network: LandmarkNetwork, evidence: nn.Module) -> None:
        super().__init__()
        self.network, self.config, self.evidence = network, network.config, evidence

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """See `LandmarkNetwork.forward`."""
        return locate(self.evidence(faces))
