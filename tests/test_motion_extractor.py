"""The motion extractor: parity with the published code, official names, and what its outputs mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parity_fill import fill_motion_extractor, golden, official_rows, relative_error
from personalive.config import MINI, OFFICIAL, TOY, ModelConfig
from personalive.models.motion_extractor import MotionExtractor, ResponseNorm


def toy_images(frames: int) -> Tensor:
    side = TOY.motion_extractor.image_size
    return torch.rand(frames, 3, side, side, generator=torch.Generator().manual_seed(frames))


@pytest.fixture
def toy() -> MotionExtractor:
    torch.manual_seed(0)
    return MotionExtractor(TOY.motion_extractor).eval()


def test_official_names_and_shapes() -> None:
    with torch.device("meta"):
        module = MotionExtractor(OFFICIAL.motion_extractor)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in official_rows("motion_extractor")}


def test_parity_with_the_published_heads() -> None:
    module = MotionExtractor(OFFICIAL.motion_extractor)
    fill_motion_extractor(module)
    expected = golden("motion_extractor")
    images = F.interpolate(expected["images_16px"][1:], size=256, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        raw = module.raw(images)
    for name in ("kp", "pitch", "yaw", "roll", "t", "scale"):
        assert relative_error(raw[name], expected[f"raw_{name}"]) < 1e-4, name


@pytest.mark.parametrize("config", [TOY, MINI], ids=lambda config: config.name)
def test_shapes_of_every_size(config: ModelConfig) -> None:
    extractor = config.motion_extractor
    images = torch.rand(2, 3, extractor.image_size, extractor.image_size)
    module = MotionExtractor(extractor).eval()
    with torch.inference_mode():
        motion, raw = module(images), module.raw(images)
    assert motion.keypoints.shape == (2, extractor.keypoints, 3)
    assert motion.angles.shape == motion.translation.shape == (2, 3)
    assert motion.scale.shape == (2, 1)
    assert {name: tensor.shape[1] for name, tensor in raw.items()} == {
        "kp": 63, "pitch": 66, "yaw": 66, "roll": 66, "t": 3, "scale": 1, "exp": 63,
    }  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 32, 65])
def test_a_certain_bin_is_its_angle(toy: MotionExtractor, place: int) -> None:
    logits = torch.full((66,), -1e4)
    logits[place] = 1e4
    assert toy.degrees(logits).item() == pytest.approx(3 * place - 97.5, abs=1e-4)


def test_indifferent_logits_look_straight_ahead(toy: MotionExtractor) -> None:
    assert toy.degrees(torch.zeros(4, 66)).tolist() == pytest.approx([0.0] * 4, abs=1e-4)


def test_angles_are_pitch_yaw_roll_and_keypoints_are_rows(toy: MotionExtractor) -> None:
    images = toy_images(3)
    with torch.inference_mode():
        raw, motion = toy.raw(images), toy(images)
    for column, name in enumerate(("pitch", "yaw", "roll")):
        torch.testing.assert_close(motion.angles[:, column], toy.degrees(raw[name]))
    torch.testing.assert_close(motion.keypoints[1, 4], raw["kp"][1, 12:15])
    torch.testing.assert_close(motion.translation, raw["t"])
    torch.testing.assert_close(motion.scale, raw["scale"])


def test_a_frame_does_not_see_its_neighbours(toy: MotionExtractor) -> None:
    images = toy_images(3)
    with torch.inference_mode():
        together = toy(images)
        alone = toy(images[1:2])
    torch.testing.assert_close(together.angles[1:2], alone.angles, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(together.keypoints[1:2], alone.keypoints, rtol=1e-4, atol=1e-5)


def test_everything_but_the_unused_head_learns(toy: MotionExtractor) -> None:
    motion = toy.train()(toy_images(2))
    outputs = (motion.keypoints, motion.angles, motion.translation, motion.scale)
    torch.autograd.backward([output.square().sum() for output in outputs])
    silent = {name for name, parameter in toy.named_parameters() if parameter.grad is None}
    assert silent == {"detector.fc_exp.weight", "detector.fc_exp.bias"}
    assert all(p.grad.isfinite().all() for p in toy.parameters() if p.grad is not None)


def test_half_precision_gives_single_precision_geometry(toy: MotionExtractor) -> None:
    with torch.inference_mode():
        exact = toy(toy_images(1))
        half = toy.half()(toy_images(1).half())
    assert half.angles.dtype == half.keypoints.dtype == half.translation.dtype == half.scale.dtype == torch.float32
    torch.testing.assert_close(half.angles, exact.angles, rtol=0, atol=0.2)


def test_response_norm_survives_a_dead_channel() -> None:
    norm = ResponseNorm(3)
    torch.nn.init.ones_(norm.gamma)
    x = torch.rand(2, 4, 4, 3)
    x[..., 1] = 0
    x.requires_grad_()
    norm(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_response_norm_prefers_the_stronger_channel() -> None:
    norm = ResponseNorm(2)
    torch.nn.init.ones_(norm.gamma)
    x = torch.ones(1, 2, 2, 2) * torch.tensor([3.0, 1.0])
    # Norms 6 and 2, mean 4: gains 1 + 1.5 and 1 + 0.5.
    torch.testing.assert_close(norm(x)[0, 0, 0], torch.tensor([7.5, 1.5]))
