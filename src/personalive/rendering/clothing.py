"""A shirt as a surface of rings around neck, shoulders and chest, and spectacles as tubes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from personalive.rendering.face_model import FloatArray, IntArray
from personalive.rendering.mesh import unit

Array = NDArray[np.float64]

RINGS, SPOKES = 40, 72
# Below the collar (cm): half width, half depth, and the middle's z of the torso.
_DROP = np.array([0.0, 0.6, 1.5, 2.9, 4.7, 7.0, 9.5, 14.0, 26.0])
_HALF_WIDTH = np.array([6.1, 6.8, 8.6, 12.2, 16.2, 18.8, 20.0, 20.5, 20.5])
_HALF_DEPTH = np.array([6.0, 6.4, 7.0, 7.7, 8.4, 9.0, 9.8, 11.0, 12.0])
_MIDDLE = np.array([-0.8, -0.7, -0.9, -1.4, -1.8, -2.0, -2.0, -2.0, -2.0])


def torso_section(y: NDArray[np.floating], collar: float) -> tuple[Array, Array, Array]:
    """Half width, half depth and middle z (cm) of the clothed torso at heights y."""
    drop = collar - np.asarray(y, np.float64)
    return (
        np.interp(drop, _DROP, _HALF_WIDTH),
        np.interp(drop, _DROP, _HALF_DEPTH),
        np.interp(drop, _DROP, _MIDDLE),
    )


def collar_dip(angle: NDArray[np.floating]) -> Array:
    """How the collar's height changes around the neck (cm): lower in front (angle 0) than behind."""
    front = np.cos(angle)
    return np.asarray(-1.5 * front - 0.7 * np.maximum(front, 0) ** 2)


def build_shirt(collar: float, seed: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Shirt vertices (N, 3) in cm, unit normals (N, 3) and triangles (M, 3)."""
    rng = np.random.default_rng([seed, 4])
    down = np.linspace(0, 1, RINGS)[:, None]
    angle = np.linspace(0, 2 * np.pi, SPOKES + 1)[None]
    drop = 22.0 * down**1.5
    width, depth, middle = torso_section(collar - drop, collar)
    folds = gaussian_filter(rng.standard_normal((RINGS, SPOKES + 1)), (3.0, 1.5), mode=("nearest", "wrap"))
    folds = folds / folds.std() * 0.22 * np.clip(down * 5, 0, 1)
    folds[:, -1] = folds[:, 0]
    x = (width + folds) * np.sin(angle)
    y = collar - drop + collar_dip(angle) * np.exp(-((drop / 3.5) ** 2))
    z = (depth + folds) * np.cos(angle) + middle
    grid = np.stack([x, y, z], axis=-1)  # (RINGS, SPOKES + 1, 3)
    normals = unit(np.cross(np.gradient(grid, axis=1), -np.gradient(grid, axis=0)))
    if normals[RINGS // 2, 0, 2] < 0:
        normals = -normals
    return grid.reshape(-1, 3).astype(np.float32), normals.reshape(-1, 3), grid_triangles(RINGS, SPOKES + 1)


def build_glasses(landmarks: NDArray[np.floating], square: bool) -> tuple[FloatArray, FloatArray, IntArray]:
    """Spectacles fitted to landmarks (68, 3), cm: two rims, a bridge and two temples, as tubes."""
    left = landmarks[42:48].mean(0)
    right = landmarks[36:42].mean(0)
    front = max(landmarks[27, 2], left[2], right[2]) + 0.9
    around = np.linspace(0, 2 * np.pi, 33)
    power = 0.55 if square else 0.9
    rims, ends = [], []
    for centre, side in ((left, 1.0), (right, -1.0)):
        x = np.sign(np.cos(around)) * np.abs(np.cos(around)) ** power * 2.35
        y = np.sign(np.sin(around)) * np.abs(np.sin(around)) ** power * (1.7 if square else 2.0)
        # the rim bends back towards the temple
        z = front - 0.045 * np.maximum(x * side, 0) ** 2 - 0.12 * np.maximum(x * side, 0)
        rims.append(np.stack([x + centre[0], y + centre[1] - 0.15, z], axis=-1))
        outer = rims[-1][int(np.argmax(rims[-1][:, 0] * side))]
        ear = np.array([side * 7.5, centre[1] + 0.4, -0.5])
        ends.append(np.linspace(outer, ear, 9))
    inner_left, inner_right = rims[0][:, 0].min(), rims[1][:, 0].max()
    span = np.linspace(inner_right, inner_left, 9)
    arch = 0.35 * (1 - np.linspace(-1, 1, 9) ** 2)
    bridge = np.stack([span, left[1] + 0.25 + arch, np.full(9, front) + arch * 0.5], axis=-1)
    tubes = [_tube(path, 0.13) for path in (*rims, *ends, bridge)]
    vertices, normals, triangles, start = [], [], [], 0
    for points, outward, faces in tubes:
        vertices.append(points)
        normals.append(outward)
        triangles.append(faces + start)
        start += len(points)
    return np.concatenate(vertices), np.concatenate(normals), np.concatenate(triangles)


def _tube(path: Array, radius: float) -> tuple[FloatArray, FloatArray, IntArray]:
    """A tube of six sides along path (N, 3)."""
    along = unit(np.gradient(path, axis=0))
    helper = np.where(np.abs(along[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    side = unit(np.cross(along, helper))
    other = np.cross(along, side)
    turn = np.linspace(0, 2 * np.pi, 7)[None, :, None]
    outward = side[:, None] * np.cos(turn) + other[:, None] * np.sin(turn)  # (N, 7, 3)
    points = path[:, None] + radius * outward
    flat = points.reshape(-1, 3).astype(np.float32)
    return flat, unit(outward.reshape(-1, 3)), grid_triangles(len(path), 7)


def grid_triangles(rows: int, columns: int) -> IntArray:
    """Triangles (M, 3) over a grid of vertices numbered row by row."""
    row, column = np.mgrid[0 : rows - 1, 0 : columns - 1]
    first = (row * columns + column).ravel()
    below = first + columns
    upper = np.stack([first, first + 1, below], axis=-1)
    lower = np.stack([below, first + 1, below + 1], axis=-1)
    return np.concatenate([upper, lower]).astype(np.int32)
