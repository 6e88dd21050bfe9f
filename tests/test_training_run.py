"""A stage from a folder of shards, with everybody in memory or some people after others."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from people import made_up
from personalive.config import TOY
from personalive.data.face_mesh import save_face_mesh
from personalive.data.geometry import HeadTruth
from personalive.data.shards import PersonRecord, write_shard
from personalive.errors import ConfigError, InputError
from personalive.training import run
from personalive.training.loop import RunOptions
from personalive.training.recipe import load_recipe
from toy_mesh import LANDMARKS, WARP, toy_mesh

RECIPE = load_recipe(None, {"autoencoder.optimisation.steps": 6, "autoencoder.optimisation.batch": 2})


def person(name: str, seed: int) -> PersonRecord:
    noise = np.random.default_rng(seed).integers(0, 255, (8, TOY.image_size, TOY.image_size, 3), np.uint8)
    return dataclasses.replace(made_up(name, 8), images=noise)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(2):
        everybody = [person(f"p{number}{i}", 10 * number + i) for i in range(3)]
        write_shard(folder / f"train-{number:05d}.tar", everybody)
    write_shard(folder / "test-00000.tar", [person("held-out", 99)])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    average: dict[str, torch.Tensor] = torch.load(folder / "autoencoder.checkpoint", weights_only=True)["average"]
    return average


def train(shards: Path, folder: Path, **options: object) -> dict[str, float]:
    chosen = RunOptions(folder, **options)  # type: ignore[arg-type]
    return run.train_stage("autoencoder", TOY, RECIPE, shards, chosen)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Who is in memory each time that a stage is built."""
    names: list[tuple[str, ...]] = []
    build = run._build

    def watched(*arguments: Any) -> object:
        names.append(next(one.train.names for one in arguments if isinstance(one, run._Data)))
        return build(*arguments)

    monkeypatch.setattr(run, "_build", watched)
    return names


def test_people_come_in_turns_and_a_run_goes_on_with_those_whose_turn_it_is(
    shards: Path, tmp_path: Path, seen: list[tuple[str, ...]]
) -> None:
    assert train(shards, tmp_path / "whole", people_at_once=2, steps_at_once=2)["l1"] > 0
    assert [len(names) for names in seen] == [2, 2, 2]
    assert len({name for names in seen for name in names}) == 6  # everybody, once
    whole, order = weights(tmp_path / "whole"), list(seen)

    seen.clear()

    def interrupt(step: int, _steps: int | None) -> None:
        if step == 3:  # in the middle of the second turn
            os.kill(os.getpid(), signal.SIGTERM)

    train(shards, tmp_path / "parts", people_at_once=2, steps_at_once=2, report=interrupt)
    train(shards, tmp_path / "parts", people_at_once=2, steps_at_once=2)
    assert seen == [order[0], order[1], order[1], order[2]]
    parts = weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_everybody_is_in_memory_by_default(shards: Path, tmp_path: Path, seen: list[tuple[str, ...]]) -> None:
    assert train(shards, tmp_path)["l1"] > 0
    assert [len(names) for names in seen] == [6]


def test_landmarks_are_learned_from_larger_pictures_and_the_mesh_beside_them(tmp_path: Path) -> None:
    data, config = tmp_path / "data", dataclasses.replace(TOY, warp=WARP)
    data.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        head = HeadTruth(
            identity=np.zeros(4, np.float32),
            camera=np.ones(3, np.float32),
            pose=np.zeros((3, 6), np.float32),
            dense=rng.uniform(-0.5, 0.5, (3, LANDMARKS, 2)).astype(np.float32),
            dense_visible=np.ones((3, LANDMARKS), bool),
        )
        known = dataclasses.replace(made_up(name, 3, side=2 * TOY.image_size), head=head)
        write_shard(data / f"{name}-00000.tar", [known])
    recipe = load_recipe(None, {"landmarks.optimisation.steps": 2, "landmarks.optimisation.batch": 2})
    options = RunOptions(tmp_path / "run")
    with pytest.raises(InputError, match=r"face_mesh\.safetensors is missing"):
        run.train_stage("landmarks", config, recipe, data, options)
    with pytest.raises(ConfigError, match="config 'toy' has no reference warp, which stage landmarks is for"):
        run.train_stage("landmarks", TOY, recipe, data, options)
    save_face_mesh(toy_mesh(), data)
    assert run.train_stage("landmarks", config, recipe, data, options)["all"] > 0
    assert (tmp_path / "run" / "landmarks.safetensors").exists()
