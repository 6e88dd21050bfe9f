"""Which vertices of the face model are landmarks: the usual 68, and more where a face moves and varies most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.face_model import FaceModel, IntArray
from personalive.rendering.mesh import build_head_mesh

COUNT = 256
LIDS, LIPS, BROWS, NOSE = slice(36, 48), slice(48, 68), slice(17, 27), slice(27, 36)
# Around which of the 68 landmarks the others lie more densely: how much, and within how many cm.
_DENSER = ((LIDS, 5.0, 0.7), (LIPS, 4.0, 0.8), (BROWS, 1.0, 1.0), (NOSE, 1.5, 1.0))
_LOWEST = -11.0  # cm: above the collar


def dense_landmark_vertices(model: FaceModel) -> IntArray:
    """Numbers (256,) of the landmark vertices: the model's 68 in their order, then the farthest from all before."""
    vertices = model.vertices
    marks = vertices[model.landmark_vertices]
    candidates = _front(model)
    places = vertices[candidates]
    density = np.full(len(candidates), 0.8)
    for group, amount, reach in _DENSER:
        density += amount * np.exp(-((_distance(places, marks[group]) / reach) ** 2))
    chosen = [int(number) for number in model.landmark_vertices]
    apart = _distance(places, marks)
    while len(chosen) < COUNT:
        place = int(np.argmax(apart * density))
        chosen.append(int(candidates[place]))
        apart = np.minimum(apart, _distance(places, places[place : place + 1]))
    return np.array(chosen, np.int32)


def _front(model: FaceModel) -> NDArray[np.intp]:
    """Skin vertices that face forwards, above the collar, outside the mouth."""
    head = build_head_mesh(model)
    x, y, z = model.vertices.T
    within_mouth = (z < 9.6) & (np.abs(x) < 2.7) & (y < -2.5) & (y > -4.7)
    skin = np.zeros(len(model.vertices), bool)
    skin[np.unique(head.triangles["skin"])] = True
    forwards = head.normals(model.vertices)[:, 2] > 0.05
    return np.flatnonzero(skin & forwards & (y > _LOWEST) & ~within_mouth)


def _distance(points: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance (N,) of points (N, 3) to the nearest of others (M, 3), cm."""
    return np.asarray(np.linalg.norm(points[:, None] - others[None], axis=-1).min(1))
