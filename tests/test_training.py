from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from personalive.config import TOY, override
from personalive.contracts import HeadMotion
from personalive.errors import ConfigError, WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.training import augment, losses
from personalive.training.autoencoder_stage import AutoencoderStage, fold_whitening, start_from_patches
from personalive.training.clips import Corpus, draw_pairs
from personalive.training.image_stage import ImageStage, RolloutStage
from personalive.training.loop import RunOptions, TrainingError, load_modules, save_modules, train
from personalive.training.motion_stage import MotionStage
from personalive.training.recipe import Optimisation, Recipe, load_recipe
from personalive.training.run import assemble
from personalive.training.stream_stage import StreamStage

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


# ---------------------------------------------------------------- recipe


def test_recipe_overrides_are_strict() -> None:
    assert load_recipe(None, {"image.optimisation.steps": 7}).image.optimisation.steps == 7
    with pytest.raises(ConfigError, match="stepz"):
        load_recipe(None, {"image.optimisation.stepz": 7})
    with pytest.raises(ConfigError, match="float"):
        load_recipe(None, {"image.same_pose": "often"})


def test_recipe_file_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[rollout]\npixel_weight = 0.5\n[rollout.optimisation]\nsteps = 9\n")
    recipe = load_recipe(file)
    assert (recipe.rollout.pixel_weight, recipe.rollout.optimisation.steps) == (0.5, 9)
    assert recipe.image == Recipe().image
    file.write_text("rollout = [")
    with pytest.raises(ConfigError, match="not TOML"):
        load_recipe(file)
    with pytest.raises(ConfigError, match="cannot read"):
        load_recipe(tmp_path / "none.toml")


def test_rate_warms_up_stays_and_decays() -> None:
    o = Optimisation(steps=1000, batch=1, rate=1.0, warmup=10, decay_from=0.5)
    assert o.rate_at(0) == pytest.approx(0.1)
    assert o.rate_at(300) == o.rate_at(499) == 1.0
    assert o.rate_at(750) == pytest.approx(0.5)
    assert o.rate_at(1000) == pytest.approx(0.01)


# ---------------------------------------------------------------- data


def test_pairs_of_one_pose_share_their_group() -> None:
    data = corpus()
    pairs = draw_pairs(data, random.Random(0), batch=40, frames=3, same_pose=1.0)
    groups = data.group[pairs.person[:, None], pairs.driving]
    assert (groups == groups[:, :1]).all()
    assert pairs.driving.max() < 7
    assert {int(r) for r in pairs.reference} > {0}


def test_affine_moves_picture_and_truth_together() -> None:
    """A bright dot painted at a keypoint is found at the moved keypoint."""
    torch.manual_seed(3)
    n, side = 16, 96
    point = (torch.rand(n, 2) - 0.5) * 0.5
    centre = (torch.arange(side) + 0.5) / side * 2 - 1
    far = (centre[None, None, :] - point[:, 0, None, None]) ** 2 + (
        centre[None, :, None] - point[:, 1, None, None]
    ) ** 2
    images = torch.exp(-far / (2 * 0.03**2))[:, None].expand(-1, 3, -1, -1)
    keypoints = torch.nn.functional.pad(point, (0, 1))[:, None]
    head = HeadMotion(keypoints, torch.zeros(n, 3), torch.zeros(n, 3), torch.ones(n, 1))
    moved, truth = augment.affine(images, head)
    place = augment.posed(truth)[:, 0]
    inside = (place.abs() < 0.9).all(-1)
    assert inside.sum() > n // 2
    peak = moved[:, 0].flatten(1).argmax(1)
    found = torch.stack([centre[peak % side], centre[peak // side]], -1)
    assert (found - place)[inside].abs().max() < 2.5 / side * 2


def test_colour_and_degrade_stay_in_range() -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 3, SIDE, SIDE)
    for y in (augment.colour(x), augment.degrade(x)):
        assert y.shape == x.shape
        assert 0 <= float(y.min()) <= float(y.max()) <= 1
        assert not torch.equal(x, y)


def test_region_weights_peak_at_eyes_and_mouth() -> None:
    landmarks = torch.zeros(1, 68, 2)
    landmarks[:, 36:42] = torch.tensor([-0.4, -0.4])
    landmarks[:, 42:48] = torch.tensor([0.4, -0.4])
    landmarks[:, 48:68] = torch.tensor([0.0, 0.5])
    w = losses.region_weights(landmarks, 32, detail=2.0)[0, 0]
    assert w[9, 9] > 2
    assert w[9, 22] > 2
    assert w[23, 16] > 2
    assert w[0, 31] < w[16, 16] < w[23, 16]


def test_pixel_loss_is_zero_only_for_equal_pictures() -> None:
    x, w = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    assert losses.pixel_loss(x, x, w) == 0
    assert losses.pixel_loss(x + 0.1, x, w).item() == pytest.approx(0.1, abs=1e-5)  # no gradient differs


# ---------------------------------------------------------------- loop


class Regression:
    """The smallest stage: y = 2x by a linear layer."""

    name = "regression"

    def __init__(self, steps: int, bad_at: int = -1) -> None:
        self.optimisation = Optimisation(steps=steps, batch=4, rate=0.05, warmup=1, weight_decay=0.0)
        torch.manual_seed(5)
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1)
        self.bad_at = bad_at

    def modules(self) -> Mapping[str, nn.Module]:
        return {"layer": self.layer, "frozen": self.frozen}

    def learns(self, name: str) -> bool:
        return name.startswith("layer.")

    def loss(self, rng: random.Random, step: int, /) -> dict[str, Tensor]:
        x = torch.randn(4, 1) + rng.random()
        scale = math.nan if step == self.bad_at else 1.0
        return {"loss": (self.layer(x) - 2 * x).square().mean() * scale}

    def validate(self) -> dict[str, float]:
        return {"weight": float(self.layer.weight)}

    def samples(self) -> np.ndarray[Any, Any] | None:
        return None


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole, first, second = Regression(40), Regression(40), Regression(40)
    before = first.frozen.weight.clone()
    train(whole, RunOptions(tmp_path / "a"))
    stopped = dataclasses.replace(first.optimisation, steps=17)
    schedule = first.optimisation
    # The first part ends early (as a budget would end it), the second resumes under the full schedule.
    first.optimisation = _Stops(schedule, stopped.steps)
    train(first, RunOptions(tmp_path / "b"))
    train(second, RunOptions(tmp_path / "b"))
    assert torch.equal(whole.layer.weight, second.layer.weight)
    assert torch.equal(before, first.frozen.weight)
    a, b = (torch.zeros(1, 1), torch.zeros(1, 1))
    loaded = [nn.Linear(1, 1), nn.Linear(1, 1)]
    for module, folder in zip(loaded, "ab", strict=True):
        load_modules({"layer": module}, tmp_path / folder / "regression.safetensors")
    a, b = (module.weight for module in loaded)
    assert torch.equal(a, b)
    assert abs(a.item() - 2) < 1.0


class _Stops(Optimisation):
    """An Optimisation that ends after `last` steps while its schedule stays that of the whole run."""

    def __init__(self, whole: Optimisation, last: int) -> None:
        super().__init__(**dataclasses.asdict(whole) | {"steps": last})
        object.__setattr__(self, "whole", whole)

    def rate_at(self, step: int) -> float:
        whole: Optimisation = object.__getattribute__(self, "whole")
        return whole.rate_at(step)


def test_a_budget_of_nothing_saves_and_stops(tmp_path: Path) -> None:
    figures = train(Regression(1000), RunOptions(tmp_path, budget_minutes=0.0))
    assert "weight" in figures
    assert torch.load(tmp_path / "regression.checkpoint", weights_only=True)["step"] <= 1


def test_not_a_number_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train(Regression(5), RunOptions(tmp_path))
    before = (tmp_path / "regression.checkpoint").read_bytes()
    with pytest.raises(TrainingError, match="step 7"):
        train(Regression(20, bad_at=7), RunOptions(tmp_path))
    assert (tmp_path / "regression.checkpoint").read_bytes() == before


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    other = Regression(2)
    train(other, RunOptions(tmp_path))
    foreign = Regression(4)
    foreign.layer = nn.Linear(3, 1)
    with pytest.raises(TrainingError, match="does not fit"):
        train(foreign, RunOptions(tmp_path))


def test_a_missing_part_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--stage motion"):
        load_modules({"x": nn.Linear(1, 1)}, tmp_path / "motion.safetensors")


# ---------------------------------------------------------------- autoencoder


def test_folded_whitening_gives_what_whitening_gave() -> None:
    torch.manual_seed(0)
    config = override(TOY, {"autoencoder.linear_path": True}).autoencoder
    autoencoder = Autoencoder(config).eval()
    whitening = nn.BatchNorm2d(config.latent_channels, affine=False)
    assert whitening.running_mean is not None
    assert whitening.running_var is not None
    whitening.running_mean.normal_()
    whitening.running_var.uniform_(0.5, 3)
    whitening.eval()
    images = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        wanted = whitening(autoencoder.encode(images))
        fold_whitening(autoencoder, whitening)
        assert torch.allclose(autoencoder.encode(images), wanted, atol=1e-4)


def test_the_linear_path_starts_as_principal_components() -> None:
    torch.manual_seed(0)
    config = override(TOY, {"autoencoder.linear_path": True, "autoencoder.scaling_factor": 1.0}).autoencoder
    autoencoder = Autoencoder(config)
    smooth = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4) * 2 - 1, size=(SIDE, SIDE), mode="bilinear")
    start_from_patches(autoencoder, smooth)
    with torch.no_grad():
        latents = autoencoder.linear_in(smooth)
        rebuilt = autoencoder.linear_out(latents)
    assert latents.std((0, 2, 3)).tolist() == pytest.approx([1.0] * config.latent_channels, abs=0.05)
    # Four components of 192: better than the mean colour, by far.
    assert float((rebuilt - smooth).square().mean()) < 0.3 * float((smooth - smooth.mean()).square().mean())


# ---------------------------------------------------------------- every stage, two steps, toy size


def quick(recipe: Recipe) -> Recipe:
    changes = {}
    for field in dataclasses.fields(recipe):
        stage = getattr(recipe, field.name)
        optimisation = dataclasses.replace(stage.optimisation, steps=2, batch=2, warmup=1)
        changes[field.name] = dataclasses.replace(stage, optimisation=optimisation)
    return dataclasses.replace(recipe, **changes)


def test_all_stages_run_in_order_and_assemble(tmp_path: Path) -> None:
    config = override(
        TOY,
        {
            "autoencoder.scaling_factor": 1.0,
            "unet.motion_in_time": True,
            "unet.reference_pose": True,
            "keypoints.soft": True,
            "stream.prediction": "v_prediction",
        },
    )
    recipe, people, held_out = quick(Recipe()), corpus(), corpus(2, seed=1)
    options = RunOptions(tmp_path)
    assert train(AutoencoderStage(config, recipe.autoencoder, people, held_out), options)["l1"] > 0
    assert train(MotionStage(config, recipe.motion, people, held_out), options)["yaw_deg"] > 0
    assert train(ImageStage(config, recipe.image, tmp_path, people, held_out), options)["copy"] > 0
    assert train(RolloutStage(config, recipe.rollout, tmp_path, people, held_out), options)["one_step"] > 0
    stage = StreamStage(config, recipe.stream, tmp_path, people, held_out)
    before = {k: v.clone() for k, v in stage.model.denoising_unet.state_dict().items()}
    assert train(stage, options)["latent_l1"] > 0
    after = stage.model.denoising_unet.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all("temporal_modules" in k for k in changed)
    networks = assemble(config, tmp_path)
    loaded = networks.denoising_unet.state_dict()
    assert all(torch.isfinite(v).all() for v in loaded.values())
    assert not any(p.requires_grad for p in networks.denoising_unet.parameters())
    for name in ("autoencoder", "image", "rollout", "stream"):
        assert (tmp_path / f"{name}.png").exists()


def test_saved_modules_come_back(tmp_path: Path) -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    save_modules({"m": a}, tmp_path / "x.safetensors")
    load_modules({"m": b}, tmp_path / "x.safetensors")
    assert torch.equal(a.weight, b.weight)
    with pytest.raises(WeightsError, match="does not fit"):
        load_modules({"m": nn.Linear(4, 3)}, tmp_path / "x.safetensors")
