"""The pose guider: the keypoint drawing -> pose features at 1/8 of its side (docs/model.md, section 2.5)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import PoseGuiderConfig


class PoseGuider(nn.Module):
    """3x3 convolutions with SiLU, three of them of stride 2. Loads `pose_guider.pth` unchanged."""

    def __init__(self, config: PoseGuiderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in pairwise(channels):
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=2))
        self.conv_out_modify = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)
        if config.position:
            self.position = nn.Parameter(0.4 * _places(config.out_channels, config.position))
        self.config = config

    def forward(self, drawing: Tensor) -> Tensor:
        """(N, in_channels, H, W), the drawing in [0, 1] -> (N, out_channels, H/8, W/8)."""
        x = F.silu(self.conv_in(drawing))
        for block in self.blocks:
            x = F.silu(block(x))
        features: Tensor = self.conv_out_modify(x)
        if not self.config.position:
            return features
        places = self.position[None]
        if features.shape[-2:] != places.shape[-2:]:  # another picture size than the model's own
            places = F.interpolate(places, size=features.shape[-2:], mode="bilinear", align_corners=False)
        return features + places


def _places(channels: int, side: int) -> Tensor:
    """Sines and cosines of the vertical, then of the horizontal place: (channels, side, side), channels = 4k."""
    place = (torch.arange(side) + 0.5) / side
    angles = place[:, None] * torch.pi * torch.arange(1, channels // 4 + 1)  # (side, channels / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1).T  # (channels / 2, side)
    down = waves[:, :, None].expand(-1, -1, side)
    across = waves[:, None, :].expand(-1, side, -1)
    return torch.cat([down, across])
