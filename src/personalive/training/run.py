"""From a folder of shards to a trained model: which stage needs what, and how the parts become one file."""

from __future__ import annotations

import logging
from pathlib import Path

from personalive.config import ModelConfig
from personalive.contracts import Networks
from personalive.errors import InputError
from personalive.training.loop import RunOptions, Stage, load_modules, train
from personalive.training.recipe import Recipe

logger = logging.getLogger(__name__)


def train_stage(name: str, config: ModelConfig, recipe: Recipe, data: Path, options: RunOptions) -> dict[str, float]:
    """Train one stage on the shards of `data` (train-*.tar, test-*.tar) in the run folder; its last validation."""
    from personalive.training.clips import load_corpus

    logger.info("reading the shards of %s", data)
    train_corpus = load_corpus(_shards(data, "train"))
    held_out = load_corpus(_shards(data, "test"))
    logger.info("%d people to train on, %d held out", train_corpus.people, held_out.people)
    folder = options.folder
    stage: Stage
    if name == "autoencoder":
        from personalive.training.autoencoder_stage import AutoencoderStage

        stage = AutoencoderStage(config, recipe.autoencoder, train_corpus, held_out)
    elif name == "motion":
        from personalive.training.motion_stage import MotionStage

        stage = MotionStage(config, recipe.motion, train_corpus, held_out)
    elif name == "image":
        from personalive.training.image_stage import ImageStage

        stage = ImageStage(config, recipe.image, folder, train_corpus, held_out)
    elif name == "rollout":
        from personalive.training.image_stage import RolloutStage

        stage = RolloutStage(config, recipe.rollout, folder, train_corpus, held_out)
    else:
        from personalive.training.stream_stage import StreamStage

        stage = StreamStage(config, recipe.stream, folder, train_corpus, held_out)
    return train(stage, options)


def _shards(data: Path, split: str) -> list[Path]:
    paths = sorted(data.glob(f"{split}-*.tar"))
    if not paths:
        raise InputError(f"{data} holds no {split}-*.tar: render people with `personalive data render -o {data}`")
    return paths


def assemble(config: ModelConfig, folder: Path) -> Networks:
    """All networks of a run folder, from the last denoiser stage that is there: stream, rollout or image."""
    from personalive.training.image_stage import MODULES
    from personalive.training.prepared import Denoiser, load_frozen

    frozen = load_frozen(config, folder)
    denoiser = Denoiser(config)
    stages = [stage for stage in ("stream", "rollout", "image") if (folder / f"{stage}.safetensors").exists()]
    if not stages:
        raise InputError(f"{folder} holds no trained denoiser: run `personalive train --stage image` first")
    load_modules({name: getattr(denoiser, name) for name in MODULES}, folder / f"{stages[0]}.safetensors")
    denoiser.eval().requires_grad_(False)
    return Networks(
        config=config,
        autoencoder=frozen.autoencoder,
        motion_extractor=frozen.motion_extractor,
        motion_encoder=frozen.motion_encoder,
        **{name: getattr(denoiser, name) for name in MODULES},
    )
