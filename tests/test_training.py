from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from made_up_people import SIDE, corpus
from personalive.config import TOY, override
from personalive.contracts import HeadMotion
from personalive.errors import ConfigError
from personalive.models.autoencoder import Autoencoder
from personalive.training import augment, losses
from personalive.training.autoencoder_stage import fold_whitening, start_from_patches
from personalive.training.clips import draw_pairs
from personalive.training.recipe import RECIPES, Optimisation, Recipe, load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# ---------------------------------------------------------------- recipe


def test_recipe_overrides_are_strict() -> None:
    assert load_recipe(None, {"image.optimisation.steps": 7}).image.optimisation.steps == 7
    with pytest.raises(ConfigError, match="stepz"):
        load_recipe(None, {"image.optimisation.stepz": 7})
    with pytest.raises(ConfigError, match="float"):
        load_recipe(None, {"image.same_pose": "often"})


def test_recipe_file_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[rollout.judgement]\nperceptual = 0.5\n[rollout.optimisation]\nsteps = 9\n")
    recipe = load_recipe(file)
    assert (recipe.rollout.judgement.perceptual, recipe.rollout.optimisation.steps) == (0.5, 9)
    assert recipe.image == Recipe().image
    file.write_text("rollout = [")
    with pytest.raises(ConfigError, match="not TOML"):
        load_recipe(file)
    with pytest.raises(ConfigError, match="cannot read"):
        load_recipe(tmp_path / "none.toml")


def test_the_built_in_recipes_say_every_number() -> None:
    assert load_recipe(Path("mini")) == Recipe()
    assert _keys(tomllib.loads((RECIPES / "mini.toml").read_text())) == _keys(dataclasses.asdict(Recipe()))
    paper = load_recipe(Path("paper"))
    stages = (paper.image, paper.rollout, paper.stream)
    assert [stage.optimisation.steps for stage in stages] == [30_000, 30_000, 10_000]
    assert {stage.optimisation.rate for stage in stages} == {1e-5}
    assert [stage.optimisation.batch * stage.optimisation.accumulate for stage in stages] == [32, 32, 8]
    judgement = paper.rollout.judgement
    assert (judgement.squared, judgement.perceptual, judgement.adversarial) == (1.0, 2.0, 0.05)


def _keys(table: dict[str, Any]) -> set[str]:
    inner = {f"{k}.{name}" for k, v in table.items() if isinstance(v, dict) for name in _keys(v)}
    return inner | {k for k, v in table.items() if not isinstance(v, dict)}


def test_rate_warms_up_stays_and_decays() -> None:
    o = Optimisation(steps=1000, batch=1, rate=1.0, warmup=10, decay_from=0.5)
    assert o.rate_at(0) == pytest.approx(0.1)
    assert o.rate_at(300) == o.rate_at(499) == 1.0
    assert o.rate_at(750) == pytest.approx(0.5)
    assert o.rate_at(1000) == pytest.approx(0.01)
    constant = dataclasses.replace(o, decay_from=1.0)
    assert constant.rate_at(500) == constant.rate_at(1000) == 1.0


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


def test_region_weights_peak_at_eyes_brows_and_mouth() -> None:
    landmarks = torch.zeros(1, 68, 2)
    landmarks[:, 17:22] = landmarks[:, 36:42] = torch.tensor([-0.4, -0.4])
    landmarks[:, 22:27] = landmarks[:, 42:48] = torch.tensor([0.4, -0.4])
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
