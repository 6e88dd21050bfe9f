"""The parts of the head that are drawn, their triangles and normals; no graphics card involved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from personalive.rendering.face_model import FaceModel, FaceModelError, FloatArray, IntArray
from personalive.rendering.ground_truth import head_weight

# Drawn part -> materials of the ICT release. The thin transparent layers over the eye are left out: the eye's shader
# paints iris, lid shadow and highlights itself.
PARTS: dict[str, tuple[str, ...]] = {
    "skin": ("M_Face", "M_BackHead"),
    "gums": ("M_GumsTongue",),
    "teeth": ("M_Teeth",),
    "eyes": ("M_ScleraLeft", "M_ScleraRight"),
    "lashes": ("M_EyeLashes",),
}
EYE_RADIUS = 1.5  # cm


@dataclass(frozen=True)
class HeadMesh:
    """Triangles and fixed per-vertex facts of the face model. V vertices."""

    model: FaceModel
    triangles: dict[str, IntArray]  # part -> (N, 3)
    weight: FloatArray  # (V,) how rigidly a vertex follows the head
    vertex_uv: FloatArray  # (V, 2)
    eye_centres: FloatArray  # (2, 3) left (x > 0), right, cm
    eye_side: FloatArray  # (V,) 0 for the left eye's vertices, 1 for the right eye's
    _adjacency: sparse.csr_matrix  # (V, N) sums the normals of the triangles around a vertex
    _shaded: IntArray  # (N, 3) skin and eye triangles, the only ones whose normals change

    def normals(self, vertices: NDArray[np.floating]) -> FloatArray:
        """Unit normals (V, 3) of skin and eyes, area weighted; elsewhere the zero vector."""
        first = vertices[self._shaded[:, 0]]
        across = np.cross(vertices[self._shaded[:, 1]] - first, vertices[self._shaded[:, 2]] - first)
        return unit(np.asarray(self._adjacency @ across, np.float32))


def unit(vectors: NDArray[np.floating]) -> FloatArray:
    """Vectors (..., 3) scaled to length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), np.float32)


def smoothstep(low: float, high: float, value: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """0 below low, 1 above high (or the reverse where high < low), a smooth S between."""
    share = np.clip((np.asarray(value, np.float64) - low) / (high - low), 0.0, 1.0)
    return np.asarray(share * share * (3.0 - 2.0 * share))


def build_head_mesh(model: FaceModel) -> HeadMesh:
    """Sort the model's faces into drawn parts.

    Raises:
        FaceModelError: a part's material is not in the model.
    """
    triangles = {part: _triangles(model, names) for part, names in PARTS.items()}
    count = len(model.vertices)
    vertex_uv = np.zeros((count, 2), np.float32)
    real = model.faces >= 0
    vertex_uv[model.faces[real]] = model.uv[model.face_uvs[real]]
    eye_side = np.zeros(count, np.float32)
    centres = []
    for side, name in enumerate(PARTS["eyes"]):
        ball = np.unique(_triangles(model, (name,)))
        eye_side[ball] = side
        points = model.vertices[ball]
        middle = (points.min(0) + points.max(0)) / 2
        # the cornea bulges forward, so the centre in depth comes from the back of the ball
        centres.append([middle[0], middle[1], points[:, 2].min() + EYE_RADIUS])
    shaded = np.concatenate([triangles["skin"], triangles["eyes"]])
    corners = shaded.ravel()
    owner = np.repeat(np.arange(len(shaded)), 3)
    adjacency = sparse.csr_matrix((np.ones(len(corners), np.float32), (corners, owner)), shape=(count, len(shaded)))
    return HeadMesh(
        model=model,
        triangles=triangles,
        weight=np.asarray(head_weight(model.vertices), np.float32),
        vertex_uv=vertex_uv,
        eye_centres=np.array(centres, np.float32),
        eye_side=eye_side,
        _adjacency=adjacency,
        _shaded=shaded,
    )


def _triangles(model: FaceModel, names: tuple[str, ...]) -> IntArray:
    """Triangles (N, 3) of the named materials; quads are split."""
    unknown = [name for name in names if name not in model.materials]
    if unknown:
        raise FaceModelError(f"face model has no material {', '.join(unknown)}; is it ICT-FaceKit?")
    numbers = [model.materials.index(name) for name in names]
    faces = model.faces[np.isin(model.face_material, numbers)]
    quads = faces[faces[:, 3] >= 0]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]]).astype(np.int32)


def resting_normals(head: HeadMesh, parts: tuple[str, ...]) -> FloatArray:
    """Unit normals (V, 3) of the given parts of the mean head; elsewhere the zero vector."""
    vertices = head.model.vertices
    total = np.zeros_like(vertices)
    for part in parts:
        faces = head.triangles[part]
        corners = vertices[faces]  # (N, 3 corners, 3)
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        for corner in range(3):
            np.add.at(total, faces[:, corner], across)
    return unit(total)
