"""Rendering itself. Needs OpenGL over EGL; what needs the real head also needs the face model."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from personalive.data.shards import GroundTruth, PersonRecord, read_shards
from personalive.errors import ConfigError
from personalive.rendering.avatar import sample_person
from personalive.rendering.face_model import (
    FaceModel,
    FaceModelError,
    find_face_model,
    load_face_model,
    save_face_model,
)
from personalive.rendering.ground_truth import KEYPOINT_LANDMARKS, Pose, rotation
from personalive.rendering.motion import EXPRESSIONS
from personalive.rendering.people import SEED_RANGES, render_clip, render_people, render_portrait
from personalive.rendering.plans import Plan, plan_clip, plan_expression, plan_person
from personalive.rendering.records import render_person, sample_camera
from personalive.rendering.renderer import Renderer, RenderingUnavailableError
from personalive.rendering.views import gaze_angles
from toy_head import toy_face_model

PLACE = {name: place for place, name in enumerate(EXPRESSIONS)}


@cache
def why_no_opengl() -> str | None:
    if importlib.util.find_spec("moderngl") is None:
        return "moderngl is not installed"
    try:
        Renderer(toy_face_model(), 32)
    except RenderingUnavailableError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def toy() -> FaceModel:
    reason = why_no_opengl()
    if reason:
        pytest.skip(reason)
    return toy_face_model()


@pytest.fixture(scope="module")
def real(toy: FaceModel) -> FaceModel:
    path = find_face_model()
    if path is None or not path.exists():
        pytest.skip("no face model (set PERSONALIVE_FACE_MODEL)")
    return load_face_model(path)


@pytest.fixture(scope="module")
def renderer(real: FaceModel) -> Renderer:
    return Renderer(real, 96)


def known(record: PersonRecord) -> GroundTruth:
    assert record.truth is not None
    return record.truth


def test_training_and_held_out_people_never_meet() -> None:
    train, test, clip = (set(range(*SEED_RANGES[split])) for split in ("train", "test", "clip"))
    assert not train & test
    assert clip == test
    assert min(train) >= 10_000  # below: the built-in portraits


def test_a_person_gets_the_planned_frames() -> None:
    plan = plan_person(10_000, 40)
    assert plan.kind == ("reference",) + ("pose",) * 24 + ("clip",) * 15
    assert plan.group == (0, *(1 + place // 3 for place in range(24)), *(9,) * 15)
    for group in range(1, 9):
        assert len({plan.poses[place] for place in range(40) if plan.group[place] == group}) == 1
    again = plan_person(10_000, 40)
    np.testing.assert_array_equal(plan.expression, again.expression)
    assert plan.poses == again.poses
    assert plan.poses != plan_person(10_001, 40).poses
    with pytest.raises(ConfigError):
        plan_person(10_000, 3)


def test_people_are_sampled_by_seed(toy: FaceModel) -> None:
    one, same, other = sample_person(toy, 1), sample_person(toy, 1), sample_person(toy, 2)
    np.testing.assert_array_equal(one.identity, same.identity)
    np.testing.assert_array_equal(one.skin, same.skin)
    assert not np.array_equal(one.skin, other.skin)


def test_cameras_vary_and_keep_the_head_in_the_picture() -> None:
    cameras = [sample_camera(seed) for seed in range(200)]
    distances = np.array([camera.distance for camera in cameras])
    assert 50 <= distances.min() < 60
    assert 100 < distances.max() <= 115
    widths = np.array([camera.project(np.array([7.5, 0.0, 0.0]))[0] for camera in cameras])  # half a head's width
    assert widths.min() > 0.4
    assert widths.max() < 0.7
    assert sample_camera(3) == sample_camera(3)


def test_seeds_outside_their_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train people need seeds"):
        render_people("none.npz", tmp_path, 899_999, 2, 32, split="train")
    with pytest.raises(FaceModelError, match="not found"):
        render_people("none.npz", tmp_path, 10_000, 2, 32)
    assert not list(tmp_path.iterdir())


def test_ground_truth_of_a_made_up_head(toy: FaceModel) -> None:
    record = render_person(Renderer(toy, 48), 7, plan_person(7, 10))
    assert record.images.shape == (10, 48, 48, 3)
    assert record.images.std() > 5
    truth = known(record)
    for frame in range(10):
        turned = truth.canonical @ rotation(*truth.angles[frame]) * truth.scale[frame]
        predicted = turned[:, :2] + truth.translation[frame]
        assert np.linalg.norm(predicted - truth.keypoints[frame], axis=1).mean() < 0.04


def test_a_foreign_model_is_refused(toy: FaceModel) -> None:
    other = replace(toy, expression_names=(*toy.expression_names[:-1], "wink"))
    with pytest.raises(FaceModelError, match="expressions"):
        render_person(Renderer(other, 32), 7, plan_person(7, 4))


def test_shards_are_rendered_once_and_resumed(toy: FaceModel, tmp_path: Path) -> None:
    head = tmp_path / "head.npz"
    save_face_model(toy, head)
    out = tmp_path / "data"
    paths = render_people(head, out, 900_000, 2, 32, workers=1, frames=6, split="test")
    assert [path.name for path in paths] == ["test-00000.tar"]
    people = list(read_shards(paths))
    assert [person.name for person in people] == ["00900000", "00900001"]
    before = paths[0].stat().st_mtime_ns
    for person in people:
        assert person.head is not None
        assert person.flows is not None
        assert person.flows.targets.shape == (2, 4)
    np.testing.assert_array_equal(known(people[0]).expression, known(people[1]).expression)  # one plan
    assert render_people(head, out, 900_000, 2, 32, workers=1, frames=6, split="test") == paths
    assert paths[0].stat().st_mtime_ns == before
    assert not list(out.glob("*.part"))


def test_without_pairs_no_flow_is_stored(toy: FaceModel, tmp_path: Path) -> None:
    head = tmp_path / "head.npz"
    save_face_model(toy, head)
    paths = render_people(head, tmp_path, 900_000, 1, 32, workers=1, frames=4, split="test", pairs=False)
    (person,) = read_shards(paths)
    assert person.flows is None
    assert person.head is not None
    assert person.kind[0] == "reference"


def test_the_real_head_keeps_the_law(renderer: Renderer) -> None:
    seed = 900_003
    record = known(render_person(renderer, seed, plan_person(seed, 10)))
    residuals = []
    for frame in range(10):
        turned = record.canonical @ rotation(*record.angles[frame]) * record.scale[frame]
        residuals.append(
            np.linalg.norm(turned[:, :2] + record.translation[frame] - record.keypoints[frame], axis=1).mean()
        )
    assert np.mean(residuals) < 0.02
    assert 0.85 < record.scale.min() <= record.scale.max() < 1.15
    # where there is no expression, landmarks and keypoints are the same points
    plan = Plan(np.zeros((1, 53), np.float32), (Pose(yaw=20),), ("clip",), (0,))
    still = known(render_person(renderer, seed, plan))
    np.testing.assert_allclose(still.landmarks[0][list(KEYPOINT_LANDMARKS)], still.keypoints[0], atol=1e-6)


def test_dense_landmarks_are_the_vertices_where_nothing_hides_them(renderer: Renderer) -> None:
    plan = Plan(np.zeros((2, 53), np.float32), (Pose(), Pose(yaw=55)), ("clip",) * 2, (0, 0))
    record = render_person(renderer, 900_007, plan)
    assert record.head is not None
    dense, seen = record.head.dense, record.head.dense_visible
    np.testing.assert_allclose(dense[:, :68], known(record).landmarks, atol=1e-6)
    np.testing.assert_allclose(record.head.pose[1], [0, 55, 0, 0, 0, 0])
    assert seen[0, 27:36].all()  # the nose
    assert seen[0].mean() > 0.6
    # positive yaw turns the nose to the picture's left: what lies there on the frontal face goes out of sight
    far, near = dense[0, :, 0] < -0.2, dense[0, :, 0] > 0.2
    assert seen[1, far].mean() < 0.5 * seen[1, near].mean()


def test_rendering_repeats_exactly(real: FaceModel, renderer: Renderer) -> None:
    """Also with several renderers open at once, in turn."""
    first = render_person(renderer, 5, plan_clip(1, 2))
    np.testing.assert_array_equal(render_clip(real, 5, 1, 2, renderer.size), first.images)
    other = render_person(renderer, 6, plan_clip(1, 2))
    assert not np.array_equal(first.images, other.images)
    np.testing.assert_array_equal(render_person(renderer, 5, plan_clip(1, 2)).images, first.images)


def test_pictures_show_what_the_truth_says(renderer: Renderer) -> None:
    """Opening the jaw changes the picture inside the face box; the nose tip is skin, not background."""
    seed = 900_005
    faces = np.zeros((2, 53), np.float32)
    faces[1, PLACE["jawOpen"]] = 1
    record = render_person(renderer, seed, Plan(faces, (Pose(), Pose()), ("pose", "pose"), (1, 1)))
    change = np.abs(record.images[1].astype(int) - record.images[0]).sum(-1) > 40
    rows, columns = np.nonzero(change)
    assert len(rows) > 50
    x, y = columns / 95 * 2 - 1, rows / 95 * 2 - 1
    x1, y1, x2, y2 = record.face_box[1]
    inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2 + 0.1)
    assert inside.mean() > 0.9
    nose = known(record).keypoints[0, 3]
    column, row = ((nose + 1) / 2 * 95).round().astype(int)
    skin = sample_person(renderer.head.model, seed).skin
    found = record.images[0, row, column] / 255
    assert abs(np.argmax(found) - np.argmax(skin)) == 0
    np.testing.assert_allclose(found / found.sum(), skin / skin.sum(), atol=0.08)


def test_gaze_moves_the_irises(renderer: Renderer) -> None:
    left = np.zeros(53, np.float32)
    left[[PLACE["eyeLookIn_L"], PLACE["eyeLookOut_R"]]] = 1
    (across, up), other = gaze_angles(left, PLACE)
    assert across < -0.4
    assert up == 0
    assert other == (across, up)
    faces = np.stack([left, np.zeros(53, np.float32)])
    record = render_person(renderer, 900_006, Plan(faces, (Pose(), Pose()), ("pose", "pose"), (1, 1)))
    change = np.abs(record.images[1].astype(int) - record.images[0]).sum(-1) > 60
    rows = np.nonzero(change)[0] / 95 * 2 - 1
    eyes = known(record).landmarks[0, 36:48, 1]
    assert change.sum() > 5
    assert (np.abs(rows - eyes.mean()) < 0.12).mean() > 0.9


def test_an_expression_clip_moves_the_face_alone() -> None:
    plan, clip = plan_expression(900_001, 30), plan_clip(900_001, 30)
    assert len(set(plan.poses)) == 1
    assert abs(plan.poses[0].yaw) < 20
    np.testing.assert_array_equal(plan.expression, clip.expression)
    assert plan.expression[:, PLACE["jawOpen"]].std() > 0.01
    assert plan_expression(900_002, 30).poses != plan.poses


def test_portraits_and_clips_have_their_shapes(toy: FaceModel) -> None:
    assert render_portrait(toy, 3, 128).shape == (128, 128, 3)
    assert render_portrait(toy, 3, 512).shape == (512, 512, 3)
    plan = plan_clip(4, 12)
    assert plan.expression.shape == (12, 53)
    assert plan.poses[0] == Pose()
