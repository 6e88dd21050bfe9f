"""Hats, headscarves and scarves as surfaces fitted to a person's head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from personalive.rendering.clothing import grid_triangles, torso_section
from personalive.rendering.face_model import FloatArray
from personalive.rendering.hair import SKULL_CENTRE, SkullRadius
from personalive.rendering.layers import Part, Surface, surface_vertices
from personalive.rendering.looks import Fabric, Headwear, rim_height
from personalive.rendering.mesh import smoothstep, unit

Array = NDArray[np.float64]

AROUND, UP = 72, 24


def build_headwear(headwear: Headwear, skull: SkullRadius, collar: float, seed: int) -> list[Surface]:
    """The surfaces of a hat or headscarf."""
    rng = np.random.default_rng([seed, 13])
    if headwear.style == "headscarf":
        grids = [_hood(headwear, skull, rng), _cape(collar, rng)]
    else:
        grids = [_crown(headwear, skull, rng)]
        if headwear.style in ("cap", "brimmed"):
            grids.append(_brim(headwear, grids[0][0], rng))
    return [_surface(grid, headwear.fabric, Part.HAT) for grid in grids]


def build_scarf(fabric: Fabric, collar: float, seed: int) -> list[Surface]:
    """Two turns of a scarf around the neck, and often an end that hangs down the chest."""
    rng = np.random.default_rng([seed, 14])
    grids = [
        _turn(collar + 0.9, 7.6, rng.uniform(1.1, 1.6), rng),
        _turn(collar - 1.3, 9.2, rng.uniform(1.3, 2.0), rng),
    ]
    if rng.random() < 0.6:
        grids.append(_end(collar, rng))
    return [_surface(grid, fabric, Part.CLOTH) for grid in grids]


def _crown(headwear: Headwear, skull: SkullRadius, rng: np.random.Generator) -> Array:
    """The part over the head (UP, AROUND + 1, 3), from the rim to the top."""
    azimuth = np.linspace(-np.pi, np.pi, AROUND + 1)[None]
    share = np.linspace(0, 1, UP)[:, None]
    rim = rim_height(9.0 * np.cos(azimuth), headwear)
    lowest = np.arctan2(rim - SKULL_CENTRE[1], 9.2)
    rise = lowest + (np.pi / 2 - lowest) * share
    direction = np.stack(
        [np.sin(azimuth) * np.cos(rise), np.sin(rise) + 0 * azimuth, np.cos(azimuth) * np.cos(rise)], axis=-1
    )
    _, _, surface = skull.measure((SKULL_CENTRE + 10 * direction).reshape(-1, 3))
    radius = surface.reshape(rise.shape) + 0.95
    folds = _folds(rng, rise.shape)
    if headwear.style == "beanie":
        radius = radius + 0.35 * (share < 0.22) + headwear.full * 1.6 * share**2 + 0.06 * folds
    elif headwear.style == "turban":
        twist = np.sin(azimuth * 2 + share * 14 + rng.uniform(0, 6))
        radius = radius + 0.4 + headwear.full + 0.28 * twist + 0.1 * folds
    elif headwear.style == "cap":
        radius = radius + 0.5 * headwear.full * np.sin(np.pi * np.minimum(share * 1.2, 1)) + 0.03 * folds
    else:
        height = np.maximum(np.sin(rise), 0.25)
        flat_top = np.minimum(radius * 1.22, (8.5 + 2 * headwear.full) / height)
        radius = np.maximum(radius + 0.1, np.where(share > 0.05, flat_top, radius)) + 0.05 * folds
    return np.asarray(SKULL_CENTRE + direction * radius[..., None])


def _brim(headwear: Headwear, rim: Array, rng: np.random.Generator) -> Array:
    """A visor in front, or a brim all around, from the crown's lowest ring (AROUND + 1, 3) outwards."""
    if headwear.style == "cap":
        chosen = rim[AROUND // 2 - 13 : AROUND // 2 + 14]
        across = np.linspace(-1, 1, len(chosen))
        reach = rng.uniform(5.0, 7.0) * np.sqrt(np.maximum(1 - across**2, 0.0)) ** 0.8
        direction = np.stack([0.25 * across, np.full_like(across, -0.5), np.ones_like(across)], axis=-1)
        droop = 0.9 * across**2
    else:
        chosen = rim
        outward = chosen - SKULL_CENTRE
        outward[:, 1] = 0
        direction = np.asarray(unit(outward), np.float64)
        reach = np.full(len(chosen), rng.uniform(3.5, 7.5))
        droop = -rng.uniform(0.0, 1.5) * np.abs(direction[:, 0])
    steps = np.linspace(0, 1, 8)[:, None, None]
    start = chosen - 0.35 * direction
    grid = start[None] + steps * (direction * reach[:, None])[None]
    grid[..., 1] -= steps[..., 0] ** 2 * droop[None]
    return np.asarray(grid)


def _hood(headwear: Headwear, skull: SkullRadius, rng: np.random.Generator) -> Array:
    """Cloth from around the face to the back of the head (UP, AROUND + 1, 3)."""
    turn = np.linspace(0, 2 * np.pi, AROUND + 1)[None]
    share = np.linspace(0, 1, UP)[:, None]
    up, beside = np.cos(turn), np.sin(turn)
    edge = np.stack(
        [
            7.1 * beside,
            np.where(up > 0, 9.3 - headwear.low, 9.0) * up,
            np.where(up > 0, 2.2 + 5.4 * up**2, 2.2 + 2.6 * up**2),
        ],
        axis=-1,
    )
    start = edge - SKULL_CENTRE
    direction = np.asarray(unit(start), np.float64)
    polar = np.arccos(np.clip(direction[..., 2], -1, 1))
    around = np.arctan2(direction[..., 0], direction[..., 1])
    angle = polar + (np.pi - polar) * share
    spread = np.stack([np.sin(angle) * np.sin(around), np.sin(angle) * np.cos(around), np.cos(angle)], axis=-1)
    _, _, surface = skull.measure((SKULL_CENTRE + 10 * spread).reshape(-1, 3))
    folds = _folds(rng, angle.shape)
    radius = surface.reshape(angle.shape) + 0.9 + 0.5 * headwear.full * share + 0.16 * folds * smoothstep(0, 0.2, share)
    first = np.linalg.norm(start, axis=-1)
    radius = np.maximum(radius, first * (1 - share) ** 2)
    return np.asarray(SKULL_CENTRE + spread * radius[..., None])


def _cape(collar: float, rng: np.random.Generator) -> Array:
    """Cloth from under the chin over the shoulders (UP, AROUND + 1, 3)."""
    turn = np.linspace(0, 2 * np.pi, AROUND + 1)[None]
    share = np.linspace(0, 1, UP)[:, None]
    front = np.maximum(np.cos(turn), 0)
    top, bottom = -4.6 - 3.2 * front, collar - 5.5 - 4.0 * front
    y = top + (bottom - top) * share
    width, depth, middle = torso_section(y - 0.5, collar)
    folds = 0.35 * _folds(rng, y.shape) * np.clip(share * 3, 0, 1)
    narrow = 0.9 + 0.25 * np.clip(share * 2, 0, 1)
    x = (width * narrow + 0.5 + folds) * np.sin(turn)
    z = (depth * narrow + 0.6 + folds) * np.cos(turn) + middle
    return np.stack([x, y, z], axis=-1)


def _turn(height: float, radius: float, thickness: float, rng: np.random.Generator) -> Array:
    """A ring of cloth around the neck (13, AROUND + 1, 3)."""
    turn = np.linspace(0, 2 * np.pi, AROUND + 1)[None]
    tube = np.linspace(0, 2 * np.pi, 13)[:, None]
    folds = 1 + 0.14 * _folds(rng, (13, AROUND + 1))
    folds[-1] = folds[0]
    wide, tall = thickness * folds * np.cos(tube), 1.15 * thickness * folds * np.sin(tube)
    droop = -1.6 * np.cos(turn) + rng.normal(0, 0.25) * np.sin(turn)
    return np.stack(
        [(radius + wide) * np.sin(turn), height + droop + tall, (radius * 0.93 + wide) * np.cos(turn) - 1.4], axis=-1
    )


def _end(collar: float, rng: np.random.Generator) -> Array:
    """A hanging end of a scarf (14, 7, 3)."""
    x = rng.choice([-1.0, 1.0]) * rng.uniform(1.5, 5.0) + np.linspace(-2.0, 2.0, 7)[None]
    y = np.linspace(collar - 2.5, collar - 16, 14)[:, None] + 0 * x
    width, depth, middle = torso_section(y, collar)
    z = depth * np.sqrt(np.maximum(1 - (x / width) ** 2, 0.05)) + middle + 1.0 + 0.25 * np.cos(x * 2)
    return np.stack([x + 0 * y, y, z], axis=-1)


def _folds(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Smooth noise of unit deviation whose last column meets its first."""
    noise = gaussian_filter(rng.standard_normal(shape), (2.5, 1.6), mode=("nearest", "wrap"))
    noise = noise / noise.std()
    noise[:, -1] = noise[:, 0]
    return np.asarray(noise)


def _surface(grid: Array, fabric: Fabric, part: Part) -> Surface:
    """A grid of points (R, C, 3) as a surface."""
    normals, triangles = _normals(grid), grid_triangles(*grid.shape[:2])
    vertices = surface_vertices(grid.reshape(-1, 3), normals)
    return Surface(part, vertices, triangles, fabric.colour, fabric.second_colour, fabric.pattern, fabric.stripes)


def _normals(grid: Array) -> FloatArray:
    """Unit normals (R * C, 3) of a grid, away from its middle."""
    normals = unit(np.cross(np.gradient(grid, axis=1), np.gradient(grid, axis=0)))
    outward = grid - grid.reshape(-1, 3).mean(0)
    if (normals * outward).sum() < 0:
        normals = -normals
    return np.asarray(normals.reshape(-1, 3), np.float32)
