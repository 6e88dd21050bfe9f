"""What makes people look unlike each other beyond head shape and colours: beards, headwear, scarves, proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.face_model import FaceModel, FloatArray
from personalive.rendering.mesh import smoothstep

Array = NDArray[np.float64]
BeardStyle = Literal["none", "stubble", "full", "goatee", "moustache"]
HatStyle = Literal["beanie", "cap", "brimmed", "turban", "headscarf"]

HAT_STYLES: tuple[HatStyle, ...] = ("beanie", "cap", "brimmed", "turban", "headscarf")
HAT_SHARE, SCARF_SHARE, CHILD_SHARE, STYLISED_SHARE = 0.14, 0.10, 0.12, 0.05
KNIT, CHECKS, FLOWERS, FOLDS = 5, 6, 7, 8  # patterns of shaders.CLOTH_FRAGMENT


@dataclass(frozen=True)
class Fabric:
    """Colour and pattern of a piece of cloth."""

    colour: Array  # (3,) sRGB
    second_colour: Array  # (3,) sRGB
    pattern: int  # of shaders.CLOTH_FRAGMENT
    stripes: float  # per cm


@dataclass(frozen=True)
class Headwear:
    """A hat or scarf on the head."""

    style: HatStyle
    fabric: Fabric
    low: float  # cm by which the rim sits lower than usual
    full: float  # cm by which it stands off the head more than usual


def rim_height(depth: NDArray[np.floating], headwear: Headwear) -> Array:
    """Height (cm) of a hat's rim at depths z (cm): higher in front than behind."""
    rims = {"beanie": (8.3, 0.5), "turban": (8.6, -1.0), "cap": (8.3, 3.0), "brimmed": (8.4, 3.6)}
    front, back = rims[headwear.style]
    share = np.clip((np.asarray(depth, np.float64) + 9.0) / 18.0, 0, 1)
    return np.asarray(back + (front - back) * share - headwear.low)


@dataclass(frozen=True)
class FacialHair:
    """A beard: paint under strands."""

    style: BeardStyle
    density: float  # 0 to 1
    length: float  # cm of the strands; 0: paint alone


@dataclass(frozen=True)
class Proportions:
    """How the head departs from the face model's adults; shares, 0 is an adult as scanned."""

    eyes: float = 0.0  # larger by this share
    nose: float = 0.0  # smaller by this share
    jaw: float = 0.0  # shorter and narrower by this share
    cheeks: float = 0.0  # rounder, cm
    ears: float = 0.0  # larger by this share

    def factors(self, model: FaceModel) -> FloatArray:
        """By how much expressions move each vertex (V,) of this head more than of an adult's."""
        return (1 + self.eyes * _eye_region(model)[0] * 0.95).astype(np.float32)

    def apply(self, model: FaceModel, vertices: NDArray[np.floating]) -> FloatArray:
        """The expressionless head (V, 3) with these proportions, cm."""
        rest = model.vertices.astype(np.float64)
        moved = np.asarray(vertices, np.float64).copy()
        x, y, z = rest.T
        front = smoothstep(2.0, 6.5, z)
        inner = np.exp(-((x / 2.0) ** 2)) * smoothstep(-2.2, -1.2, y) * smoothstep(4.0, 2.0, y) * smoothstep(7.5, 10, z)
        moved[:, 2] -= self.nose * 1.6 * inner * np.maximum(z - 9.8, 0)
        moved[:, 1] += self.nose * 1.2 * inner * smoothstep(2.5, 0.0, y)
        moved[:, 0] *= 1 - self.nose * 0.5 * inner
        low = smoothstep(-1.0, -8.0, y) * smoothstep(-15.0, -9.0, y) * smoothstep(-4.0, 2.0, z)
        moved[:, 1] += self.jaw * low * 0.35 * np.maximum(-1.0 - y, 0)
        moved[:, 0] *= 1 - self.jaw * 0.5 * low
        cheek = np.exp(-(((np.abs(x) - 5.0) / 2.2) ** 2) - ((y + 2.2) / 2.4) ** 2) * front
        moved[:, 0] += np.sign(x) * self.cheeks * cheek
        moved[:, 2] += 0.5 * self.cheeks * cheek
        ear = smoothstep(7.3, 8.0, np.abs(x)) * smoothstep(-3.2, -1.5, y) * smoothstep(5.0, 3.5, y)
        moved[:, 0] += np.sign(x) * self.ears * ear * np.maximum(np.abs(x) - 7.2, 0) * 1.5
        moved[:, 1] += self.ears * ear * (y - 1.0)
        weight, centre = _eye_region(model)
        for side in (0, 1):
            here = (rest[:, 0] > 0) == (side == 0)
            # one's own eye centre: identity moves the ball
            ball = np.abs(rest - centre[side]).max(1) < 1.6
            own = centre[side] + (vertices[ball] - rest[ball]).mean(0)
            grown = (moved - own) * (self.eyes * weight)[:, None] * np.array([1.0, 1.0, 0.6])
            moved[here] += grown[here]
        return np.asarray(moved, np.float32)


EYE_CENTRES: Array = np.array([[3.1, 3.6, 8.1], [-3.1, 3.6, 8.1]])  # of the mean head's balls, cm


def _eye_region(model: FaceModel) -> tuple[Array, Array]:
    """How much each vertex (V,) belongs to an eye and its lids, and the balls' centres (2, 3)."""
    rest = model.vertices.astype(np.float64)
    nearest = np.minimum(*(np.linalg.norm((rest - c) * [1.0, 1.25, 0.7], axis=1) for c in EYE_CENTRES))
    return smoothstep(4.8, 1.9, nearest) * smoothstep(0.2, 1.6, np.abs(rest[:, 0])), EYE_CENTRES


def sample_proportions(rng: np.random.Generator) -> tuple[Proportions, bool]:
    """Proportions, and whether they are a child's."""
    kind = rng.random()
    if kind < CHILD_SHARE:
        young = rng.uniform(0.5, 1.0)
        return Proportions(0.26 * young, 0.34 * young, 0.34 * young, 0.5 * young, 0.05), True
    if kind < CHILD_SHARE + STYLISED_SHARE:  # drawn and animated people
        big = rng.uniform(0.15, 0.36)
        return Proportions(big, float(rng.uniform(0, 0.5)), float(rng.uniform(0, 0.3)), 0.2, float(big)), False
    eyes, nose, jaw, cheeks, ears = rng.normal(0, [0.05, 0.08, 0.07, 0.15, 0.1])
    return Proportions(float(eyes), float(nose), float(jaw), float(cheeks), float(ears)), False


def sample_facial_hair(rng: np.random.Generator, feminine: bool, child: bool, old: float) -> FacialHair:
    """What grows on lip, chin and cheeks."""
    draws = rng.random(4)
    if feminine or child or draws[0] < 0.42:
        return FacialHair("none", 0.0, 0.0)
    styles: tuple[BeardStyle, ...] = ("stubble", "full", "goatee", "moustache")
    style = styles[int(np.searchsorted([0.36, 0.72, 0.86], draws[1]))]
    if style == "stubble":
        return FacialHair(style, float(0.2 + 0.6 * draws[2]), 0.0)
    longest = {"full": 1.2 + 3.5 * old * draws[2] ** 2, "goatee": 1.2, "moustache": 0.9}[style]
    return FacialHair(style, float(0.55 + 0.45 * draws[2]), float(0.4 + longest * draws[3]))


def sample_fabric(rng: np.random.Generator, patterns: tuple[int, ...]) -> Fabric:
    """Cloth in one of the given patterns."""
    plain = rng.random() < 0.5
    colour = np.full(3, rng.uniform(0.06, 0.92)) if plain else rng.uniform(0.06, 0.95, 3) * rng.uniform(0.6, 1.0)
    colour = colour * 0.6 + colour.mean() * 0.4
    second = rng.uniform(0.05, 0.95, 3)
    second = second * 0.65 + second.mean() * 0.35
    return Fabric(colour, second, int(rng.choice(patterns)), float(rng.uniform(0.25, 1.0)))


def sample_headwear(rng: np.random.Generator, feminine: bool) -> Headwear | None:
    """A hat or headscarf of a share of the people."""
    worn, choice = rng.random(2)
    shares = [0.24, 0.36, 0.56, 0.74] if feminine else [0.34, 0.68, 0.88, 0.99]
    style = HAT_STYLES[int(np.searchsorted(shares, choice))]
    patterns = {"beanie": (0, 1, KNIT, KNIT), "cap": (0, 0, 1), "brimmed": (0, 0, KNIT)}.get(
        style, (0, 1, FLOWERS, FOLDS, FOLDS)
    )
    fabric = sample_fabric(rng, patterns)
    headwear = Headwear(style, fabric, float(rng.uniform(-0.5, 0.7)), float(rng.uniform(0.0, 0.9)))
    return headwear if worn < HAT_SHARE else None


def sample_scarf(rng: np.random.Generator) -> Fabric | None:
    """A scarf around the neck of a share of the people."""
    worn = rng.random()
    fabric = sample_fabric(rng, (0, 1, KNIT, CHECKS, FLOWERS, FOLDS))
    return fabric if worn < SCARF_SHARE else None
