"""Hair as a few thousand ribbons grown step by step over the head, held out of head, face and shoulders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from personalive.rendering.avatar import Person
from personalive.rendering.clothing import torso_section
from personalive.rendering.face_model import FloatArray, IntArray
from personalive.rendering.ground_truth import head_weight
from personalive.rendering.hairline import scalp_depth
from personalive.rendering.looks import rim_height
from personalive.rendering.mesh import HeadMesh, smoothstep, unit

Array = NDArray[np.float64]
Family = Literal["cropped", "parted", "swept", "curly"]

SKULL_CENTRE: Array = np.array([0.0, 4.2, 0.6])
CLUMPS = 180
VERTEX_FLOATS = 13  # position 3, tangent 3, outward 3, half width, shade, occlusion, head weight


@dataclass(frozen=True)
class HairStyle:
    """How a style grows; lengths in cm."""

    family: Family
    strands: int
    length: float
    segments: int
    width: float
    lift: float  # height of the hair over the scalp


STYLES: dict[str, HairStyle] = {
    "buzz": HairStyle("cropped", 4600, 0.5, 1, 0.10, 0.08),
    "short": HairStyle("cropped", 4000, 3.3, 4, 0.17, 0.45),
    "side": HairStyle("parted", 3400, 5.5, 6, 0.18, 0.45),
    "curly": HairStyle("curly", 2600, 6.5, 8, 0.17, 0.8),
    "afro": HairStyle("curly", 4200, 4.6, 5, 0.15, 1.2),
    "bob": HairStyle("parted", 2300, 16.0, 8, 0.28, 0.40),
    "long": HairStyle("parted", 2300, 24.0, 9, 0.29, 0.40),
    "loose": HairStyle("parted", 2900, 36.0, 13, 0.25, 0.65),
    "swept": HairStyle("swept", 2600, 15.0, 8, 0.24, 0.55),
}


class SkullRadius:
    """Distance of the head's surface from SKULL_CENTRE in every direction, ears left out."""

    ROWS, COLUMNS = 36, 72

    def __init__(self, head: HeadMesh, vertices: NDArray[np.floating]) -> None:
        skin = np.unique(head.triangles["skin"])
        rest = head.model.vertices[skin]
        ears = (np.abs(rest[:, 0]) > 7.6) & (rest[:, 1] > -3) & (rest[:, 1] < 4.3)
        neck = rest[:, 1] < -7  # hair falls free below the jaw
        offset = vertices[skin[~(ears | neck)]] - SKULL_CENTRE
        radius = np.linalg.norm(offset, axis=1)
        rows, columns = (np.floor(part).astype(int) for part in self._place(offset / radius[:, None]))
        grid = np.zeros((self.ROWS, self.COLUMNS))
        np.maximum.at(grid, (rows.clip(0, self.ROWS - 1), columns % self.COLUMNS), radius)
        known = (grid > 0).astype(float)
        for sigma in (1, 2, 4, 8):  # fill holes from ever wider surroundings
            share = gaussian_filter(known, sigma, mode=("nearest", "wrap"))
            filled = gaussian_filter(grid * known, sigma, mode=("nearest", "wrap")) / np.maximum(share, 1e-4)
            grid = np.where(known > 0, grid, np.where(share > 1e-3, filled, 0))
            known = (grid > 0).astype(float)
        smooth = gaussian_filter(grid, 0.6, mode=("nearest", "wrap"))
        self._grid = np.pad(smooth, ((0, 0), (1, 1)), mode="wrap")

    def _place(self, direction: Array) -> tuple[Array, Array]:
        """Unit directions (N, 3) -> fractional row and column of the grid, cell edges at whole numbers."""
        around = np.arctan2(direction[:, 0], direction[:, 2]) / (2 * np.pi) + 0.5
        rise = np.arcsin(direction[:, 1].clip(-1, 1)) / np.pi + 0.5
        return rise * self.ROWS, around * self.COLUMNS

    def measure(self, points: Array) -> tuple[Array, Array, Array]:
        """Of points (N, 3): distance from the centre, unit direction, and the head's radius there."""
        offset = points - SKULL_CENTRE
        distance = np.linalg.norm(offset, axis=1)
        direction = offset / np.maximum(distance, 1e-6)[:, None]
        rows, columns = self._place(direction)
        surface = map_coordinates(self._grid, [rows - 0.5, columns + 0.5], order=1, mode="nearest")
        return distance, direction, surface


@dataclass
class _Strands:
    """The strands while they grow; n strands."""

    roots: Array  # (n, 3) on this person's head
    normals: Array  # (n, 3)
    rest: Array  # (n, 3) the same places on the mean head
    clump: Array  # (n, 3) noise shared by neighbours
    side: Array  # (n,) -1 or 1: which way the strand falls from the parting
    phase: Array  # (n,) radians
    fringe: NDArray[np.bool_]  # (n,)
    length: Array  # (n,) cm


def grow_hair(
    head: HeadMesh,
    person: Person,
    vertices: FloatArray,
    normals: FloatArray,
    skull: SkullRadius,
    detail: float = 1.0,
) -> tuple[FloatArray, IntArray] | None:
    """Ribbons of a person's hair: vertices (N, VERTEX_FLOATS) and triangles (M, 3); None for a bald head.

    `vertices` and `normals` (V, 3) are the person's expressionless head. `detail` is for large pictures: so many times
    more strands, and as much finer.
    """
    if person.hair_style == "bald":
        return None
    style = STYLES[person.hair_style]
    style = replace(style, strands=round(style.strands * detail), width=style.width / detail)
    rng = np.random.default_rng([person.seed, 5])
    strands = _plant(head, person, style, vertices, normals, rng)
    points = _grow(strands, person, style, skull, rng)
    return _ribbons(points, strands, style, skull, rng), ribbon_triangles(*points.shape[:2])


def _plant(
    head: HeadMesh,
    person: Person,
    style: HairStyle,
    vertices: FloatArray,
    normals: FloatArray,
    rng: np.random.Generator,
) -> _Strands:
    """Roots spread over the scalp, thinning out towards the hairline."""
    skin = head.triangles["skin"]
    mean = head.model.vertices
    scalp = skin[scalp_depth(mean[skin].mean(1)) > 0]
    edges = mean[scalp]
    area = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1)
    chosen = scalp[rng.choice(len(scalp), style.strands, p=area / area.sum())]
    shares = rng.dirichlet(np.ones(3), style.strands)[..., None]  # (n, 3, 1) even over the triangle
    rest = (mean[chosen] * shares).sum(1).astype(np.float64)
    depth = scalp_depth(rest) - person.receding * (rest[:, 1] > 6)
    kept = depth > rng.uniform(0.1, 0.9, style.strands) ** 1.5
    rest, depth = rest[kept], depth[kept]
    roots = (vertices[chosen[kept]] * shares[kept]).sum(1).astype(np.float64)
    outward = unit((normals[chosen[kept]] * shares[kept]).sum(1)).astype(np.float64)
    count = len(roots)
    guides = roots[rng.choice(count, min(count, CLUMPS), replace=False)]
    nearest = cKDTree(guides).query(roots + rng.normal(0, 0.25, roots.shape))[1]
    clump = rng.standard_normal((len(guides), 3))[nearest]
    fringe = np.zeros(count, bool)
    if person.fringe and style.family != "curly" and person.hair_style != "buzz":
        fringe = (rest[:, 1] > 8.5) & (rest[:, 2] > 4.2) & (np.abs(rest[:, 0]) < 5.5)
    length = _lengths(person, style, rest, clump, rng)
    falls = (3.9 + 0.3 * clump[:, 1] + rng.normal(0, 0.3, count)) * (0.75 + 0.09 * (rest[:, 1] - 8.5))
    length = np.where(fringe, falls, length)
    length = length * smoothstep(-0.2, 1.0, depth) ** 0.5  # fine short hairs along the hairline
    return _Strands(
        roots=roots,
        normals=outward,
        rest=rest,
        clump=clump,
        side=np.sign(rest[:, 0] - person.parting + rng.normal(0, 0.15, count)),
        phase=rng.uniform(0, 2 * np.pi, count),
        fringe=fringe,
        length=np.maximum(length, 0.3),
    )


def _lengths(person: Person, style: HairStyle, rest: Array, clump: Array, rng: np.random.Generator) -> Array:
    """Length of every strand (cm): shorter at sides and nape where the style is short."""
    length = style.length * person.hair_length * (1 + 0.12 * rng.standard_normal(len(rest)) + 0.1 * clump[:, 0])
    if person.hair_style == "short":
        length = length * (0.3 + 0.7 * smoothstep(1, 10, rest[:, 1]))
    elif person.hair_style == "side":
        length = length * (0.25 + 0.75 * smoothstep(3, 11, rest[:, 1]))
    elif person.hair_style == "curly":
        length = length * (0.5 + 0.5 * smoothstep(-2, 8, rest[:, 1]))
    return np.asarray(length)


def _grow(strands: _Strands, person: Person, style: HairStyle, skull: SkullRadius, rng: np.random.Generator) -> Array:
    """Points (n, segments + 1, 3) of all strands."""
    step = (strands.length / style.segments)[:, None]
    forward = float(rng.choice([1.0, -1.0]))
    swirl = float(rng.uniform(-1.0, 1.0))
    here = strands.roots - 0.05 * strands.normals
    direction = strands.normals.copy()
    stiffness = 0.1 if style.family == "curly" else 0.45
    path = [here]
    for segment in range(style.segments):
        progress = segment / style.segments
        target = _target(strands, person, style.family, here, progress, segment, forward, swirl)
        direction = unit(direction * stiffness + unit(target) * (1 - stiffness)).astype(np.float64)
        following = here + direction * step
        following = _held_out(following, strands, person, style, skull, progress)
        direction = unit(following - here).astype(np.float64)
        here = following
        path.append(here)
    return np.stack(path, axis=1)


def _target(
    strands: _Strands,
    person: Person,
    family: Family,
    here: Array,
    progress: float,
    segment: int,
    forward: float,
    swirl: float,
) -> Array:
    """The direction (n, 3) each strand would like to take next."""
    normals, clump, count = strands.normals, strands.clump, len(here)
    if family == "cropped":
        top = smoothstep(8.0, 12.5, strands.rest[:, 1])
        across = 0.35 * swirl * top + 0.25 * clump[:, 0]
        lengthwise = np.where(top > 0.3, 0.7 * forward, -0.5) + 0.25 * clump[:, 1]
        combed = np.stack([across, -0.9 * (1 - top) - 0.1, lengthwise], axis=1)
        target = normals * (0.2 + 0.6 * person.wave) * (1 - progress) + combed + 0.1 * clump
    elif family == "parted":
        top = smoothstep(6.5, 12.0, here[:, 1]) * smoothstep(6.5, 2.5, np.abs(here[:, 0]))
        beside = np.sign(here[:, 0])
        sideways = strands.side * top + 0.03 * beside
        if person.hair_style == "bob" and progress > 0.55:
            sideways = sideways - 0.35 * beside
        target = np.stack([sideways, -0.15 * top - (1 - top) - 0.1 - 0.3 * progress, -0.35 * top - 0.1], axis=1)
        target += 0.3 * normals * float(progress < 0.12) + 0.05 * clump
        if person.hair_style == "loose":  # wider than the head, and a part of it to the front
            hanging = smoothstep(3.0, -3.0, here[:, 1])
            target[:, 0] += hanging * (0.05 * beside + 0.14 * clump[:, 0])
            target[:, 2] += hanging * (0.22 + 0.3 * np.sign(clump[:, 2] + 0.5))
        if person.hair_style != "side":
            sway = 0.3 + 0.5 * person.wave if person.hair_style == "loose" else 0.3 * person.wave
            target[:, 0] += sway * np.sin(segment * 1.3 + clump[:, 0] * 3)
            target[:, 2] += sway * np.cos(segment * 1.3 + clump[:, 1] * 3)
    elif family == "swept":
        high = smoothstep(0, 7, here[:, 1])
        target = np.stack([-0.12 * np.sign(here[:, 0]) * high, -0.25 * high - (1 - high), -1.0 * high - 0.1], axis=1)
        target += 0.3 * normals * float(progress < 0.15) + 0.06 * clump
    else:
        turn = strands.phase + segment * 1.3
        curl = np.stack([np.cos(turn), np.sin(turn), np.sin(strands.phase * 2 + segment * 1.1)], axis=1)
        target = 0.8 * normals + 0.75 * curl + 0.35 * clump + np.array([0, -0.3, -0.15])
    if strands.fringe.any():
        aside = 0.12 * strands.rest[:, 0] + 0.15 * clump[:, 0]
        down, out = np.full(count, -0.7 - 1.2 * progress), np.full(count, 0.8 * (1 - progress))
        falling = np.stack([aside, down, out], axis=1)
        target = np.where(strands.fringe[:, None], falling, target)
    return np.asarray(target)


def _held_out(
    points: Array, strands: _Strands, person: Person, style: HairStyle, skull: SkullRadius, progress: float
) -> Array:
    """Push points (n, 3) out of the head, away from the face, and around the shoulders."""
    distance, direction, surface = skull.measure(points)
    unruly = 0.2 * np.abs(strands.clump[:, 2]) * min(1.0, 4 * progress)
    above: Array = 0.12 + style.lift * min(1.0, 0.25 + 2.5 * progress) + unruly
    if person.hair_style == "buzz":
        above = np.full(len(points), 0.1)
    shift = np.maximum(surface + above - distance, 0)
    if style.family in ("parted", "swept"):  # hair lies on the head; only below the ears it hangs free
        lying = 0.8 * smoothstep(-5.0, 1.0, points[:, 1]) * ~strands.fringe
        shift = shift - lying * np.maximum(distance - surface - above - 0.2, 0)
    headwear = person.headwear
    if headwear is not None and headwear.style != "headscarf":  # hair lies flat under a hat
        covered = points[:, 1] > rim_height(points[:, 2], headwear) - 0.6
        shift = np.where(covered, surface + 0.2 - distance, shift)
    points = points + direction * shift[:, None]
    if style.length > 6:
        opening = 6.7 + 0.35 * np.abs(strands.clump[:, 1]) - 1.2 * smoothstep(5, 9.5, points[:, 1])
        in_face = (points[:, 2] > 3.0) & (points[:, 1] < 9.5) & (np.abs(points[:, 0]) < opening) & ~strands.fringe
        points[in_face, 0] = np.where(points[in_face, 0] >= 0, 1, -1) * opening[in_face]
        points[in_face, 2] -= 0.5
        half_width, half_depth, middle = torso_section(points[:, 1] + 1.0, person.clothes.collar)
        x, z = points[:, 0] / (half_width + 0.5), (points[:, 2] - middle) / (half_depth + 0.5)
        inside = (points[:, 1] < person.clothes.collar + 0.5) & (np.hypot(x, z) < 1)
        # over the shoulders it slides to the front or to the back rather than outwards
        sliding = np.where(z >= -0.1, 1.0, -1.0) * np.sqrt(np.maximum(1 - x * x, 0)) * (half_depth + 0.5) + middle
        points[inside, 2] = sliding[inside]
    return points


def _ribbons(
    points: Array, strands: _Strands, style: HairStyle, skull: SkullRadius, rng: np.random.Generator
) -> FloatArray:
    """Ribbon vertices (n * K * 2, VERTEX_FLOATS) around strand points (n, K, 3); the shader widens them."""
    count, along = len(points), int(points.shape[1])
    fraction = np.linspace(0, 1, along)
    taper = np.minimum(1.0, 0.45 + 2.2 * fraction) * (1 - 0.65 * fraction**2)
    width = style.width * rng.uniform(0.6, 1.3, count)[:, None] * taper
    shade = (1 + 0.14 * rng.standard_normal(count) + 0.1 * strands.clump[:, 2])[:, None] * np.linspace(0.74, 1.1, along)
    distance, outward, surface = skull.measure(points.reshape(-1, 3))
    occlusion = np.clip(0.5 + 0.5 * (distance - surface) / 0.9, 0.4, 1.0)
    vertex = np.zeros((count, along, 2, VERTEX_FLOATS), np.float32)
    vertex[..., 0:3] = points[:, :, None]
    vertex[..., 3:6] = unit(np.gradient(points, axis=1))[:, :, None]
    vertex[..., 6:9] = outward.reshape(count, along, 1, 3)
    vertex[..., 9] = width[:, :, None] * np.array([-1.0, 1.0])
    vertex[..., 10] = shade.clip(0.3, 1.8)[:, :, None]
    vertex[..., 11] = occlusion.reshape(count, along, 1)
    vertex[..., 12] = head_weight(points)[:, :, None]
    return vertex.reshape(-1, VERTEX_FLOATS)  # (n * K * 2, floats)


def ribbon_triangles(count: int, along: int) -> IntArray:
    """Two triangles between every two neighbouring points of every ribbon."""
    first = (np.arange(count)[:, None] * along + np.arange(along - 1)[None]).ravel() * 2
    triangles = np.stack([first, first + 1, first + 2, first + 2, first + 1, first + 3], axis=-1)
    return triangles.reshape(-1, 3).astype(np.int32)
