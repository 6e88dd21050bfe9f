from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.rendering.builtin import demonstration
from personalive.rendering.motion import (
    EXPRESSIONS,
    PITCH_LIMIT,
    ROLL_LIMIT,
    YAW_LIMIT,
    blend,
    contrasting_expressions,
    look,
    motion_clip,
    near_neutral,
    plausible,
    wide_pose,
)

PLACE = {name: place for place, name in enumerate(EXPRESSIONS)}


def test_there_are_the_53_shapes_in_alphabetical_order() -> None:
    assert len(EXPRESSIONS) == 53
    assert list(EXPRESSIONS) == sorted(set(EXPRESSIONS))
    assert EXPRESSIONS[0] == "browDown_L"
    assert EXPRESSIONS[-1] == "noseSneer_R"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([12.5, 25.0, 30.0]))
def test_clips_stay_in_range_and_repeat(seed: int, frames: int, fps: float) -> None:
    faces, poses = motion_clip(np.random.default_rng(seed), frames, fps)
    assert faces.shape == (frames, 53)
    assert poses.shape == (frames, 6)
    assert faces.min() >= 0
    assert faces.max() <= 1
    assert (np.abs(poses[:, :3]).max(0) <= [PITCH_LIMIT, YAW_LIMIT, ROLL_LIMIT]).all()
    again, poses_again = motion_clip(np.random.default_rng(seed), frames, fps)
    np.testing.assert_array_equal(faces, again)
    np.testing.assert_array_equal(poses, poses_again)


@pytest.mark.parametrize("seed", range(5))
def test_clips_are_smooth_and_lively(seed: int) -> None:
    faces, poses = motion_clip(np.random.default_rng(seed), 200, 25.0)
    lids = [PLACE["eyeBlink_L"], PLACE["eyeBlink_R"]]
    gaze = [place for name, place in PLACE.items() if "Look" in name]
    calm = np.delete(faces, lids + gaze, axis=1)
    assert np.abs(np.diff(calm, axis=0)).max() < 0.6  # no mouth or brow jumps within 40 ms
    assert np.abs(np.diff(poses[:, :3], axis=0)).max() < 8  # degrees a frame
    assert np.abs(np.diff(poses[:, 3:], axis=0)).max() < 1  # cm a frame
    assert poses[:, 1].std() > 3
    assert faces[:, PLACE["jawOpen"]].max() > 0.3
    assert faces[:, lids].max() > 0.9  # it blinks


def test_a_clip_can_start_calm() -> None:
    faces, poses = motion_clip(np.random.default_rng(3), 64, 25.0, from_neutral=True)
    np.testing.assert_array_equal(faces[0], np.zeros(53))
    np.testing.assert_array_equal(poses[0], np.zeros(6))
    assert np.abs(poses[30:]).max() > 1


@pytest.mark.parametrize("seed", range(4))
def test_the_expressions_of_a_pose_differ_and_cover_the_range(seed: int) -> None:
    faces = contrasting_expressions(np.random.default_rng(seed), 8)
    assert faces.shape == (8, 3, 53)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(faces[:, first] - faces[:, second], axis=1).min() > 0.4
    jaw = faces[..., PLACE["jawOpen"]].ravel()
    assert (jaw > 0).sum() == 12
    np.testing.assert_allclose(np.sort(jaw[jaw > 0]), np.arange(12) / 12 + 1 / 24, atol=1 / 24 + 1e-6)
    closed = np.maximum(faces[..., PLACE["eyeBlink_L"]], faces[..., PLACE["eyeBlink_R"]]).ravel() > 0.85
    assert closed.sum() == 6


def test_muscles_that_exclude_each_other_give_way() -> None:
    both = plausible(blend({"jawOpen": 1.0, "mouthPress": 1.0, "mouthSmile": 1.0, "mouthFrown": 1.0, "eyeBlink": 1.0}))
    assert both[PLACE["jawOpen"]] == 1
    assert both[PLACE["mouthPress_L"]] == 0
    assert both[PLACE["mouthFrown_R"]] == 0
    wide = plausible(blend({"eyeWide": 1.0, "eyeBlink": 1.0}))
    assert wide[PLACE["eyeWide_L"]] == 0
    assert plausible(np.full(53, 7.0)).max() <= 1


def test_both_eyes_look_the_same_way() -> None:
    right = look(0.5, 0.0)
    assert right[PLACE["eyeLookOut_L"]] == right[PLACE["eyeLookIn_R"]] == 0.5
    assert right.sum() == 1.0
    down = look(0.0, -0.5)
    assert down[PLACE["eyeLookDown_L"]] == down[PLACE["eyeLookDown_R"]] == 0.5


def test_reference_is_calm_and_poses_are_wide() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        face, pose = near_neutral(rng)
        assert face[PLACE["jawOpen"]] == 0
        assert face[PLACE["eyeBlink_L"]] == 0
        assert abs(pose.yaw) < 20
    angles = np.abs([wide_pose(rng).angles for _ in range(2000)])  # pitch, yaw, roll
    for column, (usual, limit) in enumerate(((15, PITCH_LIMIT), (30, YAW_LIMIT), (12, ROLL_LIMIT))):
        assert limit * 0.98 < angles[:, column].max() <= limit
        assert 0.09 < (angles[:, column] > usual).mean() < 0.18
        far = angles[:, column] > usual + 0.8 * (limit - usual)
        assert 0.01 < far.mean() < 0.06  # the ends are reached, not only named


def test_the_demonstration_shows_every_kind_of_motion() -> None:
    plan = demonstration()
    assert plan.expression.shape == (200, 53)
    angles = np.array([pose.angles for pose in plan.poses])
    assert np.abs(angles[0]).max() < 1
    assert angles[:, 1].min() < -25
    assert angles[:, 1].max() > 25
    assert np.ptp(angles[:, 0]) > 15
    assert plan.expression[:, PLACE["jawOpen"]].max() > 0.8
    assert plan.expression[:, PLACE["mouthSmile_L"]].max() > 0.8
    assert plan.expression[0, PLACE["eyeBlink_L"]] < 0.05
    blinking = plan.expression[:, PLACE["eyeBlink_L"]] > 0.5
    assert (np.diff(blinking.astype(int)) == 1).sum() >= 5
    assert np.abs(np.diff(angles, axis=0)).max() < 6
