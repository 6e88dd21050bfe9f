"""Two processes that hold half of the weights each (FSDP, gloo) do what one does."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from made_up_people import corpus, toy_config
from personalive.errors import ConfigError
from personalive.models.autoencoder import Autoencoder
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.training import sharding
from personalive.training.checkpoint import save_modules
from personalive.training.image_stage import ImageStage
from personalive.training.loop import RunOptions, train
from personalive.training.processes import Processes
from personalive.training.recipe import Optimisation, Recipe
from personalive.training.rollout_stage import RolloutStage
from personalive.training.stream_stage import StreamStage
from toy_stage import join_two

RATE = 1e-4


def run_stage(name: str, folder: Path, steps: int, shard: bool = False) -> None:
    """One stage in a run folder; the rate does not depend on the number of steps."""
    config, people, held_out = toy_config(), corpus(), corpus(1, seed=1)
    recipe = getattr(Recipe(), name)
    settings = Optimisation(
        steps=steps, batch=1, rate=RATE, accumulate=2, optimiser="adamw", warmup=1, decay_from=1.0, clip=0.01,
        checkpointing=True,
    )  # fmt: skip
    recipe = dataclasses.replace(recipe, optimisation=settings)
    kind: Any = {"image": ImageStage, "rollout": RolloutStage, "stream": StreamStage}[name]
    torch.manual_seed(0)
    stage = kind(config, recipe, folder, people, held_out)
    train(stage, RunOptions(folder, log_steps=1, shard=shard))


def work(rank: int, port: int, folder: str) -> None:
    join_two(rank, port)
    sharding.LARGE, sharding.LAYER = 1, 1500
    for name in ("image", "rollout", "stream"):
        run_stage(name, Path(folder), 2, shard=True)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The stages in one process and in two; the second run's rollout begins from the first one's checkpoint."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    config = toy_config()
    torch.manual_seed(1)
    whitening = nn.BatchNorm2d(config.autoencoder.latent_channels, affine=False)
    motion = {
        "motion_extractor": MotionExtractor(config.motion_extractor),
        "motion_encoder": MotionEncoder(config.motion_encoder),
    }
    save_modules(
        {"autoencoder": Autoencoder(config.autoencoder), "whitening": whitening},
        one / "autoencoder.safetensors",
        config,
    )
    save_modules(motion, one / "motion.safetensors", config)
    for file in one.iterdir():
        shutil.copy(file, two)
    run_stage("image", one, 2)
    run_stage("rollout", one, 1)
    for kept in ("rollout.checkpoint", "rollout.csv"):
        shutil.copy(one / kept, two)
    run_stage("rollout", one, 2)
    run_stage("stream", one, 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    torch.multiprocessing.spawn(work, args=(port, str(two)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return one, two


def figures(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


STAGES = pytest.mark.parametrize("stage", ["image", "rollout", "stream"])


@pytest.mark.slow
@STAGES
def test_losses_are_those_of_one_process(folders: tuple[Path, Path], stage: str) -> None:
    one, two = (figures(folder / f"{stage}.csv") for folder in folders)
    assert len(one) == len(two) == 2
    for ours, theirs in zip(one, two, strict=True):
        for key in ("loss", "gradient"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-4)
        assert ours["gradient"] > 0.01  # clipping did something
    one, two = (figures(folder / f"{stage}.validation.csv") for folder in folders)
    for key, value in one[-1].items():
        assert two[-1][key] == pytest.approx(value, rel=1e-3), key


@pytest.mark.slow
@STAGES
def test_checkpoints_are_those_of_one_process(folders: tuple[Path, Path], stage: str) -> None:
    """Weights, averages and the optimiser's states, by the same names and whole."""
    one, two = (torch.load(folder / f"{stage}.checkpoint", weights_only=True) for folder in folders)
    assert one["optimiser"]["param_groups"] == two["optimiser"]["param_groups"]
    flat = [
        {f"{module}.{name}": value for module, state in c["modules"].items() for name, value in state.items()}
        for c in (one, two)
    ]
    for ours, theirs in (flat, (one["average"], two["average"])):
        assert ours.keys() == theirs.keys()
        for name in ours:
            close(ours[name], theirs[name], name)
    states = [c["optimiser"]["state"] for c in (one, two)]
    assert states[0].keys() == states[1].keys()
    largest = max(float(state["exp_avg"].abs().max()) for state in states[0].values())
    for index, state in states[0].items():
        assert state["step"] == states[1][index]["step"]
        assert state["exp_avg"].shape == states[1][index]["exp_avg"].shape
        assert float((state["exp_avg"] - states[1][index]["exp_avg"]).abs().max()) < 1e-4 * largest


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    """AdamW turns a gradient that is nothing but rounding into a whole step: few may differ, and by no more."""
    assert ours.shape == theirs.shape, name
    difference = (ours.float() - theirs.float()).abs()
    assert float(difference.max()) <= 4.1 * RATE, name
    assert float((difference > 0.02 * RATE).float().mean()) < 0.05, name


def test_what_needs_whole_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "count", 2)
    processes = Processes("cpu", sharded=True)
    processes.accept(Optimisation(steps=1, batch=1, rate=0.1, accumulate=2, optimiser="adamw"))
    with pytest.raises(ConfigError, match='optimiser to "adamw"'):
        processes.accept(Optimisation(steps=1, batch=1, rate=0.1, accumulate=2, optimiser="muon"))


def test_one_process_has_nothing_to_shard() -> None:
    assert not Processes("cpu", sharded=True).sharded
