"""The pose guider: parity with the published code, official names, and its field of view."""

from __future__ import annotations

import pytest
import torch

from parity_fill import fill, golden, official_rows, relative_error
from personalive.config import MINI, OFFICIAL, SMALL, TOY, ModelConfig
from personalive.models.pose_guider import PoseGuider


@pytest.mark.parametrize(("config", "tag"), [(OFFICIAL, "pose_guider"), (SMALL, "small_pose_guider")])
def test_official_names_and_shapes(config: ModelConfig, tag: str) -> None:
    with torch.device("meta"):
        module = PoseGuider(config.pose_guider)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in official_rows(tag)}


def test_parity_with_the_published_guider() -> None:
    module = PoseGuider(OFFICIAL.pose_guider)
    fill(module, "pose_guider")
    expected = golden("pose_guider")
    with torch.inference_mode():
        features = module(expected["drawn"][0].transpose(0, 1))  # the golden has frames after channels
    assert relative_error(features.transpose(0, 1)[None], expected["features"]) < 1e-4


@pytest.mark.parametrize("config", [TOY, MINI], ids=lambda config: config.name)
def test_features_are_an_eighth_of_the_drawing(config: ModelConfig) -> None:
    module = PoseGuider(config.pose_guider).eval()
    with torch.inference_mode():
        features = module(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, config.unet.channels[0], 8, 12)


def test_a_point_is_seen_near_its_place_only() -> None:
    torch.manual_seed(0)
    module = PoseGuider(TOY.pose_guider).eval()
    drawing = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        empty = module(drawing)
        drawing[:, :, 100, 28] = 1
        change = (module(drawing) - empty).abs().sum(1)[0]  # (16, 16)
    # Radius of the receptive field: 1 + (1 + 1) + 2 (1 + 1) + 4 (1 + 1) + 8 = 23 pixels, 3 cells.
    row, column = 100 // 8, 28 // 8
    assert change[row - 1 : row + 2, column - 1 : column + 2].max() > 0
    far = torch.ones(16, 16, dtype=torch.bool)
    far[row - 3 : row + 4, column - 3 : column + 4] = False
    assert change[far].max() == 0


def test_every_parameter_learns() -> None:
    module = PoseGuider(TOY.pose_guider)
    module(torch.rand(1, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
