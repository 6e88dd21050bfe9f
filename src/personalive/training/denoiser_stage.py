"""What the image and the rollout stage share: the batch, the networks, validation, sample sheets.

Both work on latents that the frozen autoencoder has made once, with motion that the motion networks have predicted
from pixels (`prepared.py`), so that a step costs the denoiser alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import MotionSignals, ReferenceFeatures
from personalive.motion.signals import face_crops
from personalive.streaming.schedule import Schedule
from personalive.streaming.state import map_tensors, noise_like
from personalive.training import augment
from personalive.training.clips import Corpus, Pairs, draw_pairs, draw_warped_pairs
from personalive.training.losses import region_weights
from personalive.training.prepared import (
    Denoiser,
    Prepared,
    latent_importance,
    load_frozen,
    piecewise,
    prepare,
    self_driving,
)
from personalive.training.prepared_warps import PreparedWarps, load_reference_warp
from personalive.training.recipe import ComposeRecipe, ImageRecipe, Regions, RolloutRecipe
from personalive.training.sheet import strip
from personalive.warp.compose import guide_pictures


class Batch:
    """One drawn batch, everything a stage needs of it, on the device. B references, F driving frames each."""

    def __init__(self, stage: DenoiserStage, data: Prepared, pairs: Pairs, augmented: bool) -> None:
        person, reference, driving = pairs.person, pairs.reference, pairs.driving
        rows = person[:, None].expand_as(driving)
        device, model, corpus = stage.device, stage.model, data.corpus
        own = self_driving(data.head, person, reference, reference[:, None])
        self.reference: ReferenceFeatures = model.reference(
            corpus.images[person, reference].to(device).float() / 255,
            data.latents[person, reference].to(device).float(),
            map_tensors(lambda t: t.flatten(0, 1).to(device), own),
        )
        head, driver = self_driving(data.head, person, reference, driving), rows
        self.warp = None
        if data.warps is not None and pairs.slots is not None:
            self.warp = WarpBatch.of(data.warps, person, reference, pairs.slots, device)
            at = (rows, reference[:, None].expand_as(rows), pairs.slots)
            head, driver = data.warps.head.map(lambda part: part[at]), data.warps.driver[at]
        pose = model.pose(map_tensors(lambda t: t.flatten(0, 1).to(device), head))  # (B * F, C0, h, w)
        if self.warp is not None and model.warp_guider is not None:
            pose = pose + model.warp_guider(self.warp.guide())
        self.truth = corpus.images[rows, driving].to(device)  # (B, F, 3, H, W) uint8
        tokens = stage.tokens(data, driver, driving, augmented)
        self.signals = MotionSignals(tokens, pose.view(*driving.shape, *pose.shape[1:]))
        self.target = data.latents[rows, driving].to(device).float()  # (B, F, C, h, w)
        self.landmarks = corpus.landmarks[rows, driving].to(device)  # (B, F, 68, 2)
        self.seen = functools.partial(data.seen, rows, driving, device)

    def weights(self, regions: Regions) -> Tensor:
        """Loss weights of the latent cells by region: (B, F, 1, h, w)."""
        side = self.target.shape[-1]
        cells = region_weights(self.landmarks.flatten(0, 1), side, regions.detail, regions.face, regions.rest)
        return cells.view(*self.target.shape[:2], *cells.shape[1:])


@dataclass(frozen=True)
class WarpBatch:
    """The warped portraits of a batch, N = B * F frames in [0, 1], as `prepared_warps.PreparedWarps` has them.

    warped, plate (N, 3, s, s); masks (N, 4, s, s); own_figure (N, 1, s, s).
    """

    warped: Tensor
    plate: Tensor
    masks: Tensor
    own_figure: Tensor

    @classmethod
    def of(
        cls, warps: PreparedWarps, person: Tensor, reference: Tensor, slots: Tensor, device: torch.device
    ) -> WarpBatch:
        """Those of references (B,) of people (B,) and some of their driven frames (B, F)."""
        rows, portraits = (index[:, None].expand_as(slots).flatten() for index in (person, reference))
        slot = slots.flatten()

        def unit(levels: Tensor) -> Tensor:
            return levels.to(device).float() / 255

        return cls(
            unit(warps.warped[rows, portraits, slot]),
            unit(warps.plate[rows, portraits]),
            unit(warps.masks[rows, portraits, slot]),
            unit(warps.own_figure[rows, portraits]),
        )

    def guide(self) -> Tensor:
        """What the denoiser is shown: (N, 6, s, s)."""
        return guide_pictures(self.warped, self.plate, self.masks)


class DenoiserStage:
    """The denoiser's networks on prepared data."""

    name = "denoiser"

    def __init__(
        self,
        config: ModelConfig,
        recipe: ImageRecipe | RolloutRecipe | ComposeRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device,
    ) -> None:
        self.config, self.optimisation, self.device = config, recipe.optimisation, device
        self.frames, self.same_pose = recipe.frames, recipe.same_pose
        self.learns_motion = isinstance(recipe, ImageRecipe) and recipe.motion_encoder
        self.frozen = load_frozen(config, folder).to(device)
        self.autoencoder = self.frozen.autoencoder
        self.model = Denoiser(config).to(device)
        self.model.checkpointing(recipe.optimisation.checkpointing)
        warp = load_reference_warp(config, folder)
        cached = [folder and folder / f"prepared.{split}.safetensors" for split in ("train", "test")]
        self.train = prepare(config, self.frozen, train, cached[0], warp)
        self.held_out = prepare(config, self.frozen, held_out, cached[1], warp, crossed=False)
        self.schedule = Schedule(config.stream)
        self.channels = latent_importance(self.frozen, self.train)
        self.frozen.rest(self.learns_motion)

    def modules(self) -> Mapping[str, nn.Module]:
        """Both UNets, the guiders and the image encoder; the motion encoder where it learns."""
        return self.model.parts() | ({"motion_encoder": self.frozen.motion_encoder} if self.learns_motion else {})

    def learns(self, name: str) -> bool:
        """All but the temporal modules, which the stream stage trains."""
        return "temporal_modules" not in name

    def draw(self, rng: random.Random) -> Batch:
        """The next training batch."""
        return Batch(self, self.train, self.draw_pairs(rng), augmented=True)

    def draw_pairs(self, rng: random.Random) -> Pairs:
        """References and driving frames of the next training batch."""
        size, warps = self.optimisation.batch, self.train.warps
        if warps is None:
            return draw_pairs(self.train.corpus, rng, size, self.frames, self.same_pose)
        return draw_warped_pairs(self.train.corpus, warps.frame, rng, size, self.frames, self.same_pose)

    def tokens(self, data: Prepared, rows: Tensor, driving: Tensor, augmented: bool) -> Tensor:
        """Motion tokens (B, F, T, D): prepared ones, or, where the encoder learns, of (augmented) face crops."""
        if not self.learns_motion:
            return data.tokens[rows, driving].to(self.device)
        images = data.corpus.images[rows, driving].flatten(0, 1).to(self.device).float() / 255
        head = map_tensors(lambda t: t[rows, driving].flatten(0, 1).to(self.device), data.head)
        faces = face_crops(self.config, images, head)
        if augmented:
            faces = augment.driving_crop((faces + 1) / 2) * 2 - 1
        tokens: Tensor = self.frozen.motion_encoder(faces)
        return tokens.view(*driving.shape, *tokens.shape[1:])

    def to_clean(self, batch: Batch, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The model's estimate of the clean latents: (B, F, C, h, w)."""
        prediction = self.model.predict(sample, timesteps, batch.signals, batch.reference)
        return self.schedule.to_clean(sample, prediction.float(), timesteps)

    def start(self, batch: Batch) -> Tensor:
        """The reference's latents noised to the highest level, for every driving frame, as streaming starts."""
        latents = batch.reference.latents[:, None].expand_as(batch.target)
        return self.schedule.add_noise(latents, self.noise_like(latents), self.level(batch, -1))

    def noise_like(self, latents: Tensor) -> Tensor:
        """Noise for latents (B, F, C, h, w), in common to the frames of a reference as far as the streams' is."""
        return noise_like(latents, self.config.stream.common_noise)

    def level(self, batch: Batch, index: int) -> Tensor:
        """Timesteps (B, F), all at one level of the schedule."""
        return torch.full(batch.target.shape[:2], self.config.stream.timesteps[index], device=self.device)

    @torch.no_grad()
    def roll_out(self, batch: Batch, steps: int) -> Tensor:
        """`steps` steps of the short schedule from the start: the sample at the next lower level, or clean."""
        sample = self.start(batch)
        for index in range(steps):
            timesteps = self.level(batch, -1 - index)
            prediction = self.model.predict(sample, timesteps, batch.signals, batch.reference)
            sample = self.schedule.ddim_step(sample, prediction.float(), timesteps)
        return sample

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> pictures (N, 3, H, W) in [0, 1], few at a time."""
        return piecewise(self.autoencoder.decode, latents, self.config.image_size)

    def _evaluation_batches(self, people: int) -> list[Batch]:
        corpus, warps = self.held_out.corpus, self.held_out.warps
        count = corpus.frames - 1 if warps is None else warps.frame.shape[2]
        slots = torch.arange(0, count, max(1, count // 4))[None]
        batches = []
        for person in range(min(people, corpus.people)):
            driving = slots + 1 if warps is None else warps.frame[person, 0][slots]
            pairs = Pairs(torch.tensor([person]), torch.tensor([0]), driving, None if warps is None else slots)
            batches.append(Batch(self, self.held_out, pairs, augmented=False))
        return batches

    def validate(self) -> dict[str, float]:
        """Held-out people, reference = frame 0, all steps: pixel L1 of the output, of copying, of the autoencoder."""
        self.model.eval()
        sums = {"l1": 0.0, "copy": 0.0, "bound": 0.0, "one_step": 0.0, "mouth": 0.0, "mouth_copy": 0.0}
        batches = self._evaluation_batches(10)
        for batch in batches:
            truth = batch.truth[0].float() / 255
            outputs = {
                "l1": self.decode(self.roll_out(batch, self.config.stream.levels)[0]),
                "one_step": self.decode(self.to_clean(batch, self.start(batch), self.level(batch, -1))[0]),
                "bound": self.decode(batch.target[0]),
                "copy": self.decode(batch.reference.latents).expand_as(truth),
            }
            for key, output in outputs.items():
                sums[key] += float((output - truth).abs().mean())
            mouth = region_weights(batch.landmarks[0], truth.shape[-1], detail=1.0, face=0.0, rest=0.0)
            for key, output in (("mouth", outputs["l1"]), ("mouth_copy", outputs["copy"])):
                sums[key] += float(((output - truth).abs() * mouth).sum() / mouth.sum() / 3)
        self.model.train()
        return {key: value / len(batches) for key, value in sums.items()}

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows: reference, then truth and output of four driving frames."""
        self.model.eval()
        rows = []
        for batch in self._evaluation_batches(6):
            truth = batch.truth[0].float() / 255
            output = self.decode(self.roll_out(batch, self.config.stream.levels)[0])
            pairs = torch.stack([truth, output], 1).flatten(0, 1)  # (4, 2, ...) -> (8, ...)
            rows.append(torch.cat([self.decode(batch.reference.latents), pairs]))
        self.model.train()
        return strip(rows)
