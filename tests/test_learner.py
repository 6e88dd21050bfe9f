"""How weights are held while they learn: on the CPU the arithmetic of every way can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from personalive.errors import ConfigError
from personalive.training.learner import Learner
from personalive.training.loop import RunOptions, train
from personalive.training.processes import Processes
from personalive.training.recipe import Optimisation
from toy_stage import Regression

HALF: dict[str, Any] = {"precision": "bfloat16", "weights": "bfloat16"}


def learned(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The averaged weights of a run of thirty steps."""
    train(Regression(30, accumulate=2, ema=0.9, **settings), RunOptions(folder))
    return load_file(folder / "regression.safetensors")


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_offloading_changes_no_bit(tmp_path: Path, optimiser: str) -> None:
    """Weights, states and average apart from the modules, and as the modules' own memory."""
    plain = learned(tmp_path / "a", optimiser=optimiser)
    apart = learned(tmp_path / "b", optimiser=optimiser, offload=True)
    assert plain.keys() == apart.keys()
    assert all(torch.equal(plain[name], apart[name]) for name in plain)


def test_a_plain_run_goes_on_offloaded(tmp_path: Path) -> None:
    whole = learned(tmp_path / "a")
    stage = Regression(30, accumulate=2, ema=0.9)
    stage.at_step = lambda step: (_ for _ in ()).throw(KeyboardInterrupt) if step == 12 else None
    with pytest.raises(KeyboardInterrupt):
        train(stage, RunOptions(tmp_path / "b", checkpoint_minutes=0.0))
    assert torch.load(tmp_path / "b" / "regression.checkpoint", weights_only=True)["step"] > 5
    both = learned(tmp_path / "b", offload=True)
    assert all(torch.equal(whole[name], both[name]) for name in whole)


def test_half_weights_learn_and_are_saved_in_full(tmp_path: Path) -> None:
    stage = Regression(200, **HALF)
    frozen = stage.frozen.weight.clone()
    start = abs(stage.layer.weight.item() - 2)
    train(stage, RunOptions(tmp_path))
    assert stage.layer.weight.dtype == stage.frozen.weight.dtype == torch.bfloat16
    assert stage.layer.bias.dtype == torch.float32
    assert abs(stage.layer.weight.item() - 2) < 0.1 * start
    saved = load_file(tmp_path / "regression.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert torch.equal(saved["frozen.weight"], frozen)
    assert not torch.equal(saved["frozen.weight"], frozen.bfloat16().float())  # the test can fail


def test_half_weights_lose_no_small_step() -> None:
    """A rate at which no single step would move a weight of bfloat16."""
    stage = Regression(50, rate=1e-5, **HALF)
    learner = Learner(stage, Processes("cpu"))
    master = learner.masters.tensors["layer.weight"]
    before = master.item()
    for step in range(50):
        learner.step(0, step)
    assert 3e-4 < abs(master.item() - before) < 6e-4
    assert stage.layer.weight.item() == torch.tensor(master.item()).bfloat16().item()


def test_inside_averaged_the_modules_have_the_average() -> None:
    for settings in ({}, {"offload": True}, HALF):
        stage = Regression(10, ema=0.5, **settings)
        learner = Learner(stage, Processes("cpu"))
        for step in range(5):
            learner.step(0, step)
        live, average = stage.layer.weight.clone(), learner.average["layer.weight"]
        with learner.averaged():
            assert torch.equal(stage.layer.weight, average.to(live.dtype))
        assert torch.equal(stage.layer.weight, live)
        assert not torch.equal(live.float(), average)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs optimisation\.precision"):
        Optimisation(steps=1, batch=1, rate=1.0, weights="bfloat16")
    with pytest.raises(ConfigError, match="use adamw"):
        Optimisation(steps=1, batch=1, rate=1.0, optimiser="adamw8bit", offload=True)
