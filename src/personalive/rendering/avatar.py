"""Sampling a person by seed: head shape, colours, hair, clothes, light. Appearance only; motion is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.face_model import FaceModel, FloatArray
from personalive.rendering.looks import (
    CHECKS,
    KNIT,
    Fabric,
    FacialHair,
    Headwear,
    Proportions,
    sample_facial_hair,
    sample_headwear,
    sample_proportions,
    sample_scarf,
)

Array = NDArray[np.float64]

IDENTITY_LIMIT = 2.3  # standard deviations
GLASSES_SHARE = 0.20

# sRGB in [0, 1], from light to dark
SKIN_TONES: Array = np.array(
    [
        [0.96, 0.81, 0.73],
        [0.93, 0.76, 0.66],
        [0.90, 0.71, 0.59],
        [0.86, 0.66, 0.53],
        [0.80, 0.59, 0.45],
        [0.72, 0.51, 0.37],
        [0.62, 0.43, 0.31],
        [0.53, 0.36, 0.26],
        [0.44, 0.30, 0.215],
        [0.36, 0.245, 0.18],
    ]
)
DARK_SKIN_FROM = 5  # from this tone on, hair and eyes are dark
HAIR_COLOURS: Array = np.array(
    [
        [0.035, 0.030, 0.028],
        [0.075, 0.052, 0.040],
        [0.140, 0.092, 0.060],
        [0.230, 0.145, 0.085],
        [0.340, 0.225, 0.130],
        [0.520, 0.385, 0.230],
        [0.640, 0.520, 0.350],
        [0.400, 0.175, 0.085],
        [0.480, 0.470, 0.460],
        [0.250, 0.240, 0.235],
    ]
)
DARK_HAIR = 3  # the first so many colours suit every skin
EYE_COLOURS: Array = np.array(
    [
        [0.15, 0.09, 0.05],
        [0.24, 0.14, 0.07],
        [0.34, 0.23, 0.12],
        [0.33, 0.37, 0.24],
        [0.30, 0.44, 0.55],
        [0.25, 0.35, 0.47],
        [0.42, 0.47, 0.50],
    ]
)
FEMININE_HAIR = {"loose": 0.26, "long": 0.14, "bob": 0.18, "swept": 0.14, "short": 0.10, "curly": 0.14, "afro": 0.04}
MASCULINE_HAIR = {
    "short": 0.34,
    "side": 0.22,
    "buzz": 0.14,
    "curly": 0.09,
    "afro": 0.04,
    "swept": 0.07,
    "bald": 0.07,
    "bob": 0.02,
    "loose": 0.03,
}


@dataclass(frozen=True)
class Lighting:
    """Three directional lights (key with shadow, fill, rim) and a two-colour sky. Linear colours."""

    directions: Array  # (3, 3) unit vectors towards the lights
    colours: Array  # (3, 3)
    above: Array  # (3,) ambient from above
    below: Array  # (3,)


@dataclass(frozen=True)
class Clothes:
    """A shirt: sRGB colours and a pattern."""

    colour: Array  # (3,)
    second_colour: Array  # (3,)
    pattern: int  # of shaders.CLOTH_FRAGMENT
    stripes: float  # per cm
    collar: float  # height of the collar's side, cm


@dataclass(frozen=True)
class Person:
    """Everything that stays the same over a person's frames."""

    seed: int
    feminine: bool
    age: float  # 0 young .. 1 old
    identity: FloatArray  # (I,) standard deviations
    skin: Array  # (3,) sRGB
    lip: Array  # (3,) sRGB
    lip_strength: float
    blush: float
    freckles: float
    eye_line: float
    eye_shadow: float
    shadow_colour: Array  # (3,) sRGB
    brow_thickness: float
    gloss: float
    hair: Array  # (3,) sRGB
    hair_style: str
    hair_length: float  # factor
    parting: float  # x of the parting, cm
    wave: float
    fringe: bool
    receding: float  # cm
    iris: Array  # (3,) sRGB
    iris_radius: float  # cm
    pupil_radius: float
    glasses: int  # 0 none, 1 round, 2 square
    glasses_colour: Array
    clothes: Clothes
    lighting: Lighting
    facial_hair: FacialHair
    proportions: Proportions
    spots: float  # age spots, 0 to 1
    headwear: Headwear | None
    scarf: Fabric | None


def sample_person(model: FaceModel, seed: int) -> Person:
    """A plausible person; the same seed always gives the same one."""
    rng = np.random.default_rng([seed, 1])
    feminine = bool(rng.random() < 0.5)
    age = float(rng.beta(1.2, 2.0))
    more = np.random.default_rng([seed, 11])
    proportions, child = sample_proportions(more)
    if child:
        age = 0.0
    tone = int(rng.integers(len(SKIN_TONES)))
    skin = np.clip(SKIN_TONES[tone] * rng.uniform(0.94, 1.04) * rng.uniform(0.98, 1.02, 3), 0, 1)
    dark = tone >= DARK_SKIN_FROM
    styles = FEMININE_HAIR if feminine else MASCULINE_HAIR
    style = str(rng.choice(list(styles), p=np.array(list(styles.values())) / sum(styles.values())))
    painted = feminine and rng.random() < 0.5
    lip_factor = np.array([0.92, 0.50, 0.52]) if painted else np.array([0.88, 0.66, 0.66])
    return Person(
        seed=seed,
        feminine=feminine,
        age=age,
        identity=_identity(model, feminine, rng),
        skin=skin,
        lip=np.clip(skin * lip_factor * rng.uniform(0.92, 1.05), 0, 1),
        lip_strength=float(rng.uniform(0.75, 0.95) if painted else rng.uniform(0.5, 0.75)),
        blush=float(rng.uniform(0.15, 0.6)),
        freckles=float(rng.uniform(0.3, 0.9)) if not dark and rng.random() < 0.2 else 0.0,
        facial_hair=sample_facial_hair(more, feminine, child, age),
        eye_line=float(rng.uniform(0.3, 0.7) if feminine else rng.uniform(0.1, 0.25)),
        eye_shadow=float(rng.uniform(0.1, 0.5)) if painted else 0.0,
        shadow_colour=rng.uniform(0.4, 0.8, 3),
        brow_thickness=float(rng.uniform(0.22, 0.36) if feminine else rng.uniform(0.32, 0.52)),
        gloss=float(rng.uniform(0.35, 0.9)),
        hair=_hair_colour(rng, dark, age),
        hair_style=style,
        hair_length=float(rng.uniform(0.85, 1.15)),
        parting=float(rng.choice([0.0, -2.4, 2.4, 1.2, -1.2])),
        wave=float(rng.random()),
        fringe=bool(rng.random() < (0.3 if feminine else 0.12)),
        receding=0.0 if feminine else float(rng.uniform(0, 0.8 + 1.4 * age)),
        iris=EYE_COLOURS[rng.integers(2) if dark else rng.integers(len(EYE_COLOURS))] * rng.uniform(0.85, 1.15),
        iris_radius=float(rng.uniform(0.57, 0.64)),
        pupil_radius=float(rng.uniform(0.18, 0.25)),
        glasses=int(rng.integers(1, 3)) if rng.random() < GLASSES_SHARE else 0,
        glasses_colour=rng.uniform(0.02, 0.12, 3) if rng.random() < 0.7 else rng.uniform(0.1, 0.5, 3),
        clothes=_clothes(rng),
        lighting=_lighting(rng),
        proportions=proportions,
        spots=float(max(0.0, 2.2 * (age - 0.5)) * more.random()),
        headwear=sample_headwear(more, feminine),
        scarf=sample_scarf(more),
    )


def _identity(model: FaceModel, feminine: bool, rng: np.random.Generator) -> FloatArray:
    """The head shape: of a few draws, the one whose proportions suit best."""
    count = len(model.identity_deltas)
    draws = rng.standard_normal((5, count)).clip(-IDENTITY_LIMIT, IDENTITY_LIMIT).astype(np.float32) * 0.92
    landmarks = model.vertices[model.landmark_vertices]
    deltas = model.identity_deltas[:, model.landmark_vertices]
    scores = [_femininity(landmarks + np.tensordot(draw, deltas, axes=1)) for draw in draws]
    chosen: FloatArray = draws[int(np.argmax(scores) if feminine else np.argmin(scores))]
    return chosen


def _femininity(landmarks: NDArray[np.floating]) -> float:
    """Large eyes, full lips and high brows against a wide jaw, a long nose and a long chin; cm, relative only."""

    def apart(first: int, second: int) -> float:
        return float(np.linalg.norm(landmarks[first] - landmarks[second]))

    eyes = apart(37, 41) + apart(44, 46)
    brows = apart(19, 37) + apart(24, 44)
    return (
        2.5 * eyes + 1.5 * apart(51, 57) + 0.6 * brows - 0.7 * apart(4, 12) - 0.5 * apart(27, 33) - 0.6 * apart(57, 8)
    )


def _hair_colour(rng: np.random.Generator, dark: bool, age: float) -> Array:
    natural = HAIR_COLOURS[rng.integers(DARK_HAIR) if dark or rng.random() < 0.25 else rng.integers(len(HAIR_COLOURS))]
    grey = float(np.clip((age - 0.55) * 2.0, 0, 0.8)) * float(rng.random() < 0.7)
    mixed = natural * (1 - grey) + np.array([0.50, 0.50, 0.50]) * grey
    return np.asarray(mixed * rng.uniform(0.85, 1.15), np.float64)


def _clothes(rng: np.random.Generator) -> Clothes:
    plain = rng.random() < 0.5
    colour = np.full(3, rng.uniform(0.08, 0.9)) if plain else rng.uniform(0.08, 0.9, 3) * rng.uniform(0.6, 1.0)
    return Clothes(
        colour=colour,
        second_colour=rng.uniform(0.05, 0.95, 3),
        pattern=int(rng.choice([0, 1, 2, 3, KNIT, CHECKS], p=[0.22, 0.14, 0.18, 0.12, 0.22, 0.12])),
        stripes=float(rng.uniform(0.3, 1.0)),
        collar=float(rng.uniform(-10.6, -9.3)),
    )


def _direction(azimuth: float, elevation: float) -> Array:
    """Unit vector from degrees; azimuth 0 is the camera's side."""
    a, e = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def _lighting(rng: np.random.Generator) -> Lighting:
    side = float(rng.choice([-1.0, 1.0]))

    def tint() -> Array:
        return np.array([1.0, rng.uniform(0.90, 1.0), rng.uniform(0.78, 1.05)])

    key = rng.uniform(0.7, 1.05)
    hard = rng.random() < 0.3  # from the side, with little to fill the shadow
    cast = np.array([1.0, 1.0, 1.0]) + rng.normal(0, 0.06) * np.array([1.0, 0.1, -1.2])  # warm or cool
    key, fill, open_air = (key * 1.35, 0.4, 0.75) if hard else (key, 1.0, 1.0)
    return Lighting(
        directions=np.stack(
            [
                _direction(side * (rng.uniform(45, 85) if hard else rng.uniform(8, 55)), rng.uniform(5, 50)),
                _direction(-side * rng.uniform(20, 75), rng.uniform(-5, 30)),
                _direction(side * rng.uniform(125, 170), rng.uniform(10, 50)),
            ]
        ),
        colours=cast
        * np.stack([tint() * key, tint() * key * fill * rng.uniform(0.2, 0.55), tint() * rng.uniform(0.0, 0.7)]),
        above=cast * np.array([0.94, 0.97, 1.0]) * rng.uniform(0.32, 0.5) * open_air,
        below=cast * np.array([1.0, 0.9, 0.82]) * rng.uniform(0.14, 0.26) * open_air,
    )
