"""Made-up training people: noise pictures with plausible ground truth. A fixture of training tests, no tests here."""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.config import TOY, ModelConfig, override
from personalive.training.clips import Corpus

SIDE = TOY.image_size


def corpus(people: int = 3, frames: int = 12, seed: int = 0) -> Corpus:
    """Made-up people: noise pictures, plausible ground truth; two pose groups of three frames, then a clip."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    canonical = (rand(people, 21, 3) - 0.5) * 0.8
    group = torch.tensor([0, 1, 1, 1, 2, 2, 2] + [3] * (frames - 7)).expand(people, -1)
    return Corpus(
        images=(rand(people, frames, 3, SIDE, SIDE) * 255).byte(),
        expression=rand(people, frames, 53),
        angles=(rand(people, frames, 3) - 0.5) * 40,
        scale=0.9 + 0.2 * rand(people, frames),
        translation=(rand(people, frames, 2) - 0.5) * 0.2,
        canonical=canonical,
        landmarks=rand(people, frames, 68, 2) - 0.5,
        group=group,
        clip_start=torch.full((people,), 7),
    )


def toy_config() -> ModelConfig:
    """The toy sizes with the switches of the built-in model."""
    return override(
        TOY,
        {
            "autoencoder.scaling_factor": 1.0,
            "unet.motion_in_time": True,
            "unet.reference_pose": True,
            "keypoints.soft": True,
            "stream.prediction": "v_prediction",
        },
    )
