from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personalive.config import TOY, override
from personalive.errors import ConfigError, WeightsError
from personalive.training import sharding
from personalive.training.checkpoint import TrainingError, load_modules, save_modules
from personalive.training.loop import RunOptions, train
from personalive.training.optimiser import MuonAdamW, build_optimiser, orthogonalise
from personalive.training.processes import Processes, seeded
from personalive.training.recipe import Optimisation
from toy_stage import Regression, join_two

HALF = {"precision": "bfloat16", "weights": "bfloat16", "offload": True}


@pytest.mark.parametrize("settings", [{"optimiser": "adamw"}, {"optimiser": "muon"}, HALF])
@pytest.mark.parametrize("updates", [1, 3])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, settings: dict[str, Any], updates: int) -> None:
    made = [Regression(40, updates=updates, accumulate=2, **settings) for _ in range(3)]
    whole, first, second = made
    before = first.frozen.weight.clone()
    train(whole, RunOptions(tmp_path / "a"))
    # The first part ends early (as a budget would end it), the second resumes under the full schedule.
    assert train(first, RunOptions(tmp_path / "b"), until=17).step == 17
    assert train(second, RunOptions(tmp_path / "b")).step == 40
    assert first.seen + second.seen == whole.seen
    assert torch.equal(whole.layer.weight, second.layer.weight)
    assert torch.equal(before.to(first.frozen.weight.dtype), first.frozen.weight)
    loaded = [nn.Linear(1, 1), nn.Linear(1, 1)]
    for module, folder in zip(loaded, "ab", strict=True):
        load_modules({"layer": module}, tmp_path / folder / "regression.safetensors")
    assert torch.equal(loaded[0].weight, loaded[1].weight)
    assert abs(loaded[0].weight.item() - 2) < abs(Regression(1).layer.weight.item() - 2)


def test_two_batches_are_one_twice_as_large() -> None:
    """The gradient of an accumulated step is the mean over its batches."""
    stage = Regression(1, accumulate=2, optimiser="adamw", clip=1e9)
    losses = [next(stage.losses(_seeded_draw(0, 0, index), 0))["loss"] for index in (0, 1)]
    (sum(losses, torch.zeros(())) / 2).backward()  # type: ignore[no-untyped-call]
    assert stage.layer.weight.grad is not None
    wanted = stage.layer.weight.grad.clone()
    other = Regression(1, accumulate=2, optimiser="adamw", clip=1e9)
    seen: list[Tensor] = []
    other.layer.weight.register_hook(lambda gradient: seen.append(gradient.clone()))  # type: ignore[no-untyped-call]
    from personalive.training.learner import Learner

    Learner(other, Processes("cpu")).step(0, 0)
    assert torch.allclose(sum(seen, torch.zeros(())), wanted, atol=1e-6)


def _seeded_draw(*parts: int) -> random.Random:
    rng = seeded(*parts)
    seeded(*parts, 0)
    return rng


def test_random_numbers_are_a_function_of_their_seed() -> None:
    first = (seeded(1, 2, 3).random(), torch.rand(2).tolist())
    assert first == (seeded(1, 2, 3).random(), torch.rand(2).tolist())
    assert first != (seeded(1, 2, 4).random(), torch.rand(2).tolist())


def test_a_budget_of_nothing_saves_and_stops(tmp_path: Path) -> None:
    ended = train(Regression(1000), RunOptions(tmp_path, budget_minutes=0.0))
    assert ended.stopped
    assert "weight" in ended.figures
    assert torch.load(tmp_path / "regression.checkpoint", weights_only=True)["step"] <= 1


def test_sigterm_saves_and_stops(tmp_path: Path) -> None:
    stage = Regression(1000)
    stage.at_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    ended = train(stage, RunOptions(tmp_path))
    assert (ended.stopped, ended.step) == (True, 6)
    assert "weight" in ended.figures
    assert torch.load(tmp_path / "regression.checkpoint", weights_only=True)["step"] == 6
    assert (tmp_path / "regression.safetensors").exists()


def test_not_a_number_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train(Regression(5), RunOptions(tmp_path))
    before = (tmp_path / "regression.checkpoint").read_bytes()
    with pytest.raises(TrainingError, match=r"step 7: the loss is nan; .*regression.checkpoint is from before"):
        train(Regression(20, bad_at=7), RunOptions(tmp_path))
    assert (tmp_path / "regression.checkpoint").read_bytes() == before


def test_the_log_has_rows_pictures_and_a_board(tmp_path: Path) -> None:
    reported: list[tuple[int, int | None]] = []
    train(Regression(20), RunOptions(tmp_path, log_steps=10, report=lambda a, b: reported.append((a, b))))
    with (tmp_path / "regression.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == [10, 20]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert reported[-1] == (20, 20)
    assert (tmp_path / "regression.png").exists()
    with (tmp_path / "regression.validation.csv").open() as file:
        assert float(next(csv.DictReader(file))["weight"]) > 0
    pytest.importorskip("tensorboard")
    assert any((tmp_path / "tensorboard" / "regression").iterdir())


# ---------------------------------------------------------------- checkpoints


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Regression(2), RunOptions(tmp_path))
    foreign = Regression(4)
    foreign.layer = nn.Linear(3, 1)
    with pytest.raises(TrainingError, match="does not fit"):
        train(foreign, RunOptions(tmp_path))


def test_a_checkpoint_of_another_config_names_the_field(tmp_path: Path) -> None:
    train(Regression(2), RunOptions(tmp_path))
    other = Regression(4)
    other.config = override(TOY, {"stream.tau": 9.0})
    with pytest.raises(TrainingError, match=r"stream\.tau is 0\.5 there, 9\.0 here"):
        train(other, RunOptions(tmp_path))


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "regression.checkpoint").write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="does not fit this run"):
        train(Regression(2), RunOptions(tmp_path))


def test_a_disk_that_is_full_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(Regression(5), RunOptions(tmp_path))
    before = (tmp_path / "regression.checkpoint").read_bytes()

    def full(_state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(Regression(9), RunOptions(tmp_path))
    assert (tmp_path / "regression.checkpoint").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_part_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--stage motion"):
        load_modules({"x": nn.Linear(1, 1)}, tmp_path / "motion.safetensors")
    (tmp_path / "motion.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_modules({"x": nn.Linear(1, 1)}, tmp_path / "motion.safetensors")


def test_saved_modules_come_back(tmp_path: Path) -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    save_modules({"m": a}, tmp_path / "x.safetensors", TOY)
    load_modules({"m": b}, tmp_path / "x.safetensors")
    assert torch.equal(a.weight, b.weight)
    with pytest.raises(WeightsError, match="does not fit"):
        load_modules({"m": nn.Linear(4, 3)}, tmp_path / "x.safetensors")


# ---------------------------------------------------------------- optimisers


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalise(matrix)
    assert torch.linalg.svdvals(found).tolist() == pytest.approx([1.0] * min(shape), abs=0.4)
    assert float((found - left @ right).norm() / (left @ right).norm()) < 0.4


def test_vectors_learn_by_adamw_exactly() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(6)), nn.Parameter(torch.zeros(6))
    theirs.data.copy_(ours.data)
    a = MuonAdamW([{"params": [ours]}], lr=0.01, betas=(0.9, 0.99))
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(6)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step(), b.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_takes_matrices_and_kernels_only() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5))
    named = {f"x.{name}": p for name, p in network.named_parameters()}
    named["x.conv_in.weight"] = nn.Parameter(torch.zeros(2, 2))
    optimiser = build_optimiser(named, Optimisation(steps=1, batch=1, rate=0.1, optimiser="muon"))
    muon = {id(p) for group in optimiser.param_groups if group["muon"] for p in group["params"]}
    assert muon == {id(network[0].weight), id(network[1].weight)}


def test_eight_bit_states_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        build_optimiser({}, Optimisation(steps=1, batch=1, rate=0.1, optimiser="adamw8bit"))


# ---------------------------------------------------------------- several processes


def _worker(rank: int, port: int, folder: str, accumulate: int) -> None:
    join_two(rank, port)
    sharding.LARGE = 1
    for name, settings in WAYS.items():
        stage = Regression(8, accumulate=accumulate, updates=2, decay_from=1.0, **settings)
        ended = train(stage, RunOptions(Path(folder) / name, log_steps=2, shard="shard" in name))
        assert bool(ended.figures) == (rank == 0)
    torch.distributed.destroy_process_group()


WAYS: dict[str, dict[str, Any]] = {"whole": {}, "shard": {}, "offloaded shard": {"offload": True}}
"""How two processes hold the weights. Sharded, the only matrix has one row: the second process holds none of it."""


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(_worker, args=(_free_port(), str(folder), 2), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_give_the_losses_and_weights_of_one(tmp_path: Path, two_processes: Path, way: str) -> None:
    train(Regression(8, accumulate=2, updates=2, decay_from=1.0), RunOptions(tmp_path, log_steps=2))
    folders = (tmp_path, two_processes / way)
    rows = []
    for folder in folders:
        with (folder / "regression.csv").open() as file:
            rows.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert len(rows[0]) == 4
    assert rows[0] == pytest.approx(rows[1], abs=1e-5)
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    for layer, folder in zip(layers, folders, strict=True):
        load_modules({"layer": layer}, folder / "regression.safetensors")
    assert torch.allclose(layers[0].weight, layers[1].weight, atol=1e-6)
    one, two = (torch.load(folder / "regression.checkpoint", weights_only=True) for folder in folders)
    assert one["optimiser"]["state"].keys() == two["optimiser"]["state"].keys()
    for index, state in one["optimiser"]["state"].items():
        for key, value in state.items():
            assert torch.allclose(value, two["optimiser"]["state"][index][key], atol=1e-5), key


def test_one_process_goes_on_from_two_that_shared_the_weights(tmp_path: Path, two_processes: Path) -> None:
    settings: dict[str, Any] = {"accumulate": 2, "updates": 2, "decay_from": 1.0}
    whole = Regression(12, **settings)
    train(whole, RunOptions(tmp_path / "whole"))
    shutil.copytree(two_processes / "shard", tmp_path / "rest")
    rest = Regression(12, **settings)
    train(rest, RunOptions(tmp_path / "rest"))
    assert len(rest.seen) == (12 - 8) * 2 * 2
    assert torch.allclose(whole.layer.weight, rest.layer.weight, atol=1e-5)


def test_processes_that_cannot_share_evenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes("cpu")
    monkeypatch.setattr(Processes, "count", 2)
    assert list(processes.share(4)) == [0, 2]
    with pytest.raises(ConfigError, match="multiple of 2"):
        processes.share(3)
