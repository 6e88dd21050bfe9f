"""The head mesh of the reference warp, made from the renderer's face model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from personalive.config import FaceMeshConfig
from personalive.data.face_mesh import save_face_mesh
from personalive.models.face_mesh import EYE, MOUTH, SKIN, FaceMesh
from personalive.rendering.dense_landmarks import dense_landmark_vertices
from personalive.rendering.face_model import FaceModel, load_face_model
from personalive.rendering.ground_truth import NECK_PIVOT, TO_IMAGE_AXES, head_weight
from personalive.rendering.mesh import HeadMesh, build_head_mesh, resting_normals
from personalive.rendering.views import gaze_angles

IDENTITIES = 24
LOWEST = -12.0  # cm: below lie shoulders, which clothes cover
TEETH_FROM = 7.0  # cm: z of the front teeth


def write_face_mesh(face_model: Path, folder: Path) -> Path:
    """Write the head mesh of a face model file (.npz) into a data folder, for training; returns its path.

    Raises FaceModelError for a file that is no face model, OutputError where the folder cannot be written.
    """
    return save_face_mesh(build_face_mesh(load_face_model(face_model)), folder)


def build_face_mesh(model: FaceModel) -> FaceMesh:
    """The face model's skin, eyeballs and front teeth as a FaceMesh."""
    head = build_head_mesh(model)
    triangles = _drawn(head)
    used, places = np.unique(triangles, return_inverse=True)  # the model's vertex numbers, and triangles in ours
    part = np.full(len(model.vertices), SKIN, np.uint8)
    part[np.unique(head.triangles["eyes"])] = EYE
    part[np.unique(head.triangles["teeth"])] = MOUTH
    part[_mouth_walls(model)] = MOUTH
    glances = [place for name, place in model.expression_index.items() if name.startswith("eyeLook")]
    marks = dense_landmark_vertices(model)
    number = np.full(len(model.vertices), -1)
    number[used] = np.arange(len(used))
    identity, identity_scale = _levels(model.identity_deltas[:IDENTITIES][:, used] * TO_IMAGE_AXES)
    expression, expression_scale = _levels(_turning_eyes(head)[:, used] * TO_IMAGE_AXES)
    mesh = FaceMesh(
        FaceMeshConfig(
            vertices=len(used),
            triangles=len(triangles),
            identities=len(identity),
            expressions=len(expression),
            landmarks=len(marks),
        )
    )
    content = {
        "mean": ((model.vertices[used] - NECK_PIVOT) * TO_IMAGE_AXES).astype(np.float32),
        "identity_levels": identity,
        "identity_scale": identity_scale,
        "expression_levels": expression,
        "expression_scale": expression_scale,
        "weight": head_weight(model.vertices[used]).astype(np.float32),
        "part": part[used],
        "triangles": places.reshape(-1, 3).astype(np.int16),
        "landmarks": number[marks].astype(np.int32),
        "glances": np.array(glances, np.int32),
        "blinks": np.array([model.expression_index[f"eyeBlink_{side}"] for side in "LR"], np.int32),
    }
    mesh.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in content.items()})
    return mesh


def _turning_eyes(head: HeadMesh) -> NDArray[np.float32]:
    """Expression displacements (E, V, 3), cm, in which a glance also turns the eyeballs, by its small angle."""
    model = head.model
    deltas: NDArray[np.float32] = model.expression_deltas.copy()
    for name, place in model.expression_index.items():
        if not name.startswith("eyeLook"):
            continue
        coefficients = np.zeros(len(model.expression_names), np.float32)
        coefficients[place] = 1.0
        for side, (across, up) in enumerate(gaze_angles(coefficients, model.expression_index)):
            eye = np.unique(head.triangles["eyes"])
            eye = eye[head.eye_side[eye] == side]
            offset = model.vertices[eye] - head.eye_centres[side]
            turn = np.array([-up, across, 0.0])  # axis times angle
            deltas[place, eye] += np.cross(turn, offset).astype(np.float32)
    return deltas


def _drawn(head: HeadMesh) -> NDArray[np.int32]:
    """Triangles (T, 3) that a turning head can show."""
    vertices = head.model.vertices
    normals = head.normals(vertices)
    hidden = (vertices[:, 2] < -2.0) & (normals[:, 2] < 0.0)  # the back of the head
    outward = resting_normals(head, ("teeth",))
    chosen = []
    for name in ("skin", "eyes", "teeth"):
        faces = head.triangles[name]
        keep = (vertices[faces, 1] > LOWEST).all(1) & ~hidden[faces].any(1)
        if name == "teeth":
            keep &= (vertices[faces, 2] > TEETH_FROM).all(1) & (outward[faces, 2] > 0.2).all(1)
        if name == "eyes":
            keep &= (normals[faces, 2] > 0).all(1)
        chosen.append(faces[keep])
    return np.asarray(np.concatenate(chosen), np.int32)


def _mouth_walls(model: FaceModel) -> NDArray[np.bool_]:
    """Which skin vertices (V,) line the inside of the mouth, behind the lips."""
    x, y, z = model.vertices.T
    return np.asarray((z < 9.6) & (np.abs(x) < 2.7) & (y < -2.5) & (y > -4.7))


def _levels(deltas: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Displacements (N, V, 3) as 8-bit levels and the scale (N,) of each shape."""
    scale = np.maximum(np.abs(deltas).max((1, 2)), 1e-6) / 127
    return np.round(deltas / scale[:, None, None]).astype(np.int8), scale.astype(np.float32)
