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
from personalive.data.shards import PersonRecord, write_shard
from personalive.training import run
from personalive.training.loop import RunOptions
from personalive.training.recipe import load_recipe

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
