"""Head pose arithmetic, the drawing and the face box: the published numbers, and laws over random heads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from parity_fill import fill_motion_extractor, golden, relative_error
from personalive.config import MINI, OFFICIAL, KeypointConfig, StreamConfig
from personalive.contracts import HeadMotion
from personalive.errors import ConfigError
from personalive.models.motion_extractor import MotionExtractor
from personalive.motion import keypoints as heads
from personalive.motion.keypoints import MotionGains

SEEDS = st.integers(0, 2**31)
ANGLE = st.floats(-180, 180)
HARD, SOFT = OFFICIAL.keypoints, MINI.keypoints


def random_head(seed: int, *lead: int) -> HeadMotion:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator)

    return HeadMotion(normal(21, 3) * 0.3, normal(3) * 30, normal(3) * 0.2, 1.2 + 0.2 * normal(1).tanh())


def frames(head: HeadMotion, chosen: slice) -> HeadMotion:
    return head.map(lambda part: part[chosen])


@pytest.fixture(scope="module")
def golden_heads() -> HeadMotion:
    """The goldens' nine images: the reference, then two chunks."""
    extractor = MotionExtractor(OFFICIAL.motion_extractor)
    fill_motion_extractor(extractor)
    images = golden("motion_extractor")["images_16px"]
    with torch.no_grad():
        head: HeadMotion = extractor(functional.interpolate(images, size=(256, 256), mode="bilinear"))
    return head


def test_published_keypoints_drawings_and_boxes(golden_heads: HeadMotion) -> None:
    data = golden("motion_extractor")
    reference, first = frames(golden_heads, slice(0, 1)), frames(golden_heads, slice(1, 2))
    gains = (OFFICIAL.stream.translation_gain, OFFICIAL.stream.scale_gain)
    chunk = heads.retarget(reference, first, frames(golden_heads, slice(1, 5)), *gains)
    later = heads.retarget(reference, first, frames(golden_heads, slice(5, 9)), *gains)
    lead_in = heads.interpolate(reference, frames(chunk, slice(0, 1)), 12)
    posed = torch.cat([heads.pose_keypoints(lead_in), heads.pose_keypoints(chunk)])
    own = heads.pose_keypoints(golden_heads)
    assert relative_error(own[1:2], data["kp_first"]) < 1e-5
    assert relative_error(own[1:5], data["kp_driving"]) < 1e-5
    assert relative_error(own[5:9], data["kp_next_driving"]) < 1e-5
    assert relative_error(posed, data["kp_interp"]) < 1e-5
    assert relative_error(heads.pose_keypoints(later), data["kp_next"]) < 1e-5
    drawn = heads.draw(posed, 512, HARD)
    # Keypoints that differ by a rounding error could fall into another pixel; in these goldens none does.
    assert float((drawn[:, :, ::4, ::4] * 255 - data["drawn_u8"]).abs().max()) < 1e-3
    assert relative_error(drawn.sum(dim=(2, 3)), data["drawn_sum"]) < 1e-6
    assert torch.equal(heads.face_box(own[1:5], 512, HARD), data["boxes_driving"])
    assert torch.equal(heads.face_box(posed, 512, HARD), data["boxes_interp"])


@given(ANGLE, ANGLE, ANGLE)
def test_rotation_is_a_rotation(pitch: float, yaw: float, roll: float) -> None:
    matrix = heads.rotation(torch.tensor([pitch, yaw, roll], dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)


@given(ANGLE, ANGLE, ANGLE)
def test_rotation_is_the_product_that_the_specification_names(pitch: float, yaw: float, roll: float) -> None:
    angles = np.deg2rad([pitch, yaw, roll])
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    expected = torch.from_numpy((rz @ ry @ rx).T)
    ours = heads.rotation(torch.tensor([pitch, yaw, roll], dtype=torch.float64))
    assert torch.allclose(ours, expected, atol=1e-12)


@given(SEEDS, st.floats(0, 2), st.floats(0, 2), st.floats(0, 2))
def test_a_driver_that_is_the_reference_changes_nothing(seed: int, move: float, size: float, turn: float) -> None:
    reference = random_head(seed, 1)
    result = heads.retarget(reference, reference, reference, move, size, rotation_gain=turn)
    assert torch.allclose(heads.pose_keypoints(result), heads.pose_keypoints(reference), atol=1e-5)


@given(SEEDS)
def test_retarget_as_published(seed: int) -> None:
    reference, first, driving = random_head(seed, 1), random_head(seed + 1, 1), random_head(seed + 2, 5)
    result = heads.retarget(reference, first, driving, 0.5, 0.0)
    assert torch.equal(result.angles, driving.angles)
    assert torch.equal(result.keypoints, reference.keypoints.expand(5, -1, -1))
    assert torch.equal(result.scale, reference.scale.expand(5, -1))
    expected = reference.translation + 0.5 * (driving.translation - first.translation)
    assert torch.allclose(result.translation, expected)


@given(SEEDS, st.floats(0, 2))
def test_relative_rotation_turns_the_reference_as_the_driver_turns(seed: int, gain: float) -> None:
    """The first driving frame leaves the reference's own angles; later ones turn it by what the driver has turned."""
    reference, first, driving = random_head(seed, 1), random_head(seed + 1, 1), random_head(seed + 2, 4)
    at_first = heads.retarget(reference, first, first, 0.5, 0.0, gain, relative=True)
    assert torch.allclose(at_first.angles, reference.angles, atol=1e-4)
    result = heads.retarget(reference, first, driving, 0.5, 0.0, gain, relative=True)
    absolute = heads.retarget(reference, first, driving, 0.5, 0.0, gain)
    assert torch.allclose(result.angles - reference.angles, absolute.angles - first.angles, atol=1e-4)
    assert torch.equal(result.translation, absolute.translation)
    assert torch.equal(result.scale, absolute.scale)


@given(SEEDS)
def test_a_driver_in_the_references_pose_makes_relative_rotation_absolute(seed: int) -> None:
    reference, driving = random_head(seed, 1), random_head(seed + 2, 3)
    result = heads.retarget(reference, reference, driving, 0.5, 0.0, 1.0, relative=True)
    assert torch.allclose(result.angles, driving.angles, atol=1e-4)


@given(SEEDS, st.floats(0, 2))
def test_gains_count_from_the_first_driving_frame(seed: int, gain: float) -> None:
    reference, first, driving = random_head(seed, 1), random_head(seed + 1, 1), random_head(seed + 2, 3)
    result = heads.retarget(reference, first, driving, gain, gain, rotation_gain=gain)
    expected = first.angles + gain * (driving.angles - first.angles)
    assert torch.allclose(result.angles, expected, atol=1e-4)
    ratio = (driving.scale / first.scale).clamp(1 / heads.SCALE_RATIO_LIMIT, heads.SCALE_RATIO_LIMIT)
    assert torch.allclose(result.scale, reference.scale * ratio**gain, rtol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 0.0, float("inf")])
def test_scale_stays_finite_whatever_the_driver_says(bad: float) -> None:
    good = random_head(0, 1)
    driving = dataclasses.replace(good, scale=torch.tensor([[bad]]))
    for first, driver in ((good, driving), (driving, good)):
        scale = heads.retarget(good, first, driver, 1.0, 1.0).scale
        if bad == bad:
            assert bool(torch.isfinite(scale).all())
            assert bool((scale > 0).all())


@given(SEEDS, st.integers(1, 16))
def test_interpolation_starts_at_the_reference_and_stops_one_short(seed: int, steps: int) -> None:
    reference, target = random_head(seed, 1), random_head(seed + 1, 1)
    path = heads.interpolate(reference, target, steps)
    assert torch.equal(path.angles[0], reference.angles[0])
    last = reference.angles[0] + (steps - 1) / steps * (target.angles[0] - reference.angles[0])
    assert torch.allclose(path.angles[-1], last, atol=1e-4)
    assert torch.equal(path.keypoints[-1], reference.keypoints[0])


@given(SEEDS, st.integers(8, 96), st.booleans())
@settings(max_examples=40)
def test_drawing_stays_in_range(seed: int, size: int, soft: bool) -> None:
    config = dataclasses.replace(HARD, soft=soft)
    keypoints = heads.pose_keypoints(random_head(seed, 3)) * 2  # many of them outside
    drawn = heads.draw(keypoints, size, config)
    assert drawn.shape == (3, 3, size, size)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1


def test_a_disc_has_49_pixels_in_its_colour_and_colours_add_up() -> None:
    config = dataclasses.replace(HARD, drawn=(0, 1))
    apart = torch.tensor([[[-0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]])
    drawn = heads.draw(apart, 64, config)
    assert drawn.sum(dim=(2, 3)).tolist() == [[98.0, 49.0, 0.0]]  # red, and yellow
    assert drawn[0, :, 16, 16].tolist() == [1.0, 0.0, 0.0]  # x and y of -0.5 of 64 pixels: 16
    together = heads.draw(torch.zeros(1, 2, 3), 64, config)
    assert together.sum(dim=(2, 3)).tolist() == [[49.0, 49.0, 0.0]]  # red twice is clamped


def test_discs_match_a_drawing_pixel_by_pixel() -> None:
    keypoints = torch.rand(2, 21, 3, generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    drawn = heads.draw(keypoints, 40, HARD)
    expected = np.zeros((2, 3, 40, 40))
    for n in range(2):
        for index, colour in zip(HARD.drawn, heads.COLOURS, strict=True):
            x, y = (int((float(keypoints[n, index, axis]) + 1) / 2 * 40) for axis in (0, 1))
            for row in range(40):
                for column in range(40):
                    if (row - y) ** 2 + (column - x) ** 2 <= 16:
                        expected[n, :, row, column] += np.array(colour) / 255
    assert torch.allclose(drawn.double(), torch.from_numpy(expected.clip(0, 1)), atol=1e-6)


@given(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7))
def test_a_soft_blob_is_where_its_keypoint_is(x: float, y: float) -> None:
    config = dataclasses.replace(SOFT, drawn=(0,), radius=3.0)
    drawn = heads.draw(torch.tensor([[[x, y, 0.0]]]), 64, config)[0, 0]
    middle = torch.arange(64) + 0.5
    total = drawn.sum()
    assert float((drawn.sum(dim=0) * middle).sum() / total) == pytest.approx((x + 1) * 32, abs=0.05)
    assert float((drawn.sum(dim=1) * middle).sum() / total) == pytest.approx((y + 1) * 32, abs=0.05)
    assert float(total) == pytest.approx(2 * np.pi * 9, rel=0.02)


def test_soft_drawings_carry_gradient() -> None:
    keypoints = heads.pose_keypoints(random_head(3, 2)).requires_grad_()
    heads.draw(keypoints, 32, SOFT)[:, :, :5].sum().backward()  # type: ignore[no-untyped-call]
    assert keypoints.grad is not None
    assert float(keypoints.grad.abs().sum()) > 0


@given(SEEDS, st.sampled_from([32, 128, 512]), st.floats(0, 3))
def test_face_box_is_inside_the_picture_and_not_empty(seed: int, size: int, spread: float) -> None:
    keypoints = heads.pose_keypoints(random_head(seed, 4)) * spread
    box = heads.face_box(keypoints, size, HARD)
    assert bool((box >= 0).all())
    assert bool((box <= size - 1).all())
    assert bool((box[:, 2:] - box[:, :2] >= size // heads.MIN_BOX_FRACTION).all())


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, float("nan"), float("inf")])
def test_a_degenerate_face_box_is_the_whole_picture(value: float) -> None:
    box = heads.face_box(torch.full((1, 21, 3), value), 128, HARD)
    assert box.tolist() == [[0, 0, 127, 127]]
    assert bool(torch.isfinite(heads.draw(torch.full((1, 21, 3), value), 32, HARD)).all())


@given(SEEDS)
@settings(max_examples=30)
def test_crops_match_torch_one_by_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 3, 24, 30, generator=generator)
    start = torch.randint(0, 12, (3, 2), generator=generator)
    stop = start + torch.randint(1, 12, (3, 2), generator=generator)
    crops = heads.crop_faces(images, torch.cat([start, stop], dim=1), 16)
    for n in range(3):
        (x1, y1), (x2, y2) = start[n].tolist(), stop[n].tolist()
        alone = functional.interpolate(images[n : n + 1, :, y1:y2, x1:x2], size=(16, 16), mode="bilinear")
        assert torch.allclose(crops[n : n + 1], alone, atol=1e-5)


@pytest.mark.parametrize("bad", [-0.1, 2.1, float("nan")])
def test_gains_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="rotation gain"):
        MotionGains(rotation=bad)


def test_gains_come_from_the_model() -> None:
    assert MotionGains.of(StreamConfig(translation_gain=0.7, scale_gain=0.3)) == MotionGains(1.0, 0.7, 0.3)


def test_more_keypoints_than_colours() -> None:
    config = KeypointConfig(drawn=tuple(range(9)))
    assert heads.draw(torch.zeros(1, 21, 3), 32, config).shape == (1, 3, 32, 32)
