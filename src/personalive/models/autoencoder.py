"""The autoencoder: pictures <-> latents at 1/8 of their side. The only place that knows the latent scale.

The published system uses Stable Diffusion's (sd-vae-ft-mse), and so do we, through diffusers' AutoencoderKL; small
models use the same class with fewer channels, behind a folding of patch x patch pixels into channels.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import AutoencoderConfig
from personalive.errors import ConfigError


class Autoencoder(nn.Module):
    """diffusers' AutoencoderKL in `model`, whose official keys load into it unchanged. The mean, never a sample."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.channels)
        folded = 3 * config.patch**2
        self.model: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
            in_channels=folded,
            out_channels=folded,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.middle_attention,
        )
        if config.linear_path:
            cell = config.downscale
            self.linear_in = nn.Conv2d(3, config.latent_channels, cell, stride=cell)
            self.linear_out = nn.ConvTranspose2d(config.latent_channels, 3, cell, stride=cell)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, C, H/8, W/8): the posterior's mean, scaled.

        Raises:
            ConfigError: H or W is not a multiple of the downscale.
        """
        _, _, height, width = images.shape
        step = self.config.downscale
        if height % step or width % step:
            raise ConfigError(f"autoencoder: a picture of {width}x{height} is not a multiple of {step} pixels")
        folded = F.pixel_unshuffle(images, self.config.patch)  # (N, 3 * patch^2, H/patch, W/patch)
        mean: Tensor = self.model.encode(folded).latent_dist.mean
        if self.config.linear_path:
            mean = mean + self.linear_in(images)
        return mean * self.config.scaling_factor

    def decode_signed(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) scaled latents -> (N, 3, 8h, 8w), about [-1, 1], not clamped: for training."""
        latents = latents / self.config.scaling_factor
        folded: Tensor = self.model.decode(latents).sample
        images = F.pixel_shuffle(folded, self.config.patch)  # (N, 3, H, W)
        return images + self.linear_out(latents) if self.config.linear_path else images

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) scaled latents -> (N, 3, 8h, 8w) in [0, 1]."""
        return (self.decode_signed(latents) / 2 + 0.5).clamp(0, 1)
