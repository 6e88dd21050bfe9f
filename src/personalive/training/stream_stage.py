"""Stage 3 of the paper: micro-chunk streaming with sliding training, through the product's own streaming step.

A clip slides through the window on the model's own outputs, keyframes in play; gradient flows in windows 0, N-1,
2(N-1), ... only, and only into the temporal modules. The loss is on the chunk that became clean.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion, MotionSignals, Networks, ReferenceFeatures
from personalive.motion.signals import Observation, drive, lead_in
from personalive.streaming import engine
from personalive.streaming.state import StreamState
from personalive.training.clips import Corpus
from personalive.training.image_stage import MODULES
from personalive.training.loop import load_modules
from personalive.training.losses import charbonnier, region_weights
from personalive.training.prepared import Denoiser, Prepared, latent_importance, load_frozen, prepare
from personalive.training.recipe import StreamRecipe
from personalive.training.sheet import strip


class StreamStage:
    """See the module's text. Learns the temporal modules of `denoising_unet`."""

    name = "stream"

    def __init__(
        self, config: ModelConfig, recipe: StreamRecipe, folder: Path, train: Corpus, held_out: Corpus
    ) -> None:
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        frozen = load_frozen(config, folder)
        self.model = Denoiser(config)
        load_modules({name: getattr(self.model, name) for name in MODULES}, folder / "rollout.safetensors")
        self.networks = Networks(
            config=config,
            autoencoder=frozen.autoencoder,
            motion_extractor=frozen.motion_extractor,
            motion_encoder=frozen.motion_encoder,
            **{name: getattr(self.model, name) for name in MODULES},
        )
        self.train = prepare(config, frozen, train, folder / "prepared.train.safetensors")
        self.held_out = prepare(config, frozen, held_out, folder / "prepared.test.safetensors")
        self.channels = latent_importance(frozen, self.train)
        self._pending: _Clip | None = None

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser's networks, so that the stage's file is complete."""
        return {name: getattr(self.model, name) for name in MODULES}

    def learns(self, name: str) -> bool:
        """Temporal modules only."""
        return "temporal_modules" in name

    def loss(self, rng: random.Random, _step: int, /) -> dict[str, Tensor]:
        """Slide the current clip on to its next window with gradient, and return that window's loss."""
        while True:
            if self._pending is None or self._pending.window >= self.recipe.windows:
                self._pending = self._begin(self.train, rng.randrange(self.train.corpus.people), rng.randrange(2**31))
            clip = self._pending
            learn = clip.window % self.recipe.gradient_every == 0
            with torch.set_grad_enabled(learn):
                latents = clip.slide(self.networks)
            if learn and clip.shown is not None:
                return {"loss": self._error(clip, latents)}

    def _error(self, clip: _Clip, latents: Tensor) -> Tensor:
        """Charbonnier on the emitted chunk against the true latents of the frames that it shows."""
        assert clip.shown is not None
        data, corpus = clip.data, clip.data.corpus
        target = data.latents[clip.person, clip.shown].float()
        weight = region_weights(corpus.landmarks[clip.person, clip.shown], target.shape[-1], detail=2.5)
        return (charbonnier(latents[0] - target) * weight * self.channels).mean()

    def _begin(self, data: Prepared, person: int, seed: int) -> _Clip:
        return _Clip(self.networks, self.model, data, person, seed)

    def validate(self) -> dict[str, float]:
        """Held-out people streamed: latent error of the chunks that show the clip, and frame-to-frame error."""
        errors, flicker = [], []
        for person in range(min(10, self.held_out.corpus.people)):
            outputs, truth = self._stream(person)
            errors.append(float((outputs - truth).abs().mean()))
            flicker.append(float((outputs.diff(dim=0) - truth.diff(dim=0)).abs().mean()))
        return {"latent_l1": float(np.mean(errors)), "temporal": float(np.mean(flicker))}

    def _stream(self, person: int) -> tuple[Tensor, Tensor]:
        clip = self._begin(self.held_out, person, 7)
        outputs, truth = [], []
        while clip.window < self.recipe.windows:
            latents = clip.slide(self.networks)
            if clip.shown is not None:
                outputs.append(latents[0])
                truth.append(self.held_out.latents[person, clip.shown].float())
        return torch.cat(outputs), torch.cat(truth)

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows: truth, then the streamed output of the same frames."""
        rows = []
        for person in range(min(3, self.held_out.corpus.people)):
            outputs, truth = self._stream(person)
            for latents in (truth, outputs):
                rows.append(self.networks.autoencoder.decode(latents[:12:2]))
        return strip(rows)


class _Clip:
    """One person's clip on its way through the window: to and fro over the smooth frames, reference = frame 0."""

    def __init__(self, networks: Networks, model: Denoiser, data: Prepared, person: int, seed: int) -> None:
        self.data, self.person, self.window = data, person, 0
        start, frames = int(data.corpus.clip_start[person]), data.corpus.frames
        there = list(range(start, frames))
        self.order = there + there[-2:0:-1]
        self.reference = self._observe(torch.tensor([0]))
        with torch.no_grad():
            picture = data.corpus.images[person, :1].float() / 255
            head = self.reference.head
            features: ReferenceFeatures = model.reference(picture, data.latents[person, :1].float(), head)
            first = self._observe(torch.tensor([self.order[0]]))
            lead = lead_in(networks, self.reference, first)
            self.state: StreamState = engine.start(networks, features, lead, seed)
        self.shown: Tensor | None = None

    def _observe(self, frames: Tensor) -> Observation:
        head = HeadMotion(
            *(
                getattr(self.data.head, field)[self.person, frames]
                for field in ("keypoints", "angles", "translation", "scale")
            )
        )
        return Observation(head, self.data.tokens[self.person, frames])

    def slide(self, networks: Networks) -> Tensor:
        """The next chunk in, one step, the clean chunk (1, M, C, h, w) out; `shown`: the frames it shows, or None."""
        stream = networks.config.stream
        chunk = stream.chunk_frames

        def frames(window: int) -> Tensor:
            return torch.tensor([self.order[i % len(self.order)] for i in range(window * chunk, (window + 1) * chunk)])

        # The clip begins at the reference's own translation: driving is absolute, as in image-level training.
        signals = drive(networks, self.reference, self.reference, self._observe(frames(self.window)))
        # Where only the temporal modules ask for gradients, torch 2.13 crashes on the CPU in the backward pass of the
        # first one's group norm. With the pose asking too, every layer passes a gradient on and it does not.
        signals = MotionSignals(signals.motion, signals.pose.detach().requires_grad_(torch.is_grad_enabled()))
        state, latents = engine.step(networks, self.state, signals)
        self.state = state.detach()
        lag = stream.levels - 1
        self.shown = frames(self.window - lag) if self.window >= lag else None
        self.window += 1
        return latents
