"""A made-up head with the face model's materials and names: balls for skull, eyes and mouth. No download needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.face_model import FaceModel
from personalive.rendering.motion import EXPRESSIONS

MATERIALS = ("M_Face", "M_BackHead", "M_GumsTongue", "M_Teeth", "M_ScleraLeft", "M_ScleraRight", "M_EyeLashes")
# material -> centre and radii of its ball, cm, roughly where the real head has them
BALLS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], int]] = {
    "M_Face": ((0.0, 2.0, 1.0), (8.0, 11.0, 10.0), 16),
    "M_BackHead": ((0.0, -10.0, -1.0), (6.0, 9.0, 5.0), 10),
    "M_GumsTongue": ((0.0, -3.5, 7.0), (2.0, 1.0, 2.0), 6),
    "M_Teeth": ((0.0, -3.0, 8.0), (2.0, 0.5, 2.0), 6),
    "M_ScleraLeft": ((3.1, 3.5, 8.6), (1.5, 1.5, 1.5), 8),
    "M_ScleraRight": ((-3.1, 3.5, 8.6), (1.5, 1.5, 1.5), 8),
    "M_EyeLashes": ((3.1, 4.4, 9.6), (1.2, 0.1, 0.5), 4),
}


def _ball(
    centre: tuple[float, float, float], radii: tuple[float, float, float], rings: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices and outward quads of a ball."""
    spokes = rings * 2
    rise = np.linspace(0.02, np.pi - 0.02, rings)[:, None]
    turn = np.linspace(0, 2 * np.pi, spokes, endpoint=False)[None]
    points = np.stack(
        [np.sin(rise) * np.sin(turn), np.cos(rise) + 0 * turn, np.sin(rise) * np.cos(turn)], axis=-1
    ) * np.array(radii) + np.array(centre)
    row, column = np.mgrid[0 : rings - 1, 0:spokes]
    right = (column + 1) % spokes
    quads = np.stack(
        [row * spokes + column, (row + 1) * spokes + column, (row + 1) * spokes + right, row * spokes + right], axis=-1
    )
    return points.reshape(-1, 3).astype(np.float32), quads.reshape(-1, 4).astype(np.int32)


def toy_face_model(identities: int = 3) -> FaceModel:
    """A FaceModel of a few thousand vertices; expressions and identities shift parts of the face a little."""
    vertices, faces, material = [], [], []
    start = 0
    for number, name in enumerate(MATERIALS):
        points, quads = _ball(*BALLS[name])
        vertices.append(points)
        faces.append(quads + start)
        material.append(np.full(len(quads), number, np.int32))
        start += len(points)
    points = np.concatenate(vertices)
    rng = np.random.default_rng(0)
    skin = len(vertices[0])
    identity = np.zeros((identities, len(points), 3), np.float32)
    identity += rng.normal(0, 0.05, (identities, 1, 3)) * (points / 10)
    expression = np.zeros((len(EXPRESSIONS), len(points), 3), np.float32)
    for place in range(len(EXPRESSIONS)):
        centre = points[rng.integers(skin)]
        near = np.exp(-((np.linalg.norm(points - centre, axis=1) / 4.0) ** 2))
        expression[place] = near[:, None] * rng.normal(0, 0.6, 3)
    # landmarks: a grid over the front of the face
    x, y = np.meshgrid(np.linspace(-5, 5, 10), np.linspace(-6, 7, 7))
    targets = np.stack([x.ravel(), y.ravel(), np.full(x.size, 9.0)], axis=-1)[:68]
    landmarks = np.array([np.argmin(np.linalg.norm(points[:skin] - target, axis=1)) for target in targets], np.int32)
    all_faces = np.concatenate(faces)
    return FaceModel(
        vertices=points,
        uv=np.clip(points[:, :2] / 40 + 0.5, 0, 1).astype(np.float32),
        faces=all_faces,
        face_uvs=all_faces.copy(),
        face_material=np.concatenate(material),
        materials=MATERIALS,
        identity_deltas=identity,
        expression_deltas=expression,
        expression_names=EXPRESSIONS,
        landmark_vertices=landmarks,
    )


def write_release(model: FaceModel, folder: Path) -> None:
    """Write a model the way the ICT-FaceKit release is laid out."""
    folder.mkdir(parents=True)
    neutral = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in model.vertices]
    neutral += [f"vt {u:.6f} {v:.6f}" for u, v in model.uv]
    current = -1
    for corners, texture, material in zip(model.faces, model.face_uvs, model.face_material, strict=True):
        if material != current:
            current = int(material)
            neutral.append(f"usemtl {model.materials[current]}")
        pairs = [f"{corner + 1}/{place + 1}" for corner, place in zip(corners, texture, strict=True) if corner >= 0]
        neutral.append("f " + " ".join(pairs))
    (folder / "generic_neutral_mesh.obj").write_text("\n".join(neutral))
    shapes = {f"identity{number:03d}": delta for number, delta in enumerate(model.identity_deltas)}
    shapes |= dict(zip(model.expression_names, model.expression_deltas, strict=True))
    for name, delta in shapes.items():
        moved = model.vertices + delta
        (folder / f"{name}.obj").write_text("\n".join(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in moved))
    marks = {"idx_to_landmark_verts": model.landmark_vertices.tolist()}
    (folder / "vertex_indices.json").write_text(json.dumps(marks))
