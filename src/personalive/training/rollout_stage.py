"""Stage 2 of the paper, fewer-step appearance distillation: the model's own roll-outs, judged in latents and pixels.

It starts from the noised reference, as streaming does, runs 1..N steps of the short schedule and learns through the
last one, so that at each level the model meets its own blur instead of the truth.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.denoiser_stage import DenoiserStage
from personalive.training.judgement import Judge, motion_reader
from personalive.training.recipe import RolloutRecipe


class RolloutStage(DenoiserStage):
    """See the module's text. The discriminator, where the recipe asks for one, learns beside the denoiser."""

    name = "rollout"

    def __init__(
        self,
        config: ModelConfig,
        recipe: RolloutRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, recipe, folder, train, held_out, device or torch.device("cpu"))
        self.odds = recipe.step_odds[: config.stream.levels]
        if folder is not None:
            load_modules(self.model.parts(), folder / "image.safetensors")
        if self.optimisation.checkpointing:
            self.autoencoder.model.enable_gradient_checkpointing()
        reader = motion_reader(config, recipe.judgement, self.frozen, folder)
        self.judge = Judge(config, recipe.judgement, self.autoencoder, self.channels, reader)

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser's networks, and the discriminator."""
        return {**super().modules(), **self.judge.modules()}

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        """0..N-1 steps without gradient, one with; what is wrong with the result."""
        batch = self.draw(rng)
        # One number for all batches of a step: processes that share sharded weights have to make the same passes.
        done = random.Random(f"steps before {step}").choices(range(len(self.odds)), self.odds)[0]
        sample = self.roll_out(batch, done)
        clean = self.to_clean(batch, sample, self.level(batch, -1 - done))
        yield self.judge.losses(clean, batch.target, batch.landmarks, batch.truth, batch.seen, rng, step)
