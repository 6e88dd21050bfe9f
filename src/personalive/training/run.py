"""From a folder of shards to a trained model: which stage needs what, and how the parts become one file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from personalive.config import ModelConfig
from personalive.contracts import Networks
from personalive.data.face_mesh import load_face_mesh
from personalive.errors import ConfigError, InputError
from personalive.training.autoencoder_stage import AutoencoderStage
from personalive.training.checkpoint import load_modules, reached, save_modules
from personalive.training.clips import Corpus, check_apart, load_corpus, stream_corpora
from personalive.training.compose_stage import ComposeStage
from personalive.training.estimate import ESTIMATED, estimate
from personalive.training.expression_stage import ExpressionStage
from personalive.training.image_stage import ImageStage
from personalive.training.landmark_stage import LandmarkStage
from personalive.training.loop import RunOptions, Stage, train
from personalive.training.motion_stage import MotionStage
from personalive.training.prepared import MODULES, Denoiser, load_frozen, with_guider
from personalive.training.prepared_warps import load_reference_warp
from personalive.training.processes import Processes, seeded
from personalive.training.recipe import Recipe
from personalive.training.rollout_stage import RolloutStage
from personalive.training.stream_stage import StreamStage
from personalive.training.surface_stage import SurfaceStage

logger = logging.getLogger(__name__)


def train_stage(
    name: str, config: ModelConfig, recipe: Recipe, data: Path, options: RunOptions, init: Networks | None = None
) -> dict[str, float]:
    """Train one stage on the shards of `data` (train-*.tar, test-*.tar) in the run folder; its last validation.

    `init`: a trained model to begin with; its parts count as the finished stages before this one. Of several processes
    (accelerate) only the first returns figures.
    """
    processes = Processes(options.device, options.shard)
    processes.accept(getattr(recipe, name).optimisation)
    if processes.device.type == "cuda" and name in ESTIMATED:
        _refuse_what_does_not_fit(name, config, recipe, processes)
    if processes.first:
        logger.info("reading the shards of %s", data)
    shards = _shards(data, "train")
    size = None if name == "landmarks" else config.image_size  # its crops are cut out of larger pictures
    held_out = load_corpus(_shards(data, "test"), size=size)
    if init is not None and processes.first:
        start_from(init, options.folder)
    processes.wait()
    begin, budget = time.monotonic(), options.budget_minutes
    for people, until in _people(shards, size, name, options):
        check_apart(people, held_out)
        if processes.first:
            logger.info("%d people to train on, %d held out", people.people, held_out.people)
        seeded(options.seed)  # of fresh weights
        stage = _build(name, config, recipe, options.folder, _Data(data, people, held_out), processes)
        own = _OWN_PARTS.get(name, ())
        if name in _WARP_STAGES and init is not None and init.reference_warp is None:
            own = ()
        if init is not None and own:  # later stages begin from the parts of the stage before them anyway
            load_modules({part: stage.modules()[part] for part in own}, options.folder / f"{name}.safetensors")
        left = None if budget is None else budget - (time.monotonic() - begin) / 60
        ended = train(stage, replace(options, budget_minutes=left), processes, until)
        if ended.stopped or ended.step >= stage.optimisation.steps:
            break
        options = replace(options, resume=True)
        processes.wait()  # until the first one has written what all go on from
    return ended.figures


@dataclass(frozen=True)
class _Data:
    """The folder of the shards and the head mesh, and who of it is in memory."""

    folder: Path
    train: Corpus
    held_out: Corpus


_WARP_STAGES = ("landmarks", "expression", "surface", "compose")
_OWN_PARTS = {
    "motion": ("motion_extractor", "motion_encoder"),
    "landmarks": ("landmarks",),
    "surface": ("surface",),
    "image": MODULES,
    "compose": ("compositor",),
}
"""What a stage takes from a trained model to begin with. The expression stage begins in closed form."""


def _people(paths: list[Path], size: int | None, name: str, options: RunOptions) -> Iterator[tuple[Corpus, int | None]]:
    """Who is in memory, and until which step: everybody to the end, or some people after others.

    Which people a step sees is a function of the seed and the step, so that a run that goes on finds the same ones.
    """
    count, steps = options.people_at_once, options.steps_at_once
    if count is None:
        yield load_corpus(paths, size=size), None
        return
    step = reached(options.folder / f"{name}.checkpoint") if options.resume else 0
    corpora = stream_corpora(paths, count, size, seed=options.seed, skip=step // steps)
    for number, people in enumerate(corpora, step // steps + 1):
        yield people, number * steps


def _refuse_what_does_not_fit(name: str, config: ModelConfig, recipe: Recipe, processes: Processes) -> None:
    """Tell what memory a stage will take on a GPU. Raises ConfigError when it is more than the GPU has."""
    found = estimate(name, config, recipe, processes.count if processes.sharded else 1)
    if processes.first:
        for line in found.lines():
            logger.info(line)
    found.check(torch.cuda.mem_get_info(processes.device)[1])


def _build(name: str, config: ModelConfig, recipe: Recipe, folder: Path, data: _Data, processes: Processes) -> Stage:
    """A stage on its data. The first process computes what all then read from the run folder."""
    train, held_out = data.train, data.held_out
    if name in _WARP_STAGES and not config.warp.enabled:
        raise ConfigError(
            f"config {config.name!r} has no reference warp, which stage {name} is for: --config-set warp.enabled=true"
        )
    device = processes.device
    if name == "autoencoder":
        return AutoencoderStage(config, recipe.autoencoder, train, held_out, device)
    if name == "motion":
        return MotionStage(config, recipe.motion, train, held_out, device)
    if name == "landmarks":
        mesh = load_face_mesh(data.folder, config.warp.mesh)
        return LandmarkStage(config, recipe.landmarks, mesh, train, held_out, device)

    if name == "surface":
        return SurfaceStage(config, recipe.surface, folder, train, held_out, device)

    def prepared() -> Stage:
        if name == "expression":
            return ExpressionStage(config, recipe.expression, folder, train, held_out, device)
        if name == "compose":
            return ComposeStage(config, recipe.compose, folder, train, held_out, device)
        if name == "image":
            return ImageStage(config, recipe.image, folder, train, held_out, device)
        if name == "rollout":
            return RolloutStage(config, recipe.rollout, folder, train, held_out, device)
        return StreamStage(config, recipe.stream, folder, train, held_out, device)

    stage = prepared() if processes.first else None
    processes.wait()
    return stage or prepared()


def _shards(data: Path, split: str) -> list[Path]:
    paths = sorted(data.glob(f"{split}-*.tar"))
    if not paths:
        raise InputError(f"{data} holds no {split}-*.tar: render people with `personalive data render -o {data}`")
    return paths


def assemble(config: ModelConfig, folder: Path) -> Networks:
    """All networks of a run folder, from the last denoiser stage that is there: stream, rollout or image."""
    frozen = load_frozen(config, folder)
    denoiser = Denoiser(config)
    stages = [stage for stage in ("stream", "rollout", "image") if (folder / f"{stage}.safetensors").exists()]
    if not stages:
        raise InputError(f"{folder} holds no trained denoiser: run `personalive train --stage image` first")
    load_modules(denoiser.parts(), folder / f"{stages[0]}.safetensors")
    denoiser.eval().requires_grad_(False)
    return Networks(
        config=config,
        autoencoder=frozen.autoencoder,
        motion_extractor=frozen.motion_extractor,
        motion_encoder=frozen.motion_encoder,
        reference_warp=with_guider(load_reference_warp(config, folder), denoiser),
        **{name: getattr(denoiser, name) for name in MODULES},
    )


def start_from(networks: Networks, folder: Path) -> None:
    """Fill a run folder with a trained model's parts, as if every stage up to `rollout` had just ended there.

    Parts that the folder has already are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = networks.config
    nothing = nn.BatchNorm2d(config.autoencoder.latent_channels, affine=False)  # its whitening is folded in already
    nothing.running_var = torch.ones(config.autoencoder.latent_channels) - nothing.eps
    parts: dict[str, dict[str, nn.Module]] = {
        "autoencoder": {"autoencoder": networks.autoencoder, "whitening": nothing},
        "motion": {"motion_extractor": networks.motion_extractor, "motion_encoder": networks.motion_encoder},
    }
    denoiser: dict[str, nn.Module] = {name: getattr(networks, name) for name in MODULES}
    warp = networks.reference_warp
    if warp is not None:
        denoiser["warp_guider"] = warp.guider
        parts |= {
            "landmarks": {"mesh": warp.mesh, "landmarks": warp.landmarks},
            "expression": {"expression": warp.expression},
            "surface": {"surface": warp.surface},
            "compose": {"compositor": warp.compositor},
        }
    parts |= {"image": denoiser, "rollout": denoiser}
    for stage, modules in parts.items():
        path = folder / f"{stage}.safetensors"
        if not path.exists():
            save_modules({name: module.float() for name, module in modules.items()}, path, config)
