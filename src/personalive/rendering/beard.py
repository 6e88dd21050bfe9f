"""Beards and moustaches: where they grow, and their strands, which hold on to the skin and move with jaw and lips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.avatar import Person
from personalive.rendering.face_model import FloatArray
from personalive.rendering.ground_truth import head_weight
from personalive.rendering.hair import VERTEX_FLOATS, ribbon_triangles
from personalive.rendering.layers import Anchors, Part, Strands
from personalive.rendering.looks import BeardStyle
from personalive.rendering.mesh import HeadMesh, smoothstep, unit

Array = NDArray[np.float64]

FRONT_RADIUS, AXIS_Z = 11.5, -2.0  # cm: angles around the head's axis as distances on the face
SEGMENTS, STRANDS, HALF_WIDTH = 3, 3200, 0.062


def beard_mask(across: NDArray[np.floating], height: NDArray[np.floating], style: BeardStyle) -> Array:
    """How densely a beard of this style grows, 0 to 1, at places of the mean face: cm along the surface, cm high."""
    if style == "none":
        return np.zeros(np.broadcast(across, height).shape)
    side = np.abs(across)

    def blob(y: float, width: float, tall: float) -> Array:
        return np.asarray(np.exp(-((across / width) ** 2) - ((height - y) / tall) ** 2))

    moustache = np.clip(1.5 * blob(-1.85, 2.5, 0.42), 0, 1) * smoothstep(3.4, 2.6, side)
    if style == "moustache":
        return moustache
    mouth_free = smoothstep(2.9, 3.9, np.hypot(across, (height + 3.3) * 1.25))
    chin = np.clip(1.4 * blob(-6.4, 2.6, 1.3), 0, 1)
    if style == "goatee":
        around = (
            smoothstep(4.6, 3.6, np.hypot(across, (height + 3.6) * 1.0)) * mouth_free * smoothstep(-1.2, -1.8, height)
        )
        return np.asarray(np.maximum.reduce([moustache, chin, around]))
    jaw = smoothstep(-0.6, -2.6, height - 0.20 * np.maximum(side - 6, 0)) * smoothstep(-9.8, -7.8, height)
    jaw = jaw * smoothstep(15.5, 12.5, side)
    burns = smoothstep(10.8, 12.0, side) * smoothstep(15.0, 13.5, side) * smoothstep(-4, -2, height)
    burns = burns * smoothstep(3.5, 1.5, height)
    return np.asarray(np.maximum.reduce([jaw * mouth_free, chin * 0.95, moustache, burns * 0.9]))


def grow_beard(
    head: HeadMesh, person: Person, vertices: FloatArray, normals: FloatArray, detail: float = 1.0
) -> Strands | None:
    """Strands of a person's beard on the expressionless head (V, 3); None where it is paint alone."""
    beard = person.facial_hair
    if beard.length <= 0:
        return None
    rng = np.random.default_rng([person.seed, 12])
    roots, rest, outward, anchors = _plant(head, person, vertices, normals, round(STRANDS * detail), rng)
    points = _grow(roots, rest, outward, beard.length, rng)
    count, along = len(points), SEGMENTS + 1
    shade = (1 + 0.16 * rng.standard_normal(count))[:, None] * np.linspace(0.72, 1.1, along)
    vertex = np.zeros((count, along, 2, VERTEX_FLOATS), np.float32)
    vertex[..., 0:3] = points[:, :, None]
    vertex[..., 3:6] = unit(np.gradient(points, axis=1))[:, :, None]
    vertex[..., 6:9] = unit(outward + np.array([0.0, 0.0, 0.4]))[:, None, None]
    taper = HALF_WIDTH / detail * rng.uniform(0.7, 1.4, count)[:, None] * np.linspace(1.0, 0.4, along)
    vertex[..., 9] = taper[:, :, None] * np.array([-1.0, 1.0])
    vertex[..., 10] = shade.clip(0.3, 1.8)[:, :, None]
    vertex[..., 11] = np.linspace(0.5, 1.0, along)[None, :, None]
    vertex[..., 12] = head_weight(rest)[:, None, None]
    return Strands(
        Part.BEARD, vertex.reshape(-1, VERTEX_FLOATS), ribbon_triangles(count, along), person.hair * 0.95, anchors
    )


def _plant(
    head: HeadMesh, person: Person, vertices: FloatArray, normals: FloatArray, wanted: int, rng: np.random.Generator
) -> tuple[Array, Array, Array, Anchors]:
    """Roots (n, 3), the same on the mean head (n, 3), normals (n, 3), and what they hold on to."""
    skin, mean = head.triangles["skin"], head.model.vertices
    middle = mean[skin].mean(1)
    near = (middle[:, 2] > -2) & (middle[:, 1] > -10) & (middle[:, 1] < 4)
    skin = skin[near]
    edges = mean[skin]
    area = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1)
    middle = edges.mean(1)
    across = np.arctan2(middle[:, 0], middle[:, 2] - AXIS_Z) * FRONT_RADIUS
    radius = np.hypot(middle[:, 0], middle[:, 2] - AXIS_Z)
    mask = beard_mask(across, middle[:, 1], person.facial_hair.style) * (radius > 7.2)
    mask = mask * ((middle[:, 2] > 9.9) | (np.hypot(middle[:, 0], middle[:, 1] + 3.4) > 3.2))  # not inside the mouth
    mask = np.where(mask > 0.25, mask, 0.0)
    outline = mean[head.model.landmark_vertices[48:60]]
    inside = (np.abs(middle[:, 0]) < 2.4) & (middle[:, 1] < outline[:, 1].max()) & (middle[:, 1] > outline[:, 1].min())
    mask = mask * ~(inside & (middle[:, 2] > 8))
    odds = area * mask
    count = int(wanted * person.facial_hair.density * min(1.0, odds.sum() / 150.0)) if odds.sum() > 0 else 0
    chosen = skin[rng.choice(len(skin), count, p=odds / odds.sum())] if count else skin[:0]
    shares = rng.dirichlet(np.ones(3), count)
    place = [(array[chosen] * shares[..., None]).sum(1).astype(np.float64) for array in (vertices, mean, normals)]
    anchors = Anchors(chosen, shares.astype(np.float32), (SEGMENTS + 1) * 2)
    return place[0], place[1], unit(place[2]).astype(np.float64), anchors


def _grow(roots: Array, rest: Array, outward: Array, length: float, rng: np.random.Generator) -> Array:
    """Points (n, SEGMENTS + 1, 3): down and away from the skin; on the lip short and towards the corners."""
    count = len(roots)
    lip = (rest[:, 1] > -2.7) & (np.abs(rest[:, 0]) < 3.2)
    sides = smoothstep(4.0, 8.0, np.abs(rest[:, 0]))
    lengths = length * (1 - 0.55 * sides) * rng.uniform(0.6, 1.25, count)
    lengths = np.where(lip, np.minimum(lengths, 0.5 + 0.25 * np.abs(rest[:, 0])), lengths)
    step = (lengths / SEGMENTS)[:, None]
    side = np.sign(rest[:, 0] + rng.normal(0, 0.1, count))
    down = np.where(lip, -0.55, -1.0)
    away = np.where(lip, 0.9 * side * smoothstep(0.0, 1.5, np.abs(rest[:, 0])), 0.05 * side)
    combed = np.stack([away, down, np.where(lip, 0.1, 0.25)], axis=1) + rng.normal(0, 0.22, (count, 3))
    here, path = roots - 0.03 * outward, []
    for segment in range(SEGMENTS + 1):
        path.append(here)
        stand = 0.6 - 0.25 * segment
        here = here + unit(outward * stand + unit(combed) * 0.8).astype(np.float64) * step
    return np.stack(path, axis=1)
