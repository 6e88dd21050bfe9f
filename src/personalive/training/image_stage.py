"""Stages 1 and 2 of the paper, on latents: image-level motion training, then the model's own roll-outs.

Stage 1 noises the true latents to one level of the schedule and asks for them back. Stage 2 starts from the noised
reference, as streaming does, runs 1..N steps of the short schedule and learns through the last one, in latents and
in decoded face crops, so that at each level the model meets its own blur instead of the truth.
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
from personalive.contracts import MotionSignals, ReferenceFeatures
from personalive.models.autoencoder import Autoencoder
from personalive.streaming.schedule import Schedule
from personalive.training.clips import Corpus, Pairs, draw_pairs
from personalive.training.loop import load_modules
from personalive.training.losses import charbonnier, pixel_loss, region_weights
from personalive.training.prepared import (
    Denoiser,
    Prepared,
    flatten_head,
    latent_importance,
    load_frozen,
    prepare,
    self_driving,
)
from personalive.training.recipe import ImageRecipe, RolloutRecipe
from personalive.training.sheet import strip

MODULES = ("reference_unet", "denoising_unet", "pose_guider", "image_encoder")


class Batch:
    """One drawn batch, everything a stage needs of it. B references, F driving frames each."""

    def __init__(self, model: Denoiser, data: Prepared, pairs: Pairs) -> None:
        person, reference, driving = pairs.person, pairs.reference, pairs.driving
        rows = person[:, None].expand_as(driving)
        pictures = data.corpus.images[person, reference].float() / 255
        self.reference: ReferenceFeatures = model.reference(
            pictures, data.latents[person, reference].float(), _own_head(data, person, reference)
        )
        pose = model.pose(flatten_head(self_driving(data.head, person, reference, driving)))
        self.signals = MotionSignals(data.tokens[rows, driving], pose.view(*driving.shape, *pose.shape[1:]))
        self.target = data.latents[rows, driving].float()  # (B, F, C, h, w)
        self.landmarks = data.corpus.landmarks[rows, driving]  # (B, F, 68, 2)
        self.truth = data.corpus.images[rows, driving]

    def weights(self) -> Tensor:
        """Loss weights of the latent cells by region: (B, F, 1, h, w)."""
        cells = region_weights(self.landmarks.flatten(0, 1), self.target.shape[-1], detail=2.5)
        return cells.view(*self.target.shape[:2], *cells.shape[1:])


def _own_head(data: Prepared, person: Tensor, frame: Tensor) -> Any:
    return flatten_head(self_driving(data.head, person, frame, frame[:, None]))


class DenoiserStage:
    """What stages 1 and 2 share: networks, data, validation, sample sheet."""

    name = "denoiser"

    def __init__(
        self, config: ModelConfig, recipe: ImageRecipe | RolloutRecipe, folder: Path, train: Corpus, held_out: Corpus
    ) -> None:
        self.config, self.optimisation = config, recipe.optimisation
        self.frames, self.same_pose = recipe.frames, recipe.same_pose
        frozen = load_frozen(config, folder)
        self.autoencoder: Autoencoder = frozen.autoencoder
        self.model = Denoiser(config)
        self.train = prepare(config, frozen, train, folder / "prepared.train.safetensors")
        self.held_out = prepare(config, frozen, held_out, folder / "prepared.test.safetensors")
        self.schedule = Schedule(config.stream)
        self.channels = latent_importance(frozen, self.train)

    def modules(self) -> Mapping[str, nn.Module]:
        """Both UNets, the pose guider and the image encoder."""
        return {name: getattr(self.model, name) for name in MODULES}

    def learns(self, name: str) -> bool:
        """All but the temporal modules, which stage 3 trains."""
        return "temporal_modules" not in name

    def draw(self, rng: random.Random) -> Batch:
        """The next training batch."""
        pairs = draw_pairs(self.train.corpus, rng, self.optimisation.batch, self.frames, self.same_pose)
        return Batch(self.model, self.train, pairs)

    def to_clean(self, batch: Batch, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The model's estimate of the clean latents: (B, F, C, h, w)."""
        prediction = self.model.predict(sample, timesteps, batch.signals, batch.reference)
        return self.schedule.to_clean(sample, prediction, timesteps)

    def start(self, batch: Batch) -> Tensor:
        """The reference's latents noised to the highest level, for every driving frame, as streaming starts."""
        latents = batch.reference.latents[:, None].expand_as(batch.target)
        return self.schedule.add_noise(latents, torch.randn_like(latents), self.level(batch, -1))

    def level(self, batch: Batch, index: int) -> Tensor:
        """Timesteps (B, F), all at one level of the schedule."""
        return torch.full(batch.target.shape[:2], self.config.stream.timesteps[index])

    @torch.no_grad()
    def roll_out(self, batch: Batch, steps: int) -> Tensor:
        """`steps` steps of the short schedule from the start: the sample at the next lower level, or clean."""
        sample = self.start(batch)
        for index in range(steps):
            timesteps = self.level(batch, -1 - index)
            prediction = self.model.predict(sample, timesteps, batch.signals, batch.reference)
            sample = self.schedule.ddim_step(sample, prediction, timesteps)
        return sample

    def _evaluation_batches(self, people: int) -> list[Batch]:
        frames = self.held_out.corpus.frames
        driving = torch.arange(1, frames, max(1, frames // 4))[None]
        return [
            Batch(self.model, self.held_out, Pairs(torch.tensor([p]), torch.tensor([0]), driving))
            for p in range(min(people, self.held_out.corpus.people))
        ]

    def validate(self) -> dict[str, float]:
        """Held-out people, reference = frame 0, all steps: pixel L1 of the output, of copying, of the autoencoder."""
        self.model.eval()
        sums = {"l1": 0.0, "copy": 0.0, "bound": 0.0, "one_step": 0.0, "mouth": 0.0, "mouth_copy": 0.0}
        batches = self._evaluation_batches(10)
        for batch in batches:
            truth = batch.truth[0].float() / 255
            outputs = {
                "l1": self.autoencoder.decode(self.roll_out(batch, self.config.stream.levels)[0]),
                "one_step": self.autoencoder.decode(self.to_clean(batch, self.start(batch), self.level(batch, -1))[0]),
                "bound": self.autoencoder.decode(batch.target[0]),
                "copy": self.autoencoder.decode(batch.reference.latents).expand_as(truth),
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
            output = self.autoencoder.decode(self.roll_out(batch, self.config.stream.levels)[0])
            pairs = torch.stack([truth, output], 1).flatten(0, 1)  # (4, 2, ...) -> (8, ...)
            rows.append(torch.cat([self.autoencoder.decode(batch.reference.latents), pairs]))
        self.model.train()
        return strip(rows)


class ImageStage(DenoiserStage):
    """Stage 1 (paper: image-level hybrid motion training)."""

    name = "image"

    def __init__(self, config: ModelConfig, recipe: ImageRecipe, folder: Path, train: Corpus, held_out: Corpus) -> None:
        super().__init__(config, recipe, folder, train, held_out)
        self.odds = torch.tensor(recipe.level_odds)
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

    def loss(self, rng: random.Random, _step: int, /) -> dict[str, Tensor]:
        """Squared error of the clean estimate, weighted by 1 / sigma^2 (capped) and by region."""
        batch = self.draw(rng)
        shape = batch.target.shape[:2]
        levels = torch.multinomial(self.odds, shape.numel(), True).view(shape)
        timesteps = torch.tensor(self.config.stream.timesteps)[levels]
        sample = self.schedule.add_noise(batch.target, torch.randn_like(batch.target), timesteps)
        clean = self.to_clean(batch, sample, timesteps)
        trust = (1 / (1 - self.schedule.alphas_cumprod()[timesteps])).clamp(max=2.5)[..., None, None, None]
        error = (clean - batch.target).square() * batch.weights() * self.channels
        highest = levels == len(self.config.stream.timesteps) - 1
        return {"loss": (error * trust).mean(), "highest": error[highest].mean() if highest.any() else error.mean()}


class RolloutStage(DenoiserStage):
    """Stage 2 (paper: fewer-step appearance distillation), without its adversarial term."""

    name = "rollout"

    def __init__(
        self, config: ModelConfig, recipe: RolloutRecipe, folder: Path, train: Corpus, held_out: Corpus
    ) -> None:
        super().__init__(config, recipe, folder, train, held_out)
        self.recipe = recipe
        load_modules(self.modules(), folder / "image.safetensors")

    def loss(self, rng: random.Random, _step: int, /) -> dict[str, Tensor]:
        """0..N-1 steps without gradient, one with: Charbonnier on latents, pixel loss on some decoded face crops."""
        batch = self.draw(rng)
        steps = rng.choice(range(self.config.stream.levels))
        sample = self.roll_out(batch, steps)
        clean = self.to_clean(batch, sample, self.level(batch, -1 - steps))
        latent = (charbonnier(clean - batch.target) * batch.weights() * self.channels).mean()
        if self.recipe.pixel_weight == 0:
            return {"loss": latent}
        pixels = self._face_loss(batch, clean, rng)
        return {"loss": latent + self.recipe.pixel_weight * pixels, "latent": latent, "pixels": pixels}

    def _face_loss(self, batch: Batch, clean: Tensor, rng: random.Random) -> Tensor:
        """Pixel loss on half-size crops around the face, decoded from the estimate and from the true latents."""
        side = clean.shape[-1]
        crop = side // 2
        total = clean.shape[0] * clean.shape[1]
        landmarks, outputs, targets = batch.landmarks.flatten(0, 1), clean.flatten(0, 1), batch.target.flatten(0, 1)
        ours, theirs, weights = [], [], []
        for index in rng.sample(range(total), min(self.recipe.pixel_frames, total)):
            middle = (landmarks[index, 17:].mean(0) + 1) / 2 * side
            x, y = (int(v) for v in (middle - crop / 2).round().clamp(0, side - crop))
            ours.append(outputs[index, :, y : y + crop, x : x + crop])
            theirs.append(targets[index, :, y : y + crop, x : x + crop])
            full = region_weights(landmarks[index : index + 1], side * 8, detail=3.0)[0]
            weights.append(full[:, y * 8 : (y + crop) * 8, x * 8 : (x + crop) * 8])
        with torch.no_grad():
            truth = self.autoencoder.decode_signed(torch.stack(theirs))
        return pixel_loss(self.autoencoder.decode_signed(torch.stack(ours)), truth, torch.stack(weights))
