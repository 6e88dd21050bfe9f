from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.rendering.ground_truth import (
    KEYPOINT_LANDMARKS,
    KEYPOINTS,
    Camera,
    Pose,
    apply_pose,
    canonical_keypoints,
    face_box,
    fit_similarity,
    head_weight,
    rotation,
    world_rotation,
)
from toy_head import toy_face_model

MODEL = toy_face_model()
LANDMARKS = MODEL.vertices[MODEL.landmark_vertices].astype(np.float64)

poses = st.builds(
    Pose,
    pitch=st.floats(-28, 28),
    yaw=st.floats(-50, 50),
    roll=st.floats(-24, 24),
    right=st.floats(-2, 2),
    up=st.floats(-1.5, 1.5),
    nearer=st.floats(-5, 5),
)


def test_the_drawn_seven_are_the_specified_landmarks() -> None:
    assert len(KEYPOINT_LANDMARKS) == KEYPOINTS == len(set(KEYPOINT_LANDMARKS))
    assert [KEYPOINT_LANDMARKS[index] for index in (1, 2, 3, 4, 12, 15, 20)] == [36, 45, 30, 48, 54, 8, 27]


@given(poses)
def test_rotation_follows_the_published_convention(pose: Pose) -> None:
    p, y, r = np.radians(pose.angles)
    rx = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    matrix = rotation(*pose.angles)
    np.testing.assert_allclose(matrix, (rz @ ry @ rx).T, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.isclose(np.linalg.det(matrix), 1.0)


def test_angles_mean_what_one_sees() -> None:
    """In image axes (x right, y down, z away): which way nose and chin go."""
    nose = np.array([0.0, 0.0, -1.0])
    assert (nose @ rotation(0, 20, 0))[0] < 0  # positive yaw: to the picture's left
    assert (nose @ rotation(20, 0, 0))[1] > 0  # positive pitch: downwards
    chin = np.array([0.0, 1.0, 0.0])
    assert (chin @ rotation(0, 0, 20))[0] < 0  # positive roll: the chin swings to the left, the head to the right


@given(poses)
def test_a_far_camera_obeys_the_law_exactly(pose: Pose) -> None:
    """Without perspective, canonical @ R * scale + t is the projection itself."""
    camera = Camera(field_of_view=0.002, height=1.6, distance=820_000.0)
    canonical = canonical_keypoints(LANDMARKS, camera)
    weight = np.ones(68)
    projected = camera.project(apply_pose(LANDMARKS, weight, pose))[list(KEYPOINT_LANDMARKS)]
    fit = fit_similarity(canonical, projected, pose)
    predicted = (canonical @ rotation(*pose.angles) * fit.scale)[:, :2] + fit.translation
    np.testing.assert_allclose(predicted, projected, atol=2e-4)
    assert abs(fit.scale - 1) < 1e-3
    assert fit.residual < 2e-4


@settings(max_examples=50)
@given(poses)
def test_the_default_camera_obeys_the_law_nearly(pose: Pose) -> None:
    camera = Camera()
    canonical = canonical_keypoints(LANDMARKS, camera)
    weight = head_weight(LANDMARKS)
    projected = camera.project(apply_pose(LANDMARKS, weight, pose))[list(KEYPOINT_LANDMARKS)]
    fit = fit_similarity(canonical, projected, pose)
    assert fit.residual < 0.04
    assert 0.85 < fit.scale < 1.15


def test_the_neck_pivot_needs_no_translation_to_turn() -> None:
    """Turning alone hardly moves t, so half of a driver's translation (model.md 2.4) is not half of its turning."""
    camera = Camera(field_of_view=0.002, distance=820_000.0)
    canonical = canonical_keypoints(LANDMARKS, camera)
    found = []
    for yaw in (-40.0, 0.0, 40.0):
        pose = Pose(pitch=10, yaw=yaw)
        projected = camera.project(apply_pose(LANDMARKS, np.ones(68), pose))[list(KEYPOINT_LANDMARKS)]
        found.append(fit_similarity(canonical, projected, pose).translation)
    np.testing.assert_allclose(found, [found[1]] * 3, atol=1e-3)


def test_world_rotation_is_the_image_rotation_in_world_axes() -> None:
    pose = Pose(pitch=12, yaw=-33, roll=7)
    point = np.array([1.0, 2.0, 3.0])
    flip = np.array([1.0, -1.0, -1.0])
    np.testing.assert_allclose(
        (world_rotation(pose) @ point) * flip, (point * flip) @ rotation(*pose.angles), atol=1e-12
    )


def test_shoulders_stay_and_the_head_follows() -> None:
    points = np.array([[0.0, -14.0, 0.0], [0.0, 3.0, 9.0]])
    weight = head_weight(points)
    np.testing.assert_allclose(weight, [0.0, 1.0])
    moved = apply_pose(points, weight, Pose(yaw=30))
    np.testing.assert_allclose(moved[0], points[0])
    assert moved[1, 0] < -3


def test_camera_projects_right_and_down() -> None:
    camera = Camera()
    np.testing.assert_allclose(camera.project(np.array([0.0, camera.height, 0.0])), [0, 0])
    x, y = camera.project(np.array([1.0, camera.height - 1, 0.0]))
    assert x > 0
    assert y > 0
    edge = np.tan(np.radians(10)) * camera.distance
    np.testing.assert_allclose(camera.project(np.array([edge, camera.height, 0.0])), [1, 0], atol=1e-12)


def test_face_box_holds_its_landmarks_and_stays_in_the_picture() -> None:
    points = Camera().project(LANDMARKS)
    x1, y1, x2, y2 = face_box(points)
    assert x1 <= points[:, 0].min() < points[:, 0].max() <= x2
    assert y1 <= points[:, 1].min() < points[:, 1].max() <= y2
    assert face_box(points + 0.9).max() <= 1.0
