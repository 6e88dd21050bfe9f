"""The motion encoder: a face crop -> motion tokens (docs/model.md, section 2.7).

A face-alignment network (FAN, arXiv 1703.07332) with three patch-attention blocks; its heat maps are not keypoints
here: one more convolution reads them, and two linear layers turn them into tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import MotionEncoderConfig
from personalive.errors import ConfigError
from personalive.models.patch_attention import PatchAttention


def token_embedding(tokens: int, width: int) -> Tensor:
    """Sin-cos embedding (1, tokens, width) of a token's place: a half of sines, then a half of cosines."""
    # The device is explicit so that the table has values even where a network is built on the meta device.
    places = torch.arange(tokens, dtype=torch.float64, device="cpu")
    rates = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2))
    phases = places[:, None] * rates  # (tokens, width / 2)
    return torch.cat([phases.sin(), phases.cos()], dim=1).float()[None]


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class ConvBlock(nn.Module):
    """FAN's block: three pre-activated convolutions, each reading the one before; their outputs are concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = _convolution(half, quarter)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = _convolution(quarter, quarter)
        self.downsample: nn.Module | None = None
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(nn.BatchNorm2d(inputs, eps=1e-4), nn.ReLU(), shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h, w)."""
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.cat([first, second, third], dim=1) + shortcut


class Hourglass(nn.Module):
    """FAN's hourglass: at each level a branch at full size and one at half size, which holds the next level."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        names = [f"b{branch}_{level}" for level in range(1, depth + 1) for branch in (1, 2, 3)]
        for name in [*names, "b2_plus_1"]:
            self.add_module(name, ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        return self._level(self.depth, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        """The hourglass from `level` down to 1, at the size of x."""
        up = self._block(f"b1_{level}", x)
        low = self._block(f"b2_{level}", F.max_pool2d(x, 2))
        low = self._level(level - 1, low) if level > 1 else self._block("b2_plus_1", low)
        low = self._block(f"b3_{level}", low)
        return up + F.interpolate(low, size=up.shape[-2:], mode="bilinear", align_corners=False)

    def _block(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(name)(x)
        return out


class FaceTrunk(nn.Module):
    """The face-alignment network up to one flat vector (the official file keeps it under `model.`)."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        first, second, wide = config.channels
        half = config.image_size // 2
        quarter = config.image_size // 4
        self.conv1 = nn.Conv2d(3, config.stem, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(config.stem)
        self.conv2 = ConvBlock(config.stem, first)
        self.conv3 = ConvBlock(first, second)
        self.conv4 = ConvBlock(second, wide)
        self.m0 = Hourglass(wide, config.hourglass_depth)
        self.top_m_0 = ConvBlock(wide, wide)
        self.conv_last0 = nn.Conv2d(wide, wide, 1)
        self.bn_end0 = nn.BatchNorm2d(wide)
        self.l0 = nn.Conv2d(wide, config.heatmaps, 1)
        self.bn5 = nn.BatchNorm2d(config.heatmaps)
        self.conv6 = nn.Conv2d(config.heatmaps, config.readouts, 3, stride=2, padding=1)
        self.fc = nn.Linear(config.readouts * (config.image_size // 8) ** 2, config.tokens * config.token_dim)
        self.att_1 = _attention(config, first, half, config.attention_patches[0])
        self.att_2 = _attention(config, wide, quarter, config.attention_patches[1])
        self.att_3 = _attention(config, wide, quarter, config.attention_patches[2])

    def forward(self, faces: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, tokens * token_dim). Sides of the maps: S/2, then S/4, then S/8."""
        x = F.relu(self.bn1(self.conv1(faces)))
        x = self.att_1(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.att_2(self.conv4(self.conv3(x)))
        x = self.bn_end0(self.conv_last0(self.top_m_0(self.m0(x))))
        x = F.relu(self.att_3(x))
        heatmaps = F.relu(self.bn5(self.l0(x)))  # (N, heatmaps, S/4, S/4)
        read = F.relu(self.conv6(heatmaps))  # (N, readouts, S/8, S/8)
        out: Tensor = self.fc(read.flatten(1))
        return out


class MotionEncoder(nn.Module):
    """Face crops -> motion tokens. Loads `motion_encoder.pth` unchanged."""

    pe: Tensor

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.tokens * config.token_dim
        self.model = FaceTrunk(config)
        self.final_proj = nn.Linear(width, width)
        self.register_buffer("pe", token_embedding(config.tokens, config.token_dim))

    def forward(self, faces: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1], S = config.image_size -> (N, tokens, token_dim).

        Raises:
            ConfigError: the faces have another size.
        """
        side = self.config.image_size
        if faces.shape[-2:] != (side, side):
            height, width = faces.shape[-2:]
            raise ConfigError(f"motion encoder: faces of {side}x{side} are expected, not {width}x{height}")
        flat = self.final_proj(self.model(faces))
        tokens: Tensor = flat.unflatten(-1, (self.config.tokens, self.config.token_dim))  # (N, tokens, token_dim)
        return tokens + self.pe


def _attention(config: MotionEncoderConfig, channels: int, side: int, patch: int) -> PatchAttention:
    """A patch-attention block of the config's width on a map of `channels` and `side`."""
    return PatchAttention(
        channels,
        side,
        patch,
        width=config.attention_dim,
        heads=config.attention_heads,
        head_dim=config.attention_head_dim,
        factor=config.feed_forward,
        groups=config.norm_groups,
    )
