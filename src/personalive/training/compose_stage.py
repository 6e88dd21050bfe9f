"""The compositor: how warped portrait, background plate and generated picture make the frame that was rendered.

The denoiser is at rest: its own roll-outs are decoded, and only the compositor learns, from the composed picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.errors import ConfigError
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.denoiser_stage import Batch, DenoiserStage
from personalive.training.losses import pixel_loss, region_weights
from personalive.training.prepared_warps import load_reference_warp
from personalive.training.recipe import ComposeRecipe
from personalive.training.sheet import strip
from personalive.warp.compose import ComposeInputs, blend, mix

LAST_STAGES = ("stream", "rollout", "image")
"""Where the denoiser comes from: the first of these that has been trained."""


class ComposeStage(DenoiserStage):
    """See the module's text. Learns `compositor` of the reference warp."""

    name = "compose"

    def __init__(
        self,
        config: ModelConfig,
        recipe: ComposeRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, recipe, folder, train, held_out, device or torch.device("cpu"))
        warp = load_reference_warp(config, folder)
        if warp is None:
            raise ConfigError(f"the model {config.name} has no reference warp: there is nothing to compose")
        self.recipe = recipe
        self.compositor: nn.Module = warp.compositor.requires_grad_(True).to(self.device)
        if folder is not None:
            trained = next((stage for stage in LAST_STAGES if (folder / f"{stage}.safetensors").exists()), "rollout")
            load_modules(self.model.parts(), folder / f"{trained}.safetensors")
        self.model.eval().requires_grad_(False)

    def modules(self) -> Mapping[str, nn.Module]:
        """The compositor."""
        return {"compositor": self.compositor}

    def learns(self, name: str) -> bool:
        """All of it."""
        del name
        return True

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        """Pixels and gradients of the composed frames, and what was generated where the portrait shows it."""
        del step
        batch = self.draw(rng)
        composed, shares = self._composed(batch)
        truth = batch.truth.flatten(0, 1).float() / 255
        weights = self._weights(batch, truth.shape[-1])
        picture = pixel_loss(composed * 2, truth * 2, weights)
        assert batch.warp is not None
        shown = batch.warp.masks[:, :1] * batch.warp.masks[:, 1:2]
        painted = (shares[:, 2:] * shown).mean()
        yield {"loss": picture + self.recipe.paint * painted, "picture": picture, "painted": painted}

    def _composed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Composed frames (N, 3, s, s) in [0, 1] and the shares (N, 3, s, s) of their three sources."""
        warp = batch.warp
        assert warp is not None
        with torch.no_grad():
            generated = self.decode(self.roll_out(batch, self.config.stream.levels).flatten(0, 1)).float()
        given = ComposeInputs(generated, warp.warped, warp.plate, warp.masks, warp.own_figure)
        shares, paint = blend(self.compositor, given)
        return mix(shares, warp.warped, warp.plate, paint), shares

    def _weights(self, batch: Batch, side: int) -> Tensor:
        regions = self.recipe.regions
        return region_weights(batch.landmarks.flatten(0, 1), side, regions.detail, regions.face, regions.rest)

    def validate(self) -> dict[str, float]:
        """Held-out people, portrait = frame 0: pixel L1 of the composed frames, of what was generated, of copying."""
        self.compositor.eval()
        sums = {"l1": 0.0, "generated": 0.0, "copy": 0.0, "mouth": 0.0, "painted": 0.0}
        batches = self._evaluation_batches(20)
        for batch in batches:
            truth = batch.truth[0].float() / 255
            composed, shares = self._composed(batch)
            generated = self.decode(self.roll_out(batch, self.config.stream.levels)[0]).float()
            mouth = region_weights(batch.landmarks[0], truth.shape[-1], detail=1.0, face=0.0, rest=0.0)
            sums["l1"] += float((composed - truth).abs().mean())
            sums["generated"] += float((generated - truth).abs().mean())
            sums["copy"] += float((self.decode(batch.reference.latents) - truth).abs().mean())
            sums["mouth"] += float(((composed - truth).abs() * mouth).sum() / mouth.sum() / 3)
            sums["painted"] += float(shares[:, 2].mean())
        self.compositor.train()
        return {key: value / len(batches) for key, value in sums.items()}

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows: reference, then truth and composed frame of four driving frames."""
        self.compositor.eval()
        rows = []
        for batch in self._evaluation_batches(8):
            truth = batch.truth[0].float() / 255
            pairs = torch.stack([truth, self._composed(batch)[0]], 1).flatten(0, 1)  # (4, 2, ...) -> (8, ...)
            rows.append(torch.cat([self.decode(batch.reference.latents), pairs]))
        self.compositor.train()
        return strip(rows)
