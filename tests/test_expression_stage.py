"""The expression reader's stage on tokens of which the truth is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from made_up_people import corpus, toy_config
from personalive.config import ModelConfig
from personalive.data.expressions import EXPRESSIONS
from personalive.errors import ConfigError, WeightsError
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.reference_warp import ExpressionReader
from personalive.training import expression_stage
from personalive.training.checkpoint import save_modules
from personalive.training.clips import Corpus
from personalive.training.expression_choice import load_expression
from personalive.training.expression_stage import SIGNALS, ExpressionStage, fit_linear, follows
from personalive.training.loop import RunOptions, train
from personalive.training.prepared_tokens import prepare_tokens
from personalive.training.recipe import ExpressionRecipe, load_recipe
from toy_mesh import WARP

CPU = torch.device("cpu")


def config() -> ModelConfig:
    mesh = dataclasses.replace(WARP.mesh, expressions=len(EXPRESSIONS))
    return dataclasses.replace(toy_config(), warp=dataclasses.replace(WARP, mesh=mesh))


def recipe(**changes: Any) -> ExpressionRecipe:
    settings = {"steps": 200, "batch": 64, "warmup": 1} | changes
    return load_recipe(None, {f"expression.optimisation.{name}": value for name, value in settings.items()}).expression


def tokens_of(truth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stage see tokens (P, F, 4, 8) from which the expression follows by a map of this kind."""
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(53, 32, generator=g)

    def tokens(_config: object, _folder: object, people: Corpus, *_: object) -> Tensor:
        values = people.expression - 0.5
        if truth == "bent":  # a linear map sees the half of it
            values = torch.cat([values[..., :26].abs() * 2, values[..., 26:]], dim=-1)
        return (values @ mixing).view(*values.shape[:2], 4, 8) + 3

    monkeypatch.setattr(expression_stage, "prepare_tokens", tokens)


def test_the_linear_map_is_the_ridge_solution() -> None:
    torch.manual_seed(0)
    motion, weights = torch.randn(400, 4, 8) * 2 + 5, torch.randn(32, 53)
    wanted = motion.flatten(1) @ weights + 0.7
    reader = ExpressionReader(32, 8, 53)
    fit_linear(reader, motion, wanted, 1e-6)
    assert torch.allclose(reader(motion), wanted, atol=1e-2)
    assert torch.allclose(reader.standardise(motion).std(0), torch.ones(32), atol=1e-3)
    fit_linear(reader, motion, wanted, 1e9)  # nothing but the mean is left
    assert torch.allclose(reader(motion), wanted.mean(0).expand_as(wanted), atol=1e-2)


def test_correlation_by_signal() -> None:
    torch.manual_seed(0)
    true = torch.rand(50, 53)
    assert torch.allclose(follows(true * 0.3 + 2, true), torch.ones(len(SIGNALS)), atol=1e-4)
    read = true.clone()
    read[:, EXPRESSIONS.index("jawOpen")] *= -1
    assert follows(read, true)[list(SIGNALS).index("jaw_open")] == pytest.approx(-1, abs=1e-4)
    assert {name for parts in SIGNALS.values() for name in parts} <= set(EXPRESSIONS)


@pytest.mark.parametrize(("truth", "helps"), [("straight", False), ("bent", True)])
def test_the_hidden_layer_counts_as_much_as_it_helps(
    truth: str, helps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokens_of(truth, monkeypatch)
    chosen = dataclasses.replace(recipe(), ridge=1.0)
    stage = ExpressionStage(config(), chosen, None, corpus(40, 20), corpus(8, 20, seed=1))
    linear = {name: value.clone() for name, value in stage.reader.linear.state_dict().items()}
    with torch.no_grad():
        first = stage.validate()
    assert set(first) == {*SIGNALS, "linear", "with_hidden", "share"}
    assert first["linear"] == pytest.approx(first["with_hidden"])  # it adds nothing yet
    if truth == "straight":  # whatever it learns then cannot help: make it harm
        torch.nn.init.normal_(stage.reader.second.weight, std=0.3)
        stage.optimisation = dataclasses.replace(stage.optimisation, steps=1)
    figures = train(stage, RunOptions(tmp_path)).figures
    assert (figures["with_hidden"] > figures["linear"]) == helps
    assert (figures["share"] >= 0.5) == helps
    assert float(stage.hidden.share) == figures["share"]
    assert all(torch.equal(value, linear[name]) for name, value in stage.reader.linear.state_dict().items())
    loaded = ExpressionReader(32, WARP.expression_hidden, 53)
    load_expression(loaded, tmp_path / "expression.safetensors")
    found = follows(loaded(stage.held_out_motion), stage.held_out_wanted)
    assert torch.allclose(found, torch.tensor([figures[name] for name in SIGNALS]), atol=1e-3)


def test_a_model_that_a_run_begins_with_has_the_reader_alone(tmp_path: Path) -> None:
    reader = ExpressionReader(32, 8, 53)
    torch.nn.init.normal_(reader.second.weight)
    save_modules({"expression": reader}, tmp_path / "expression.safetensors", config())
    again = ExpressionReader(32, 8, 53)
    load_expression(again, tmp_path / "expression.safetensors")
    motion = torch.randn(3, 4, 8)
    assert torch.equal(again(motion), reader(motion))
    with pytest.raises(WeightsError, match="--stage expression"):
        load_expression(again, tmp_path / "none" / "expression.safetensors")


def test_tokens_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, people = config(), corpus(2)
    torch.manual_seed(0)
    motion = {
        "motion_extractor": MotionExtractor(sizes.motion_extractor),
        "motion_encoder": MotionEncoder(sizes.motion_encoder),
    }
    save_modules(motion, tmp_path / "motion.safetensors", sizes)
    cache = tmp_path / "tokens.safetensors"
    tokens = prepare_tokens(sizes, tmp_path, people, cache, CPU)
    assert tokens.shape == (2, 12, 4, 8)
    with monkeypatch.context() as patch:
        patch.setattr("personalive.training.prepared_tokens.piecewise", None)  # would fail if it were asked
        assert torch.equal(prepare_tokens(sizes, tmp_path, people, cache, CPU), tokens)
    other = prepare_tokens(sizes, tmp_path, corpus(2, seed=5), cache, CPU)
    assert not torch.allclose(other, tokens)


def test_a_mesh_with_other_expressions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warp\.mesh\.expressions is 12; rendered people have 53"):
        ExpressionStage(dataclasses.replace(toy_config(), warp=WARP), recipe(), None, corpus(), corpus(1, seed=1))
