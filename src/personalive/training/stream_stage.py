"""Stage 3 of the paper: micro-chunk streaming with sliding training, through the product's own streaming step.

Clips slide through the window on the model's own outputs, keyframes in play; gradient flows in windows 0, N-1,
2(N-1), ... only, and only into the temporal modules. The losses are on the chunk that became clean.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig, override
from personalive.contracts import MotionSignals, Networks
from personalive.motion.signals import Observation, drive, lead_in
from personalive.streaming import engine
from personalive.streaming.schedule import Schedule
from personalive.streaming.state import StreamState, map_tensors, noise_like
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.judgement import Judge, motion_reader
from personalive.training.prepared import (
    MODULES,
    Denoiser,
    Prepared,
    latent_importance,
    load_frozen,
    piecewise,
    prepare,
    with_guider,
)
from personalive.training.prepared_warps import load_reference_warp
from personalive.training.recipe import StreamRecipe
from personalive.training.sheet import strip
from personalive.warp.compose import PortraitGuide, portrait_layers, with_expression
from personalive.warp.portrait import build_surface, fit_portrait


class StreamStage:
    """See the module's text. Learns the temporal modules of `denoising_unet`."""

    name = "stream"

    def __init__(
        self,
        config: ModelConfig,
        recipe: StreamRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        self.device = device or torch.device("cpu")
        self.frozen = frozen = load_frozen(config, folder).to(self.device)
        self.model = Denoiser(config).to(self.device)
        self.model.checkpointing(recipe.optimisation.checkpointing)
        if folder is not None:
            load_modules(self.model.parts(), folder / "rollout.safetensors")
        if recipe.optimisation.checkpointing:
            frozen.autoencoder.model.enable_gradient_checkpointing()
        warp = with_guider(load_reference_warp(config, folder), self.model)
        self.networks = Networks(
            config=override(config, {"stream.keyframes_from_step": recipe.keyframes_from_step}),
            autoencoder=frozen.autoencoder,
            motion_extractor=frozen.motion_extractor,
            motion_encoder=frozen.motion_encoder,
            reference_warp=None if warp is None else warp.to(self.device),
            **{name: getattr(self.model, name) for name in MODULES},
        )
        caches = (folder and folder / f"prepared.{split}.safetensors" for split in ("train", "test"))
        self.train = prepare(config, frozen, train, next(caches), warp)
        self.held_out = prepare(config, frozen, held_out, next(caches), warp, crossed=False)
        frozen.rest(learns_motion=False)
        reader = motion_reader(config, recipe.judgement, frozen, folder)
        channels = latent_importance(frozen, self.train)
        self.judge = Judge(config, recipe.judgement, frozen.autoencoder, channels, reader)

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser's networks, so that the stage's file is complete, and the discriminator."""
        return self.model.parts() | self.judge.modules()

    def learns(self, name: str) -> bool:
        """Temporal modules (and the discriminator) only."""
        return "temporal_modules" in name or name.startswith("discriminator.")

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        """Slide new clips through the window; the losses of every `gradient_every`-th one."""
        people = [rng.randrange(self.train.corpus.people) for _ in range(self.optimisation.batch)]
        clips = _Clips(self, self.train, people, rng.randrange(2**31), rng.random() < self.recipe.true_start)
        while clips.window < self.recipe.windows:
            learn = clips.window % self.recipe.gradient_every == 0
            if not self.recipe.sliding:
                clips.forget()
            with torch.set_grad_enabled(learn):
                latents = clips.slide()
            if learn:
                yield self._judge(clips, latents, rng, step)

    def _judge(self, clips: _Clips, latents: Tensor, rng: random.Random, step: int) -> dict[str, Tensor]:
        """The emitted chunk against the frames it shows; of the lead-in, which shows none, its start: the reference."""
        data, person = clips.data, clips.person
        shown = clips.shown
        frames = torch.zeros(1, dtype=torch.int64) if shown is None else shown
        rows = (person[:, None].expand(-1, len(frames)), frames.expand(len(person), -1))
        return self.judge.losses(
            latents[:, : len(frames)],
            data.latents[rows].to(self.device).float(),
            data.corpus.landmarks[rows].to(self.device),
            data.corpus.images[rows].to(self.device),
            functools.partial(data.seen, *rows, self.device),
            rng,
            step,
        )

    def validate(self) -> dict[str, float]:
        """Held-out people streamed: latent error of the chunks that show the clip, and frame-to-frame error."""
        outputs, truth = self._stream(range(min(10, self.held_out.corpus.people)))
        temporal = (outputs.diff(dim=1) - truth.diff(dim=1)).abs().mean()
        return {"latent_l1": float((outputs - truth).abs().mean()), "temporal": float(temporal)}

    def _stream(self, people: range) -> tuple[Tensor, Tensor]:
        """Streamed and true latents of the same frames: (B, F, C, h, w) each."""
        outputs, truth = [], []
        together = max(1, 2**22 // (self.config.stream.window_frames * self.config.image_size**2))
        for first in range(0, len(people), together):
            group = list(people[first : first + together])
            clips = _Clips(self, self.held_out, group, 7 + first, true_start=False)
            made, true = [], []
            while clips.window < self.recipe.windows:
                latents = clips.slide()
                if clips.shown is not None:
                    made.append(latents)
                    true.append(clips.true_latents(clips.shown))
            outputs.append(torch.cat(made, 1))
            truth.append(torch.cat(true, 1))
        return torch.cat(outputs), torch.cat(truth)

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows: truth, then the streamed output of the same frames."""
        outputs, truth = self._stream(range(min(3, self.held_out.corpus.people)))
        rows = [
            piecewise(self.networks.autoencoder.decode, latents[:12:2], self.config.image_size)
            for pair in zip(truth, outputs, strict=True)
            for latents in pair
        ]
        return strip(rows)


class _Clips:
    """Clips of B people on their way through the window: to and fro over the smooth frames, reference = frame 0.

    `true_start`: the first window holds true frames, noised to their levels, as the paper trains; else it leads in from
    the reference, as the product does.
    """

    def __init__(self, stage: StreamStage, data: Prepared, people: list[int], seed: int, true_start: bool) -> None:
        self.networks, self.device, self.data, self.window = stage.networks, stage.device, data, 0
        self.person, self.true_start = torch.tensor(people), true_start
        stream = stage.config.stream
        self.chunk, self.lag = stream.chunk_frames, 0 if true_start else stream.levels - 1
        first = int(data.corpus.clip_start[self.person].max())
        there = list(range(first, data.corpus.frames))
        self.order = there + there[-2:0:-1]
        portraits = [self._portrait(person) for person in people]
        self.references, self.guides = [seen for seen, _ in portraits], [guide for _, guide in portraits]
        lead = stream.lead_in_frames
        with torch.no_grad():
            pictures = data.corpus.images[self.person, 0].to(self.device).float() / 255
            latents = data.latents[self.person, 0].to(self.device).float()
            heads = map_tensors(lambda *parts: torch.cat(parts), *(r.head for r in self.references))
            features = stage.model.reference(pictures, latents, heads)
            start = self._lead_in() if not true_start else self._signals(self._frames(0, lead))
            own = torch.cat([reference.motion for reference in self.references])
            seeds = [seed + i for i in range(len(people))]
            self.state: StreamState = engine.start(self.networks, features, start, seeds, reference_motion=own)
        if true_start:
            self.forget()
        self.shown: Tensor | None = None

    def _drive(self, person: int, frames: Tensor) -> Observation:
        """What a person does as a driver."""
        driver = self.data.followed or Observation(self.data.head, self.data.tokens)
        return map_tensors(lambda tensor: tensor[person, frames].to(self.device), driver)

    def _frames(self, start: int, count: int) -> Tensor:
        return torch.tensor([self.order[i % len(self.order)] for i in range(start, start + count)], dtype=torch.int64)

    def true_latents(self, frames: Tensor) -> Tensor:
        """(F,) frame numbers -> (B, F, C, h, w)."""
        return self.data.latents[self.person[:, None], frames[None]].to(self.device).float()

    def _signals(self, frames: Tensor) -> MotionSignals:
        """(B, F, ...). Movement counts from the reference frame."""
        parts = [
            drive(self.networks, reference, self._first(person), self._drive(person, frames), guide=guide)
            for person, reference, guide in zip(self.person.tolist(), self.references, self.guides, strict=True)
        ]
        return map_tensors(lambda *tensors: torch.cat(tensors), *parts)

    def _lead_in(self) -> MotionSignals:
        target = self._frames(0, 1)
        parts = [
            lead_in(self.networks, seen, self._first(person), target=self._drive(person, target), guide=guide)
            for person, seen, guide in zip(self.person.tolist(), self.references, self.guides, strict=True)
        ]
        return map_tensors(lambda *tensors: torch.cat(tensors), *parts)

    def _first(self, person: int) -> Observation:
        """Where movement counts from: the reference frame, as the driver's."""
        return self._drive(person, torch.tensor([0]))

    def _portrait(self, person: int) -> tuple[Observation, PortraitGuide | None]:
        """What is seen in the reference, and it as the warp moves it, where there is one."""
        head = self.data.head.map(lambda part: part[person, :1].to(self.device))
        seen = Observation(head, self.data.tokens[person, :1].to(self.device))
        warp = self.networks.reference_warp
        if warp is None:
            return seen, None
        picture = self.data.corpus.images[person, 0][None].to(self.device).float() / 255
        surface = build_surface(warp, picture, fit_portrait(warp, picture, seen.head, seen.motion), seen.head)
        layers = portrait_layers(picture, surface)
        return with_expression(seen, layers), PortraitGuide(warp, layers, self.networks.config.image_size)

    def forget(self) -> None:
        """Replace the window's older chunks by the true latents of their frames, noised to their levels."""
        begin = (self.window - self.lag) * self.chunk
        if begin < 0:
            return  # the lead-in has no true frames
        lead = self.state.latents.shape[1]
        true = self.true_latents(self._frames(begin, lead))
        schedule = Schedule(self.networks.config.stream)
        timesteps = schedule.window_timesteps(self.device)[:lead].expand(len(self.person), -1)
        noised = schedule.add_noise(true, noise_like(true, self.networks.config.stream.common_noise), timesteps)
        self.state = dataclasses.replace(self.state, latents=noised)

    def slide(self) -> Tensor:
        """The next chunk in, one step, the clean chunk (B, M, C, h, w) out; `shown`: the frames it shows, or None."""
        newest = (self.window - self.lag) * self.chunk + self.state.latents.shape[1]
        signals = self._signals(self._frames(newest, self.chunk))
        # Where only the temporal modules ask for gradients, torch 2.13 crashes on the CPU in the backward pass of the
        # first one's group norm. With the pose asking too, every layer passes a gradient on and it does not.
        signals = MotionSignals(signals.motion, signals.pose.detach().requires_grad_(torch.is_grad_enabled()))
        state, latents = engine.step(self.networks, self.state, signals)
        self.state = state.detach()
        place = self.window - self.lag
        self.shown = self._frames(place * self.chunk, self.chunk) if place >= 0 else None
        self.window += 1
        return latents
