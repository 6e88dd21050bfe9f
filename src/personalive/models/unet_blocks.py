"""The UNet's skeleton, shared by the reference and the denoising UNet: Stable Diffusion 1.5's blocks (model.md 5.1).

Frames are folded into the batch: every layer sees N = B*F pictures (N, W, h, w). Names are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from personalive.config import UNetConfig
from personalive.models.attention import SharedKeyValues, SpatialTransformer
from personalive.models.temporal import MotionModule, TemporalModule


@dataclass(frozen=True)
class Conditions:
    """Everything that the layers of one pass see beside the picture.

    time (N, time_dim), or (1, time_dim) for all: the time embedding after its SiLU; image_token (B, 1, D);
    motion (N, T, D) and frames F: the denoising UNet's; temporal: whether temporal modules run; shared: keys and values
    for each transformer block in execution order, empty in the reference UNet; stop_at: the transformer block after
    whose reference feature nothing more is needed; checkpointing: see `through`.
    """

    time: Tensor
    image_token: Tensor
    motion: Tensor | None = None
    frames: int = 1
    temporal: bool = False
    chunk_frames: int | None = None
    shared: tuple[SharedKeyValues, ...] = ()
    stop_at: int | None = None
    checkpointing: bool = False

    def through(self, layer: nn.Module, *inputs: Any) -> Any:
        """A layer's output; with `checkpointing` its activations are forgotten until the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class TimestepEmbedding(nn.Module):
    """Timesteps (K,) -> (K, 4 * width): cos then sin of t * 10000^(-i / (width / 2)), linear, SiLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timesteps: Tensor) -> Tensor:
        """(K,) -> (K, 4 * width). The angles are computed in float32 whatever the weights' type."""
        half = self.width // 2
        exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(10000.0) / half)
        angle = timesteps.float()[:, None] * exponent.exp()  # (K, width / 2)
        waves = torch.cat([angle.cos(), angle.sin()], dim=1).to(self.linear_1.weight.dtype)
        embedding: Tensor = self.linear_2(functional.silu(self.linear_1(waves)))
        return embedding


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions after group norm and SiLU, the time embedding added between them, residual."""

    def __init__(self, in_width: int, width: int, time_dim: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_width, eps=1e-5)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, width)
        self.norm2 = nn.GroupNorm(norm_groups, width, eps=1e-5)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_width, width, 1) if in_width != width else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Pictures (N, in_width, h, w), time (N or 1, time_dim) after its SiLU -> (N, width, h, w)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(functional.silu(self.norm2(h)))
        shortcut: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        result: Tensor = shortcut + h
        return result


class Downsample(nn.Module):
    """Half the side by a strided 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, h, w) -> (N, W, h/2, w/2)."""
        result: Tensor = self.conv(x)
        return result


class Upsample(nn.Module):
    """Twice the side by nearest neighbours, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, h, w) -> (N, W, 2h, 2w)."""
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


@dataclass(frozen=True)
class Parts:
    """Which modules follow a block's resnets, and the index of its first transformer block in execution order."""

    attention: bool
    motion: bool
    temporal: bool
    first_attention: int


class _Layers(nn.Module):
    """The modules of one resolution: per layer resnet, spatial transformer, motion module, temporal module."""

    def __init__(self, config: UNetConfig, widths: list[int], width: int, places: int, parts: Parts) -> None:
        """`widths`: input width of each resnet; `places`: how many times the other modules stand."""
        super().__init__()
        self.first_attention = parts.first_attention
        time_dim, ff, groups, heads = 4 * config.channels[0], config.feed_forward, config.norm_groups, config.heads
        self.attentions = nn.ModuleList(
            SpatialTransformer(width, heads, config.image_token_dim, ff, groups)
            for _ in range(places if parts.attention else 0)
        )
        self.resnets = nn.ModuleList(ResnetBlock(w, width, time_dim, groups) for w in widths)
        self.motion_modules = nn.ModuleList(
            MotionModule(width, heads, config.motion_dim, ff, groups) for _ in range(places if parts.motion else 0)
        )
        self.temporal_modules = nn.ModuleList(
            TemporalModule(width, heads, config.max_frames, ff, groups) for _ in range(places if parts.temporal else 0)
        )

    def see(self, place: int, x: Tensor, conditions: Conditions, features: list[Tensor]) -> Tensor:
        """What follows a resnet: adds the transformer's reference feature, if it has one, to `features`."""
        if self.attentions:
            index, attention = self.first_attention + place, self.attentions[place]
            assert isinstance(attention, SpatialTransformer)
            if index == conditions.stop_at:
                features.append(attention.feature(x))
                return x
            shared = conditions.shared[index] if conditions.shared else None
            x, feature = conditions.through(attention, x, conditions.image_token, shared)
            features.append(feature)
        if self.motion_modules:
            x = conditions.through(self.motion_modules[place], x, conditions.motion)
        if self.temporal_modules and conditions.temporal:
            x = conditions.through(self.temporal_modules[place], x, conditions.frames, conditions.chunk_frames)
        return x


class DownBlock(_Layers):
    """Layers, then a downsampler except at the last level. Leaves each layer's output among the skips."""

    def __init__(self, config: UNetConfig, in_width: int, width: int, parts: Parts, last: bool) -> None:
        super().__init__(config, [in_width] + [width] * (config.layers - 1), width, config.layers, parts)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width)])

    def forward(self, x: Tensor, skips: list[Tensor], conditions: Conditions, features: list[Tensor]) -> Tensor:
        """(N, in_width, h, w) -> (N, width, h/2, w/2); appends to `skips` and `features`."""
        for place, resnet in enumerate(self.resnets):
            x = self.see(place, conditions.through(resnet, x, conditions.time), conditions, features)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = downsampler(x)
            skips.append(x)
        return x


class MiddleBlock(_Layers):
    """Resnet, then transformer, motion, temporal, resnet."""

    def __init__(self, config: UNetConfig, parts: Parts) -> None:
        width = config.channels[-1]
        super().__init__(config, [width, width], width, 1, parts)

    def forward(self, x: Tensor, conditions: Conditions, features: list[Tensor]) -> Tensor:
        """(N, W, h, w) -> the same; appends to `features`."""
        x = self.see(0, conditions.through(self.resnets[0], x, conditions.time), conditions, features)
        result: Tensor = conditions.through(self.resnets[1], x, conditions.time)
        return result


class UpBlock(_Layers):
    """Layers that each take a skip, then an upsampler except at the finest level."""

    def __init__(self, config: UNetConfig, widths: list[int], width: int, parts: Parts, last: bool) -> None:
        super().__init__(config, widths, width, config.layers + 1, parts)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor, skips: list[Tensor], conditions: Conditions, features: list[Tensor]) -> Tensor:
        """(N, W, h, w) -> (N, width, 2h, 2w); takes from `skips`, appends to `features`."""
        for place, resnet in enumerate(self.resnets):
            joined = torch.cat([x, skips.pop()], dim=1)
            x = self.see(place, conditions.through(resnet, joined, conditions.time), conditions, features)
            if conditions.stop_at == self.first_attention + place and self.attentions:
                return x
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class UNetTrunk(nn.Module):
    """conv_in, time embedding, down, middle and up blocks: what the two UNets have in common.

    `framewise`: with motion and temporal modules (the denoising UNet).
    """

    def __init__(self, config: UNetConfig, framewise: bool) -> None:
        super().__init__()
        self.config = config
        channels, levels = config.channels, len(config.channels)
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0])
        self.attention_count = 0
        self.checkpointing = False  # training: forget a layer's activations, compute them again when they are needed
        self.down_blocks = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            parts = self._parts(level, framewise, config.layers)
            self.down_blocks.append(
                DownBlock(config, channels[max(level - 1, 0)], width, parts, last=level == levels - 1)
            )
        middle = MiddleBlock(config, self._parts(None, framewise, 1))
        for level in reversed(range(levels)):
            parts = self._parts(level, framewise, config.layers + 1)
            self.up_blocks.append(UpBlock(config, _up_widths(config, level), channels[level], parts, last=level == 0))
        self.mid_block = middle  # registered here: the published order of names

    def _parts(self, level: int | None, framewise: bool, places: int) -> Parts:
        """The parts of a level's block, or of the middle block (None); counts transformer blocks as they come."""
        config, first = self.config, self.attention_count
        attention = level is None or config.attention_levels[level]
        motion = framewise and (level is None or config.motion_levels[level])
        temporal = framewise and (config.temporal_middle if level is None else config.temporal_levels[level])
        self.attention_count += places if attention else 0
        return Parts(attention, motion, temporal, first)

    def transformers(self) -> list[SpatialTransformer]:
        """The spatial transformers in execution order."""
        found = []
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            assert isinstance(block, _Layers)
            found += [attention for attention in block.attentions if isinstance(attention, SpatialTransformer)]
        return found

    def run(self, x: Tensor, conditions: Conditions) -> tuple[Tensor, tuple[Tensor, ...]]:
        """After conv_in (N, channels[0], h, w) -> output of the last up block, and each block's reference feature.

        With `conditions.stop_at` the pass ends there and the first value is of no use.
        """
        if self.checkpointing:
            conditions = replace(conditions, checkpointing=True)
        # Channels last: pictures become tokens and back as views, without a copy.
        x = x.contiguous(memory_format=torch.channels_last)
        skips = [x]
        features: list[Tensor] = []  # not list[Tensor](), which torch.compile cannot take whole
        for block in self.down_blocks:
            x = block(x, skips, conditions, features)
        x = self.mid_block(x, conditions, features)
        for block in self.up_blocks:
            if conditions.stop_at is not None and len(features) > conditions.stop_at:
                break
            x = block(x, skips, conditions, features)
        return x, tuple(features)


def _up_widths(config: UNetConfig, level: int) -> list[int]:
    """Input widths of the resnets of the up block at `level`: what comes from below or before, plus its skip."""
    channels = config.channels
    width, below, above = channels[level], channels[min(level + 1, len(channels) - 1)], channels[max(level - 1, 0)]
    before = [below] + [width] * config.layers
    skips = [width] * config.layers + [above]
    return [b + s for b, s in zip(before, skips, strict=True)]
