"""The landmark network's stage: exact crops, statistics that belong to the average, learning, errors."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from made_up_people import corpus, toy_config
from personalive.config import ModelConfig
from personalive.errors import InputError
from personalive.training.clips import Corpus
from personalive.training.landmark_crops import crop_faces, draw_points, look_different
from personalive.training.landmark_stage import LandmarkStage
from personalive.training.learner import Learner, running_statistics
from personalive.training.loop import RunOptions, train
from personalive.training.processes import Processes
from personalive.training.recipe import LandmarkRecipe, load_recipe
from personalive.warp.flow import identity_grid, sample
from toy_mesh import LANDMARKS, WARP, toy_mesh

SIDE = 48  # larger than the model's pictures, which need not be these


def config() -> ModelConfig:
    return dataclasses.replace(toy_config(), warp=WARP)


def recipe(steps: int = 3, **changes: float) -> LandmarkRecipe:
    settings = {"steps": steps, "batch": 8, "warmup": 1} | changes
    return load_recipe(None, {f"landmarks.optimisation.{name}": value for name, value in settings.items()}).landmarks


def dots(people: int = 4, frames: int = 6, seed: int = 0) -> Corpus:
    """People whose pictures are one bright dot on a dark ground, and whose landmarks all lie around it."""
    made = corpus(people, 8, seed)
    g = torch.Generator().manual_seed(seed)
    middle = (torch.rand(people, frames, 1, 2, generator=g) - 0.5) * 0.6
    ring = torch.linspace(0, 2 * math.pi, LANDMARKS)
    points = middle + 0.4 * torch.stack([torch.cos(ring), torch.sin(ring)], dim=-1)
    apart = (identity_grid(SIDE, points) - middle[..., None, :]).norm(dim=-1)  # (P, F, S, S)
    images = (255 * torch.exp(-((apart / 0.3) ** 2)))[:, :, None].expand(-1, -1, 3, -1, -1).byte()
    cut = {name: getattr(made, name)[:, :frames] for name in ("expression", "angles", "scale", "translation", "group")}
    names = tuple(f"{seed}/{person}" for person in range(people))
    return dataclasses.replace(made, images=images, landmarks=points[:, :, :68], dense=points, names=names, **cut)


def ramp(count: int) -> Tensor:
    """Pictures whose red is x and whose green is y."""
    places = (identity_grid(64, torch.zeros(())) + 1) / 2
    return torch.cat([places, places[..., :1]], dim=-1).permute(2, 0, 1).expand(count, -1, -1, -1)


def test_crops_and_their_points_agree() -> None:
    """What a crop shows at a point is what the picture shows at the point there."""
    torch.manual_seed(0)
    points = (torch.rand(5, 80, 2) - 0.5) * 0.5
    span, turn, shift = torch.full((5,), 0.6), torch.randn(5) * 0.5, torch.randn(5, 2) * 0.1
    crops, moved = crop_faces(ramp(5), points, 32, span, turn, shift)
    seen = sample(crops, moved[:, None])[:, :2, 0].transpose(1, 2) * 2 - 1  # (N, K, 2): what the ramp says
    assert torch.allclose(seen, points, atol=2e-3)
    upright, straight = crop_faces(ramp(5), points, 32, span, torch.zeros(5), torch.zeros(5, 2))
    low, high = straight[:, :68].amin(1), straight[:, :68].amax(1)
    assert torch.allclose((high - low).amax(1) / 2, span)
    assert torch.allclose(low + high, torch.zeros(5, 2), atol=1e-5)
    assert upright.shape == (5, 3, 32, 32)


def test_other_looks_stay_pictures() -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    crops = torch.rand(6, 3, 32, 32)
    for _ in range(12):  # every kind comes up
        looks = look_different(crops, rng)
        assert looks.shape == crops.shape
        assert float(looks.min()) >= 0
        assert float(looks.max()) <= 1
        assert not torch.allclose(looks, crops)


def test_points_are_drawn_where_they_are() -> None:
    drawn = draw_points(torch.zeros(1, 3, 8, 8), torch.tensor([[[0.0, -1.0], [5.0, 5.0]]]))
    assert torch.nonzero(drawn[0, 0]).tolist() == [[0, 4], [7, 7]]


def test_it_learns_and_its_files_hold_the_mesh(tmp_path: Path) -> None:
    stage = LandmarkStage(config(), recipe(60, rate=5e-3), toy_mesh(), dots(), dots(2, seed=1))
    torch.manual_seed(0)
    with torch.no_grad():
        before = stage.validate()
    assert set(before) == {"all", "jaw", "brows", "eyes", "mouth", "eyes_near", "mouth_near", "in_spreads"}
    after = train(stage, RunOptions(tmp_path)).figures
    assert after["all"] < 0.6 * before["all"]
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "landmarks.safetensors")
    assert torch.equal(saved["mesh.identity_levels"], stage.mesh.identity_levels)
    assert (tmp_path / "landmarks.png").exists()


def test_statistics_of_batch_norms_belong_to_checkpoint_and_average(tmp_path: Path) -> None:
    """A run that was interrupted equals one that was not; what is saved is an average, not the last batch's."""

    def saved(folder: Path) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = torch.load(folder / "landmarks.checkpoint", weights_only=True)
        return found

    def stage() -> LandmarkStage:
        torch.manual_seed(3)
        return LandmarkStage(config(), recipe(6), toy_mesh(), dots(), dots(1, seed=1))

    train(stage(), RunOptions(tmp_path / "whole"))
    train(stage(), RunOptions(tmp_path / "parts"), until=3)
    train(stage(), RunOptions(tmp_path / "parts"))
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    statistics = [name for name in whole["average"] if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 10
    for name in whole["average"]:
        assert torch.equal(whole["average"][name], parts["average"][name]), name
    from safetensors.torch import load_file

    trained = load_file(tmp_path / "whole" / "landmarks.safetensors")
    name = "landmarks.stem.1.running_mean"
    assert torch.equal(trained[name], whole["average"][name])
    live = whole["modules"]["landmarks"]["stem.1.running_mean"]  # type: ignore[index]
    assert not torch.allclose(trained[name], live)


def test_averaged_modules_carry_averaged_statistics() -> None:
    stage = LandmarkStage(config(), recipe(4), toy_mesh(), dots(), dots(1, seed=1))
    learner = Learner(stage, Processes("cpu"))
    for step in range(3):
        learner.step(0, step)
    buffer = running_statistics(stage.modules())["landmarks.stem.1.running_var"]
    live, average = buffer.clone(), learner.average_statistics["landmarks.stem.1.running_var"]
    with learner.averaged():
        assert torch.equal(buffer, average)
        assert not torch.equal(buffer, live)
    assert torch.equal(buffer, live)


def test_old_checkpoints_without_averaged_statistics_go_on() -> None:
    stage = LandmarkStage(config(), recipe(4), toy_mesh(), dots(), dots(1, seed=1))
    learner = Learner(stage, Processes("cpu"))
    learner.step(0, 0)
    state = learner.state()
    state["average"] = {name: value for name, value in state["average"].items() if "running" not in name}
    learner.load(state)
    name = "landmarks.stem.1.running_mean"
    assert torch.equal(learner.average_statistics[name], learner.statistics[name])


def test_points_beyond_the_crop_are_not_asked_for() -> None:
    """Where every landmark is outside there is no loss, and no division by none."""
    stage = LandmarkStage(config(), recipe(), toy_mesh(), dots(), dots(1, seed=1))
    stage.recipe = dataclasses.replace(stage.recipe, shift=100.0)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = next(stage.losses(random.Random(0), 0))
    assert float(losses["distance"]) == 0
    assert float(losses["loss"]) == 0


def test_shards_without_the_meshs_landmarks_are_refused() -> None:
    people = dots()
    assert people.dense is not None
    holes = people.dense.clone()
    holes[1] = math.nan
    for dense in (None, people.dense[:, :, :100], holes):
        other = dataclasses.replace(people, dense=dense)
        with pytest.raises(InputError, match=r"do not hold 128 landmarks.*personalive data render"):
            LandmarkStage(config(), recipe(), toy_mesh(), other, people)
