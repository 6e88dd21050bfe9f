"""Training the autoencoder: pixels -> latents of unit variance -> pixels.

First encoder and decoder together, with noise on the latents so that the decoder forgives the denoiser; then the
decoder alone on frozen latents, which is where detail comes from at little cost. Latents are whitened by running
statistics while training; `fold_whitening` writes them into the encoder's last 1x1 convolution.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion
from personalive.models.autoencoder import Autoencoder
from personalive.training import augment
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.losses import pixel_loss, region_weights
from personalive.training.recipe import AutoencoderRecipe
from personalive.training.sheet import strip


class AutoencoderStage:
    """See the module's text. Learns `autoencoder`."""

    name = "autoencoder"

    def __init__(
        self,
        config: ModelConfig,
        recipe: AutoencoderRecipe,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        self.device = device or torch.device("cpu")
        self.train, self.held_out = train, held_out
        self.autoencoder = Autoencoder(config.autoencoder).train()
        if config.autoencoder.linear_path:
            sample = train.images[:: max(1, train.people // 100), ::7].flatten(0, 1)
            start_from_patches(self.autoencoder, sample.float() / 127.5 - 1)
        self.whitening = nn.BatchNorm2d(config.autoencoder.latent_channels, affine=False, momentum=0.02)
        self.autoencoder.to(self.device), self.whitening.to(self.device)

    def modules(self) -> Mapping[str, nn.Module]:
        """The autoencoder and the running statistics of its latents."""
        return {"autoencoder": self.autoencoder, "whitening": self.whitening}

    def learns(self, name: str) -> bool:
        """All but the linear path: moving under the network, it kept the network from learning at all."""
        return ".linear_" not in name

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        """One batch: reconstruction in pixels and gradients, eyes and mouth weighted."""
        images, landmarks = (tensor.to(self.device) for tensor in self._batch(rng))
        joint = step < self.recipe.joint * self.optimisation.steps
        with torch.set_grad_enabled(joint):
            raw = self.autoencoder.encode(images * 2 - 1)
            if joint:  # follow the statistics, but never divide by a small batch's own: that loses colour
                self.whitening.train()(raw.detach())
            latents = self.whitening.eval()(raw)
        noisy = latents + self.recipe.latent_noise * torch.randn_like(latents)
        output = self.autoencoder.decode_signed(noisy)
        weight = region_weights(landmarks, images.shape[-1], self.recipe.face_weight, face=0.5, rest=1.0)
        yield {"loss": pixel_loss(output, images * 2 - 1, weight)}

    def _batch(self, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] and landmarks (N, 68, 2), moved and recoloured."""
        n = self.optimisation.batch
        person = torch.tensor([rng.randrange(self.train.people) for _ in range(n)])
        frame = torch.tensor([rng.randrange(self.train.frames) for _ in range(n)])
        images = self.train.images[person, frame].float() / 255
        landmarks = self.train.landmarks[person, frame]
        if rng.random() < 0.5:
            images, landmarks = images.flip(-1), landmarks * torch.tensor([-1.0, 1.0])
        if rng.random() < 0.15:
            images = augment.colour(images)
        if rng.random() < 0.25:  # an affine move sees landmarks as keypoints of a flat, unturned head
            flat = HeadMotion(
                torch.nn.functional.pad(landmarks, (0, 1)), torch.zeros(n, 3), torch.zeros(n, 3), torch.ones(n, 1)
            )
            images, moved = augment.affine(images, flat)
            landmarks = augment.posed(moved)
        return images, landmarks

    def validate(self) -> dict[str, float]:
        """L1 (0..1) and PSNR (dB) of the reconstruction on people held out."""
        errors, noise = [], []
        for person in range(self.held_out.people):
            truth = self.held_out.images[person, ::6].to(self.device).float() / 255
            output = self._reconstruct(truth)
            errors.append(float((output - truth).abs().mean()))
            noise.append(float(-10 * torch.log10((output - truth).square().mean((1, 2, 3))).mean()))
        return {"l1": float(np.mean(errors)), "psnr": float(np.mean(noise))}

    def _reconstruct(self, images: Tensor) -> Tensor:
        self.whitening.eval()
        latents = self.whitening(self.autoencoder.encode(images * 2 - 1))
        return self.autoencoder.decode(latents)

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows of truth, reconstruction."""
        rows = []
        for person in range(min(4, self.held_out.people)):
            truth = self.held_out.images[person, 1:4].to(self.device).float() / 255
            rows.append(torch.stack([truth, self._reconstruct(truth)], 1).flatten(0, 1))  # (3, 2, ...) -> (6, ...)
        return strip(rows)


@torch.no_grad()
def start_from_patches(autoencoder: Autoencoder, images: Tensor) -> None:
    """Set the linear path to the principal components of cell-sized patches, the network beside it near zero.

    images (N, 3, H, W) in [-1, 1]. Latents then have unit variance from the first step, and carry colour.
    """
    cell, count = autoencoder.config.downscale, autoencoder.config.latent_channels
    scale = autoencoder.config.scaling_factor
    patches = functional.unfold(images, cell, stride=cell).transpose(1, 2).flatten(0, 1)  # (N * h * w, 3 * cell^2)
    mean = patches.mean(0)
    spread, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    spread, axes = spread.flip(0)[:count].sqrt() * scale, axes.flip(1)[:, :count]
    inward, outward = axes / spread, axes * spread  # (3 * cell^2, C)
    values = {
        "linear_in.weight": inward.T.reshape(count, 3, cell, cell),
        "linear_in.bias": -mean @ inward,
        "linear_out.weight": outward.T.reshape(count, 3, cell, cell),
        "linear_out.bias": mean.view(3, -1).mean(1),
    }
    for name, value in values.items():
        autoencoder.get_parameter(name).copy_(value)
    for layer in (autoencoder.model.quant_conv, autoencoder.model.decoder.conv_out):
        layer.weight.mul_(0.3), nn.init.zeros_(layer.bias)


def fold_whitening(autoencoder: Autoencoder, whitening: nn.BatchNorm2d) -> None:
    """Write the latents' mean and deviation into the encoder's quant_conv: `encode` gives unit variance by itself."""
    assert whitening.running_mean is not None
    assert whitening.running_var is not None
    deviation = (whitening.running_var + whitening.eps).sqrt()
    count = len(deviation)
    scale = autoencoder.config.scaling_factor
    layer = autoencoder.model.quant_conv
    with torch.no_grad():
        layer.weight[:count] /= deviation[:, None, None, None]
        layer.bias[:count] = (layer.bias[:count] - whitening.running_mean / scale) / deviation
        if autoencoder.config.linear_path:
            autoencoder.get_parameter("linear_in.weight").div_(deviation[:, None, None, None])
            autoencoder.get_parameter("linear_in.bias").div_(deviation)


def load_autoencoder(config: ModelConfig, folder: Path) -> Autoencoder:
    """The trained autoencoder of a run folder, whitening folded in, in evaluation mode."""
    autoencoder = Autoencoder(config.autoencoder)
    whitening = nn.BatchNorm2d(config.autoencoder.latent_channels, affine=False)
    load_modules({"autoencoder": autoencoder, "whitening": whitening}, folder / "autoencoder.safetensors")
    fold_whitening(autoencoder, whitening)
    return autoencoder.eval().requires_grad_(False)
