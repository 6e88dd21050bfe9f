"""Stage 1 of the paper, image-level hybrid motion training: single frames, true latents noised to one level."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.training.clips import Corpus
from personalive.training.denoiser_stage import DenoiserStage
from personalive.training.recipe import ImageRecipe


class ImageStage(DenoiserStage):
    """Noises the true latents to one level of the schedule and asks for them back."""

    name = "image"

    def __init__(
        self,
        config: ModelConfig,
        recipe: ImageRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, recipe, folder, train, held_out, device or torch.device("cpu"))
        self.recipe = recipe
        self.odds = torch.tensor(recipe.level_odds[-config.stream.levels :])  # a shorter window has the noisiest ones
        # Attention starts by looking at what is alike (keys = queries), and the denoiser as a copy of the reference
        # UNet: the same layers, then what it alone has.
        with torch.no_grad():
            for transformer in self.model.reference_unet.transformers():
                attention = transformer.block.attn1
                attention.to_q.weight.mul_(1.5)
                attention.to_k.weight.copy_(attention.to_q.weight)
        shared = {
            name: tensor
            for name, tensor in self.model.reference_unet.state_dict().items()
            if name in self.model.denoising_unet.state_dict()
        }
        self.model.denoising_unet.load_state_dict(shared, strict=False)

    def losses(self, rng: random.Random, _step: int, /) -> Iterator[dict[str, Tensor]]:
        """Squared error of the clean estimate, weighted by 1 / sigma^2 (capped) and by region."""
        batch = self.draw(rng)
        shape = batch.target.shape[:2]
        levels = torch.multinomial(self.odds, shape.numel(), True).view(shape)
        timesteps = torch.tensor(self.config.stream.timesteps)[levels].to(self.device)
        sample = self.schedule.add_noise(batch.target, self.noise_like(batch.target), timesteps)
        clean = self.to_clean(batch, sample, timesteps)
        variance = (1 - self.schedule.alphas_cumprod()[timesteps.cpu()]).to(self.device)
        trust = (1 / variance).clamp(max=2.5)[..., None, None, None]
        error = (clean - batch.target).square() * batch.weights(self.recipe.regions) * self.channels
        highest = (levels == len(self.config.stream.timesteps) - 1).to(self.device)
        counted = highest | ~highest.any()  # where no frame has the highest level, all of them
        worst = (error.mean((2, 3, 4)) * counted).sum() / counted.sum()
        yield {"loss": (error * trust).mean(), "highest": worst}
