"""Exact backward flow: warping one render onto another by it must show the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from personalive.data.geometry import pixel_grid
from personalive.rendering.avatar import Lighting, Person, sample_person
from personalive.rendering.face_model import find_face_model, load_face_model
from personalive.rendering.flow import BackwardFlow, FlowRenderer, Frame, halved_flow
from personalive.rendering.ground_truth import Camera, Pose
from personalive.rendering.layers import Part
from personalive.rendering.motion import EXPRESSIONS, blend, look
from personalive.rendering.renderer import Renderer, RenderingUnavailableError

SIZE = 128
CALM = np.zeros(len(EXPRESSIONS), np.float32)
SEED = 900_004


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


@pytest.fixture(scope="module")
def flows(renderer: Renderer) -> FlowRenderer:
    return FlowRenderer(renderer, SIZE)


def evenly_lit(renderer: Renderer) -> Person:
    """A person whose colours do not change where the head turns."""
    even = Lighting(np.eye(3), np.zeros((3, 3)), np.full(3, 0.8), np.full(3, 0.8))
    return replace(sample_person(renderer.head.model, SEED), lighting=even)


def warp(picture: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    place = ((flow + 1) / 2 * SIZE - 0.5).astype(np.float32)
    mapped = cv2.remap(picture, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(mapped, np.uint8)


def errors(renderer: Renderer, found: BackwardFlow, reference: Frame, target: Frame, where: NDArray[np.bool_]) -> float:
    """Mean error of the warped reference over that of the unmoved reference, where both count."""
    before, after = renderer.render(*reference), renderer.render(*target)
    counted = found.visible & where
    warped, copied = (np.abs(x.astype(int) - after)[counted].mean() for x in (warp(before, found.flow), before))
    return float(warped / copied)


TARGETS: dict[str, Frame] = {
    "turn": (CALM, Pose(yaw=22, pitch=-6, roll=8)),
    "shift": (CALM, Pose(right=1.5, up=-1.0, nearer=4.0)),
    "expression": ((blend({"jawOpen": 0.7, "browInnerUp": 0.8, "eyeBlink": 0.6})).astype(np.float32), Pose()),
    "both": ((blend({"jawOpen": 0.5, "mouthSmile": 0.8})).astype(np.float32), Pose(yaw=-18, pitch=5)),
}


@pytest.mark.parametrize("camera", [Camera(), Camera(45.0, 1.6, 40.0)])
@pytest.mark.parametrize("name", TARGETS)
def test_a_warped_reference_shows_the_target(
    renderer: Renderer, flows: FlowRenderer, name: str, camera: Camera
) -> None:
    renderer.set_person(evenly_lit(renderer))
    renderer.set_camera(camera)
    reference: Frame = (CALM, Pose())
    (found,) = flows.flows(reference, [TARGETS[name]])
    moved = np.linalg.norm(found.flow - pixel_grid(SIZE), axis=-1) > 0.01
    ratio = errors(renderer, found, reference, TARGETS[name], moved & (found.part == Part.SKIN))
    assert ratio < 0.3
    assert found.visible[found.part == Part.SKIN].mean() > 0.6


def test_gaze_is_carried_along(renderer: Renderer, flows: FlowRenderer) -> None:
    person = replace(sample_person(renderer.head.model, SEED), glasses=0)
    renderer.set_person(person)
    renderer.set_camera(Camera(8.0, 3.4, 82.0))  # close to the eyes
    reference: Frame = (CALM, Pose())
    target: Frame = (look(0.8, 0.0).astype(np.float32), Pose())
    (found,) = flows.flows(reference, [target])
    assert (found.part == Part.EYE).sum() > 200
    assert errors(renderer, found, reference, target, found.part == Part.EYE) < 0.6


def test_the_same_frame_stays_where_it_is(renderer: Renderer, flows: FlowRenderer) -> None:
    renderer.set_person(sample_person(renderer.head.model, SEED))
    renderer.set_camera(Camera())
    frame = TARGETS["both"]
    (found,) = flows.flows(frame, [frame])
    np.testing.assert_allclose(found.flow, pixel_grid(SIZE), atol=2e-3)
    assert found.visible.all()
    np.testing.assert_array_equal(found.part, flows.parts(frame))
    assert {Part.BACKGROUND, Part.SKIN, Part.EYE, Part.MOUTH, Part.CLOTH} <= set(np.unique(found.part))


def test_what_is_turned_away_is_not_visible(renderer: Renderer, flows: FlowRenderer) -> None:
    """Between two profiles, one half of the face is in both pictures and the other in one alone."""
    renderer.set_person(replace(sample_person(renderer.head.model, SEED), hair_style="bald"))
    renderer.set_camera(Camera())
    one, other = (CALM, Pose(yaw=50)), (CALM, Pose(yaw=-50))
    (found,) = flows.flows(one, [other])
    skin = found.part == Part.SKIN
    assert 0.1 < found.visible[skin].mean() < 0.6
    (mouth,) = flows.flows((CALM, Pose()), [(blend({"jawOpen": 0.9}).astype(np.float32), Pose())])
    inside = mouth.part == Part.MOUTH
    assert inside.sum() > 50
    assert mouth.visible[inside].mean() < 0.2  # a closed mouth shows nothing of it


def test_the_head_uncovers_background(renderer: Renderer, flows: FlowRenderer) -> None:
    renderer.set_person(sample_person(renderer.head.model, SEED))
    renderer.set_camera(Camera())
    (found,) = flows.flows((CALM, Pose()), [(CALM, Pose(right=2.0))])
    background = found.part == Part.BACKGROUND
    assert 0.005 < (~found.visible[background]).mean() < 0.3
    np.testing.assert_array_equal(found.flow[background], pixel_grid(SIZE)[background])


def test_halved_flow_does_not_mix_parts(renderer: Renderer, flows: FlowRenderer) -> None:
    renderer.set_person(sample_person(renderer.head.model, SEED))
    renderer.set_camera(Camera())
    frame = TARGETS["both"]
    (same,) = flows.flows(frame, [frame])
    np.testing.assert_allclose(halved_flow(same), pixel_grid(SIZE // 2), atol=2e-3)
    (found,) = flows.flows((CALM, Pose()), [TARGETS["turn"]])
    moves = (found.flow - pixel_grid(SIZE)).reshape(64, 2, 64, 2, 2).swapaxes(1, 2).reshape(64, 64, 4, 2)
    halved = halved_flow(found) - pixel_grid(64)
    assert (halved >= moves.min(2) - 1e-6).all()
    assert (halved <= moves.max(2) + 1e-6).all()
    nearest = np.linalg.norm(halved[:, :, None] - moves, axis=-1).min(-1)
    assert nearest.max() < 0.03  # between a moving head and a resting background nothing lies half way
