"""Rendering a person along a plan, with everything that is exactly known of the frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from personalive.data.geometry import FlowTruth, HeadTruth
from personalive.data.shards import GroundTruth, PersonRecord
from personalive.rendering.avatar import sample_person
from personalive.rendering.dense_landmarks import dense_landmark_vertices
from personalive.rendering.face_model import FaceModelError, FloatArray, IntArray
from personalive.rendering.flow import BackwardFlow, FlowRenderer, halved_flow
from personalive.rendering.ground_truth import (
    KEYPOINT_LANDMARKS,
    Camera,
    apply_pose,
    canonical_keypoints,
    face_box,
    fit_similarity,
)
from personalive.rendering.motion import EXPRESSIONS
from personalive.rendering.plans import Plan
from personalive.rendering.renderer import Renderer

HIDDEN_BY = 0.5  # cm before a landmark that hide it


def sample_camera(seed: int) -> Camera:
    """The camera of the person with this seed: from a phone at arm's length to a long lens, the head about as large."""
    rng = np.random.default_rng([seed, 10])
    usual = Camera()
    distance = float(np.exp(rng.uniform(np.log(50.0), np.log(115.0))))
    focal = usual.focal * distance / usual.distance * np.exp(rng.normal(0, 0.05))
    return Camera(2 * float(np.degrees(np.arctan(1 / focal))), usual.height + float(rng.normal(0, 0.5)), distance)


def render_person(
    renderer: Renderer, seed: int, plan: Plan, flows: FlowRenderer | None = None, targets: IntArray | None = None
) -> PersonRecord:
    """Render the person with this seed along a plan, with exact ground truth.

    `targets` (R, T): frames whose backward flow towards the first R frames is added; `flows` draws it, at the
    pictures' size.
    """
    model = renderer.head.model
    if model.expression_names != EXPRESSIONS:
        raise FaceModelError(f"face model has {len(model.expression_names)} expressions other than ICT-FaceKit's 53")
    renderer.set_person(sample_person(model, seed))
    camera = sample_camera(seed)
    renderer.set_camera(camera)
    vertices = dense_landmark_vertices(model)
    marks = model.landmark_vertices
    weight = renderer.head.weight[marks]
    resting = renderer.neutral[marks]
    canonical = canonical_keypoints(resting, camera)
    images, keypoints, landmarks, scale, translation, dense, seen = [], [], [], [], [], [], []
    for face, pose in zip(plan.expression, plan.poses, strict=True):
        images.append(renderer.render(face, pose))
        points = apply_pose(renderer.expressed(face)[vertices], renderer.head.weight[vertices], pose)
        dense.append(camera.project(points))
        seen.append(unhidden(points, camera, renderer.read_depth()))
        still = camera.project(apply_pose(resting, weight, pose))[list(KEYPOINT_LANDMARKS)]
        moved = camera.project(apply_pose(renderer.expressed(face)[marks], weight, pose))
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
        head=HeadTruth(
            identity=renderer.person.identity.astype(np.float32),
            camera=np.array([camera.field_of_view, camera.height, camera.distance], np.float32),
            pose=np.array([[*pose.angles, *pose.shift] for pose in plan.poses], np.float32),
            dense=np.array(dense, np.float32),
            dense_visible=np.stack(seen),
        ),
        flows=None if flows is None or targets is None else _flow_truth(flows, plan, targets),
    )


def unhidden(points: NDArray[np.floating], camera: Camera, depth: FloatArray) -> NDArray[np.bool_]:
    """Which world points (N, 3) nothing hides from the camera, by the depth (S, S) of the picture in cm: (N,) bool."""
    size = len(depth)
    column, row = np.floor((camera.project(points) + 1) / 2 * size).astype(int).T
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    open_to = np.zeros(len(points), bool)
    for down in (-1, 0, 1):  # depth jumps within a pixel
        for right in (-1, 0, 1):
            there = depth[(row + down).clip(0, size - 1), (column + right).clip(0, size - 1)]
            open_to |= camera.distance - points[:, 2] - there < HIDDEN_BY
    return np.asarray(open_to & inside)


def _flow_truth(flows: FlowRenderer, plan: Plan, targets: IntArray) -> FlowTruth:
    """Backward flow of the target frames (R, T) towards the first R frames."""
    frames = list(zip(plan.expression, plan.poses, strict=True))
    found: list[list[BackwardFlow]] = [
        flows.flows(frames[reference], [frames[target] for target in row]) for reference, row in enumerate(targets)
    ]
    return FlowTruth(
        references=np.arange(len(targets), dtype=np.int32),
        targets=targets,
        flow=np.array([[halved_flow(each) for each in row] for row in found]),
        visible=np.array([[each.visible for each in row] for row in found]),
        part=np.array([[each.part for each in row] for row in found]),
        reference_part=np.array([flows.parts(frames[reference]) for reference in range(len(targets))]),
    )
