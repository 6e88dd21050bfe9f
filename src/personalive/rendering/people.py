"""What is rendered of each person, and rendering many of them with several processes."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from personalive.data.jobs import run_jobs
from personalive.data.shards import GroundTruth, PersonRecord, write_shard
from personalive.errors import ConfigError
from personalive.rendering.avatar import sample_person
from personalive.rendering.face_model import FaceModel, FaceModelError, FloatArray, load_face_model
from personalive.rendering.ground_truth import (
    KEYPOINT_LANDMARKS,
    Camera,
    Pose,
    apply_pose,
    canonical_keypoints,
    face_box,
    fit_similarity,
)
from personalive.rendering.motion import EXPRESSIONS, contrasting_expressions, motion_clip, near_neutral, wide_pose
from personalive.rendering.renderer import Renderer

Split = Literal["train", "test", "clip", "expression"]

FPS = 25.0
SHARD_PEOPLE = 32
# Seeds of people; training and held-out people never meet. Below 10,000: built-in portraits and their driver.
SEED_RANGES: dict[Split, tuple[int, int]] = {
    "train": (10_000, 900_000),
    "test": (900_000, 1_000_000),
    "clip": (900_000, 1_000_000),
    "expression": (900_000, 1_000_000),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The frames of a person: expressions, poses, and what each frame is for."""

    expression: FloatArray  # (F, 53)
    poses: tuple[Pose, ...]
    kind: tuple[str, ...]
    group: tuple[int, ...]


def plan_person(seed: int, frames: int) -> Plan:
    """A reference, then three fifths of poses with three expressions each, the rest a clip at every second frame.

    40 frames: 1 + 8 x 3 + 15.
    """
    if frames < 4:
        raise ConfigError(f"a person needs at least 4 frames, not {frames}")
    rng = np.random.default_rng([seed, 6])
    poses = frames // 5
    clip = frames - 1 - 3 * poses
    calm, calm_pose = near_neutral(rng)
    faces = [calm[None]]
    pose_list = [calm_pose]
    if poses:
        faces.append(contrasting_expressions(rng, poses).reshape(poses * 3, -1))  # (poses, 3, 53) -> (frames, 53)
        pose_list += [pose for pose in (wide_pose(rng) for _ in range(poses)) for _ in range(3)]
    moving, moving_poses = motion_clip(rng, clip, FPS / 2)
    faces.append(moving)
    pose_list += [Pose(*map(float, row)) for row in moving_poses]
    return Plan(
        expression=np.concatenate(faces),
        poses=tuple(pose_list),
        kind=("reference",) + ("pose",) * (3 * poses) + ("clip",) * clip,
        group=(0, *(1 + place // 3 for place in range(3 * poses)), *((poses + 1,) * clip)),
    )


def plan_clip(clip_seed: int, frames: int, fps: float = FPS, liveliness: float = 1.0) -> Plan:
    """One smooth clip that starts near neutral and frontal."""
    rng = np.random.default_rng([clip_seed, 7])
    faces, poses = motion_clip(rng, frames, fps, from_neutral=True, liveliness=liveliness)
    return Plan(faces, tuple(Pose(*map(float, row)) for row in poses), ("clip",) * frames, (0,) * frames)


def plan_expression(seed: int, frames: int) -> Plan:
    """A clip in which only the face moves: the head is held in a calm pose."""
    clip, (_, pose) = plan_clip(seed, frames), near_neutral(np.random.default_rng([seed, 9]))
    return replace(clip, poses=(pose,) * frames)


def _plan(seed: int, frames: int, split: Split) -> Plan:
    if split == "clip":
        return plan_clip(seed, frames)
    return plan_expression(seed, frames) if split == "expression" else plan_person(seed, frames)


def sample_camera(seed: int) -> Camera:
    """The camera of the person with this seed: from a phone at arm's length to a long lens, the head about as large."""
    rng = np.random.default_rng([seed, 10])
    usual = Camera()
    distance = float(np.exp(rng.uniform(np.log(50.0), np.log(115.0))))
    focal = usual.focal * distance / usual.distance * np.exp(rng.normal(0, 0.05))
    return Camera(2 * float(np.degrees(np.arctan(1 / focal))), usual.height + float(rng.normal(0, 0.5)), distance)


def render_person(renderer: Renderer, seed: int, plan: Plan) -> PersonRecord:
    """Render the person with this seed along a plan, with exact ground truth."""
    model = renderer.head.model
    if model.expression_names != EXPRESSIONS:
        raise FaceModelError(f"face model has {len(model.expression_names)} expressions other than ICT-FaceKit's 53")
    renderer.set_person(sample_person(model, seed))
    renderer.set_camera(sample_camera(seed))
    marks = model.landmark_vertices
    weight = renderer.head.weight[marks]
    resting = renderer.neutral[marks]
    canonical = canonical_keypoints(resting, renderer.camera)
    images, keypoints, landmarks, scale, translation = [], [], [], [], []
    for face, pose in zip(plan.expression, plan.poses, strict=True):
        images.append(renderer.render(face, pose))
        still = renderer.camera.project(apply_pose(resting, weight, pose))[list(KEYPOINT_LANDMARKS)]
        moved = renderer.camera.project(apply_pose(renderer.expressed(face)[marks], weight, pose))
        fit = fit_similarity(canonical, still, pose)
        keypoints.append(still)
        landmarks.append(moved)
        scale.append(fit.scale)
        translation.append(fit.translation)
    name = f"{seed:08d}"
    return PersonRecord(
        name=name,
        person=name,
        images=np.stack(images),
        face_box=np.stack([face_box(points) for points in landmarks]),
        group=np.array(plan.group, np.int32),
        kind=plan.kind,
        truth=GroundTruth(
            expression=plan.expression,
            angles=np.array([pose.angles for pose in plan.poses], np.float32),
            scale=np.array(scale, np.float32),
            translation=np.array(translation, np.float32),
            canonical=canonical,
            keypoints=np.array(keypoints, np.float32),
            landmarks=np.array(landmarks, np.float32),
        ),
    )


def render_portrait(face_model: FaceModel | Path | str, person_seed: int, size: int) -> NDArray[np.uint8]:
    """A calm, near-frontal portrait (size, size, 3), RGB."""
    face, pose = near_neutral(np.random.default_rng([person_seed, 8]))
    plan = Plan(face[None], (pose,), ("reference",), (0,))
    with closing(Renderer(_loaded(face_model), size)) as renderer:
        picture: NDArray[np.uint8] = render_person(renderer, person_seed, plan).images[0]
    return picture


def render_clip(
    face_model: FaceModel | Path | str, person_seed: int, clip_seed: int, frames: int, size: int
) -> NDArray[np.uint8]:
    """A smooth clip (frames, size, size, 3) at 25 frames a second that starts near neutral, RGB."""
    with closing(Renderer(_loaded(face_model), size)) as renderer:
        return render_person(renderer, person_seed, plan_clip(clip_seed, frames)).images


def render_people(
    face_model: Path | str,
    out_dir: Path | str,
    first_seed: int,
    people: int,
    size: int,
    workers: int = 2,
    frames: int = 40,
    split: Split = "train",
) -> list[Path]:
    """Render `people` people from `first_seed` on into shards `<split>-00000.tar`...; returns their paths.

    Complete shards are kept, so an interrupted run can be repeated. Split "clip" renders one smooth clip of `frames`
    frames per (held-out) person instead of the mixed frames, "expression" one in which only the face moves. Call it
    under `if __name__ == "__main__":` in a script, because the workers are fresh processes that import it.

    Raises:
        ConfigError: the seeds leave the range of the split, or a number is out of range.
        FaceModelError: the face model cannot be read.
    """
    low, high = SEED_RANGES[split]
    if people < 1 or workers < 1 or not low <= first_seed <= high - people:
        got = f"{people} from {first_seed} with {workers} workers"
        raise ConfigError(f"{split} people need seeds in [{low}, {high}) and at least one worker; got {got}")
    load_face_model(face_model)  # a bad file is one clear error here, not one per worker
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number in range(-(-people // SHARD_PEOPLE)):
        start = first_seed + number * SHARD_PEOPLE
        seeds = range(start, min(start + SHARD_PEOPLE, first_seed + people))
        jobs.append((out / f"{split}-{number:05d}.tar", seeds))
    waiting = [job for job in jobs if not job[0].exists()]
    logger.info("%s: %d shards, %d still to render", split, len(jobs), len(waiting))
    queue = [(face_model, *job, size, frames, split) for job in waiting]
    run_jobs(_render_shard, queue, workers, lambda path: logger.info("%s complete", path))
    return [path for path, _ in jobs]


_renderers: dict[tuple[str, int], Renderer] = {}  # of this worker process: opening one costs seconds


def _render_shard(face_model: Path | str, path: Path, seeds: range, size: int, frames: int, split: Split) -> Path:
    """One worker's job."""
    key = (str(face_model), size)
    if key not in _renderers:
        _renderers[key] = Renderer(load_face_model(face_model), size)
    renderer = _renderers[key]
    write_shard(path, (render_person(renderer, seed, _plan(seed, frames, split)) for seed in seeds))
    return path


def _loaded(face_model: FaceModel | Path | str) -> FaceModel:
    return face_model if isinstance(face_model, FaceModel) else load_face_model(face_model)
