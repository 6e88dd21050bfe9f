"""A tiny decoder for Stable Diffusion's latents: TAESD's published architecture, some 1.2 M parameters of convolutions.

Source: github.com/madebyollin/taesd (MIT): residual blocks of three 3x3 convolutions, with nearest-neighbour upsampling
in between. Entries are named as in the decoder of diffusers' AutoencoderTiny.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from personalive.config import AutoencoderConfig

WIDTH = 64
LATENT_CHANNELS = 4
BLOCKS = (3, 3, 3, 1)
"""Residual blocks at 1/8, 1/4, 1/2 and the whole of the picture's side."""

LIMIT = 3.0
"""Latents are bent into this range first, by a tanh."""


class _Block(nn.Module):
    """Three convolutions and a residual: (N, W, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x)


class TinyDecoder(nn.Module):
    """The denoiser's latents to pictures, with an eighteenth of the operations of the autoencoder's own decoder."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1), nn.ReLU()]
        for level, blocks in enumerate(BLOCKS):
            layers += [_Block(WIDTH) for _ in range(blocks)]
            if level < len(BLOCKS) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3, 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """(N, 4, h, w) scaled latents -> (N, 3, 8h, 8w) in [0, 1]."""
        images: Tensor = self.layers(torch.tanh(latents / LIMIT) * LIMIT)
        return images.clamp(0, 1)


def understands(config: AutoencoderConfig) -> bool:
    """Whether an autoencoder's latents are of the tiny decoder's kind, as far as sizes and scale tell."""
    upscale = 2 ** (len(BLOCKS) - 1)
    return (config.latent_channels, config.downscale, config.scaling_factor) == (LATENT_CHANNELS, upscale, 0.18215)
