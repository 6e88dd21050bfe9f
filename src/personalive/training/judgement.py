"""What is wrong with clean estimates: the losses that the rollout and the stream stage share."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from personalive.config import ModelConfig
from personalive.models.autoencoder import Autoencoder
from personalive.motion.signals import Observation
from personalive.training.discriminator import Discriminator
from personalive.training.losses import charbonnier, region_weights
from personalive.training.motion_reader import MotionReader
from personalive.training.perceptual import choose_perceptual
from personalive.training.prepared import Frozen
from personalive.training.recipe import Judgement


class Judge:
    """Compares estimates with the truth by a recipe's weights. Owns the discriminator, where there is one."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Judgement,
        autoencoder: Autoencoder,
        channels: Tensor,
        reader: MotionReader | None = None,
    ) -> None:
        """`channels` (C, 1, 1): loss weights of the latent channels. Without `reader` there is no `motion` term."""
        self.config, self.recipe, self.autoencoder, self.channels = config, recipe, autoencoder, channels
        self.reader = reader if recipe.motion else None
        self.perceptual = choose_perceptual(recipe.perceptual_kind, channels.device)
        self.discriminator: Discriminator | None = None
        if recipe.adversarial:
            self.discriminator = Discriminator(recipe.discriminator_width).to(channels.device)

    def modules(self) -> dict[str, nn.Module]:
        """What learns beside the model."""
        return {} if self.discriminator is None else {"discriminator": self.discriminator}

    def losses(
        self,
        clean: Tensor,
        target: Tensor,
        landmarks: Tensor,
        pictures: Tensor,
        seen: Callable[[], Observation],
        rng: random.Random,
        step: int,
    ) -> dict[str, Tensor]:
        """B references with F frames each: estimated and true latents (B, F, C, h, w), landmarks (B, F, 68, 2), true
        pictures (B, F, 3, H, W) uint8 and, if the motion term asks, what the motion networks saw in them (B * F, ...)
        -> losses.
        """
        recipe, side = self.recipe, clean.shape[-1]
        regions, shape = recipe.regions, clean.shape[:2]
        landmarks, pictures = landmarks.flatten(0, 1), pictures.flatten(0, 1)
        weights = region_weights(landmarks, side, regions.detail, regions.face, regions.rest) * self.channels
        weights = weights.view(*shape, *weights.shape[1:])
        error = clean - target
        found = {"latent": (charbonnier(error) * weights).mean()}
        total = recipe.latent * found["latent"]
        if recipe.change:
            found["change"] = (charbonnier(error - error.mean(1, keepdim=True)) * weights).mean()
            total = total + recipe.change * found["change"]
        clean, target = clean.flatten(0, 1), target.flatten(0, 1)  # (B, F, ...) -> (B * F, ...)
        if recipe.squared or recipe.perceptual or recipe.adversarial:
            chosen = rng.sample(range(len(clean)), min(recipe.decoded_frames, len(clean)))
            parts = (clean[chosen], target[chosen], landmarks[chosen], pictures[chosen])
            output, truth, weight = self._decoded(*parts)
            found["squared"] = ((output - truth).square() * weight).mean()
            found["perceptual"] = self.perceptual(output, truth, weight)
            total = total + recipe.squared * found["squared"] + recipe.perceptual * found["perceptual"]
            if self.discriminator is not None and step >= recipe.adversarial_from:
                found["adversarial"], found["discriminator"] = adversarial(self.discriminator, output, truth)
                total = total + recipe.adversarial * found["adversarial"] + found["discriminator"]
        if self.reader is not None:
            chosen = rng.sample(range(len(clean)), min(recipe.motion_frames, len(clean)))
            output = self.autoencoder.decode_signed(clean[chosen])
            found["motion"] = self.reader.loss(output, seen().at(chosen), recipe.motion_signals)
            total = total + recipe.motion * found["motion"]
        return {"loss": total, **found}

    def _decoded(
        self, clean: Tensor, target: Tensor, landmarks: Tensor, pictures: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In pixels: the estimates, the true latents, and region weights, (n, 3 | 1, S, S) in [-1, 1].

        Squares around the face, of the recipe's share of the picture; at 1 the whole picture against its true pixels.
        """
        side, factor = clean.shape[-1], self.config.autoencoder.downscale
        crop = max(1, round(side * self.recipe.decoded_share))
        detail = self.recipe.regions.detail
        ours, theirs, weights = [], [], []
        for index in range(len(clean)):
            middle = (landmarks[index, 17:].mean(0) + 1) / 2 * side
            x, y = (int(v) for v in (middle - crop / 2).round().clamp(0, side - crop))
            ours.append(clean[index, :, y : y + crop, x : x + crop])
            theirs.append(target[index, :, y : y + crop, x : x + crop])
            full = region_weights(landmarks[index : index + 1], side * factor, detail)[0]
            weights.append(full[:, y * factor : (y + crop) * factor, x * factor : (x + crop) * factor])
        with torch.no_grad():
            whole = pictures.float() / 127.5 - 1
            truth = whole if crop == side else self.autoencoder.decode_signed(torch.stack(theirs))
        return self.autoencoder.decode_signed(torch.stack(ours)), truth, torch.stack(weights)


def motion_reader(config: ModelConfig, recipe: Judgement, frozen: Frozen, folder: Path | None) -> MotionReader | None:
    """What the `motion` term needs, if the recipe asks for one; for a stage in a run folder."""
    if not recipe.motion or folder is None:
        return None
    device = next(frozen.autoencoder.parameters()).device
    return MotionReader(config, frozen.motion_encoder.to(device), folder)


def adversarial(discriminator: Discriminator, output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The generator's and the discriminator's loss (non-saturating; hinge), so that one backward pass serves both.

    The generator's loss reaches `output` through a copy of the discriminator that takes no gradient; the
    discriminator's loss sees a detached output.
    """
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    fooled: Tensor = functional_call(discriminator, fixed, (output,))
    generator = nn.functional.softplus(-fooled).mean()
    real, made = discriminator(truth), discriminator(output.detach())
    return generator, (1 - real).clamp(min=0).mean() + (1 + made).clamp(min=0).mean()
