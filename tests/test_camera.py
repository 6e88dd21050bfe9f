"""The camera of the renderer: pictures are taken with the camera that the ground truth is projected with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from personalive.rendering.avatar import Lighting, Person, sample_person
from personalive.rendering.face_model import find_face_model, load_face_model
from personalive.rendering.ground_truth import Camera, Pose, apply_pose
from personalive.rendering.looks import FacialHair
from personalive.rendering.renderer import Renderer, RenderingUnavailableError

SIZE = 192
CALM = np.zeros(53, np.float32)
OUTER_LIPS = slice(48, 60)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    path = find_face_model()
    if path is None or not path.exists():
        pytest.skip("no face model (set PERSONALIVE_FACE_MODEL)")
    try:
        opened = Renderer(load_face_model(path), SIZE)
    except RenderingUnavailableError as error:
        pytest.skip(str(error))
    with closing(opened):
        yield opened


def green_lips(renderer: Renderer, seed: int) -> Person:
    """A bald person in flat light whose lips alone are green."""
    flat = Lighting(np.eye(3), np.zeros((3, 3)), np.full(3, 0.9), np.full(3, 0.9))
    return replace(
        sample_person(renderer.head.model, seed),
        skin=np.full(3, 0.6),
        lip=np.array([0.0, 1.0, 0.0]),
        lip_strength=1.0,
        blush=0.0,
        facial_hair=FacialHair("none", 0.0, 0.0),
        headwear=None,
        scarf=None,
        glasses=0,
        freckles=0.0,
        hair=np.full(3, 0.3),
        hair_style="bald",
        lighting=flat,
    )


def lip_box(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], expected: np.ndarray) -> np.ndarray:
    """Left, upper, right and lower edge of what is green near the expected box, in [-1, 1]."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    rows, columns = np.nonzero(green - np.maximum(red, blue) > 60)
    x, y = (columns + 0.5) / SIZE * 2 - 1, (rows + 0.5) / SIZE * 2 - 1
    near = (np.abs(x - expected[[0, 2]].mean()) < 0.4) & (np.abs(y - expected[[1, 3]].mean()) < 0.3)
    return np.array([x[near].min(), y[near].min(), x[near].max(), y[near].max()])


@pytest.mark.parametrize(
    "camera", [Camera(), Camera(45.0, 1.6, 40.0), Camera(13.0, 3.5, 115.0), Camera(24.0, -1.0, 70.0)]
)
@pytest.mark.parametrize("pose", [Pose(), Pose(pitch=8, yaw=25, roll=-10, right=1.0, nearer=3.0)])
def test_landmarks_lie_where_the_picture_shows_them(renderer: Renderer, camera: Camera, pose: Pose) -> None:
    renderer.set_person(green_lips(renderer, 900_010))
    renderer.set_camera(camera)
    marks = renderer.head.model.landmark_vertices[OUTER_LIPS]
    points = camera.project(apply_pose(renderer.neutral[marks], renderer.head.weight[marks], pose))
    expected = np.concatenate([points.min(0), points.max(0)])
    found = lip_box(renderer.render(CALM, pose), expected)
    np.testing.assert_allclose(found, expected, atol=0.025)  # 2.4 pixels of 192; the paint's edge is soft


def test_another_camera_takes_another_picture(renderer: Renderer) -> None:
    renderer.set_person(green_lips(renderer, 900_011))
    renderer.set_camera(Camera())
    usual = renderer.render(CALM, Pose())
    renderer.set_camera(Camera(45.0, 1.6, 40.0))
    near = renderer.render(CALM, Pose())
    assert np.abs(near.astype(int) - usual).mean() > 3
    renderer.set_camera(Camera())
    np.testing.assert_array_equal(renderer.render(CALM, Pose()), usual)
