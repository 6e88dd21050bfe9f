"""How faces move: plausible single expressions, head poses, and smooth clips of talking, looking and nodding.

Expression coefficients are the 53 shapes of ICT-FaceKit in the order of EXPRESSIONS, each in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from personalive.data.expressions import EXPRESSIONS as EXPRESSIONS
from personalive.rendering.face_model import FloatArray
from personalive.rendering.ground_truth import Pose
from personalive.rendering.mesh import smoothstep

Array = NDArray[np.float64]
Shape = dict[str, float]

_PLACE = {name: place for place, name in enumerate(EXPRESSIONS)}

# What the mouth does in speech, by sound.
VISEMES: tuple[Shape, ...] = (
    {"jawOpen": 0.62, "mouthLowerDown": 0.20, "mouthUpperUp": 0.10},  # ah
    {"jawOpen": 0.20, "mouthStretch": 0.35, "mouthSmile": 0.25, "mouthLowerDown": 0.35, "mouthUpperUp": 0.20},  # ee
    {"jawOpen": 0.40, "mouthFunnel": 0.60},  # oh
    {"jawOpen": 0.12, "mouthPucker": 0.75, "mouthFunnel": 0.25},  # oo
    {"mouthPress": 0.45, "mouthRollLower": 0.30, "mouthRollUpper": 0.25},  # m, b, p
    {"jawOpen": 0.08, "mouthRollLower": 0.45, "mouthUpperUp": 0.25},  # f, v
    {"jawOpen": 0.28, "mouthLowerDown": 0.35},  # l, d
    {"jawOpen": 0.12, "mouthFunnel": 0.45, "mouthLowerDown": 0.25},  # sh
    {"jawOpen": 0.85, "mouthLowerDown": 0.15},  # a shouted ah
)
# Mouths of a mood: none of them opens the jaw, so that it can be set apart.
MOUTHS: tuple[Shape, ...] = (
    {},
    {"mouthSmile": 0.55, "cheekSquint": 0.25, "mouthDimple": 0.20},
    {"mouthSmile": 0.95, "cheekSquint": 0.60, "mouthUpperUp": 0.25, "mouthLowerDown": 0.25},
    {"mouthFrown": 0.75, "mouthShrugLower": 0.40},
    {"mouthPucker": 0.80},
    {"mouthFunnel": 0.65},
    {"mouthPress": 0.60, "mouthRollLower": 0.40, "mouthRollUpper": 0.30},
    {"mouthUpperUp": 0.65, "noseSneer": 0.60},
    {"mouthLeft": 0.65},
    {"mouthRight": 0.65},
    {"mouthStretch": 0.65, "mouthLowerDown": 0.45},
    {"cheekPuff": 0.70, "mouthPress": 0.30},
    {"mouthLowerDown": 0.60, "mouthUpperUp": 0.35, "mouthSmile": 0.35},
)
SMILES = (1, 2)  # places in MOUTHS
BROWS: tuple[Shape, ...] = (
    {},
    {"browInnerUp": 0.80, "browOuterUp": 0.70},
    {"browDown": 0.85},
    {"browInnerUp": 0.85},
    {"browOuterUp_L": 0.85},
    {"browOuterUp_R": 0.85},
)
YAW_LIMIT, PITCH_LIMIT, ROLL_LIMIT = 60.0, 30.0, 30.0  # degrees
RATE = 100  # steps a second inside motion_clip


def blend(shape: Shape, strength: float = 1.0, rng: np.random.Generator | None = None) -> Array:
    """Coefficients (53,) of a shape; a name without a side means both. With `rng` the sides differ a little."""
    values = np.zeros(len(EXPRESSIONS))
    for name, amount in shape.items():
        if name in _PLACE:
            values[_PLACE[name]] += amount * strength
            continue
        for side in "LR":
            uneven = 1.0 if rng is None else float(np.clip(rng.normal(1.0, 0.07), 0.8, 1.2))
            values[_PLACE[f"{name}_{side}"]] += amount * strength * uneven
    return values


def plausible(values: NDArray[np.floating]) -> FloatArray:
    """Coefficients (..., 53) made compatible and clipped to [0, 1]: muscles that pull against each other give way."""
    result = np.clip(np.asarray(values, np.float64), 0, 1)

    def lower(name: str, by: Array) -> None:
        result[..., _PLACE[name]] *= 1 - np.clip(by, 0, 1)

    jaw = result[..., _PLACE["jawOpen"]]
    round_lips = np.maximum(result[..., _PLACE["mouthPucker"]], result[..., _PLACE["mouthFunnel"]])
    for name in ("mouthRollLower", "mouthRollUpper", "mouthPress_L", "mouthPress_R", "cheekPuff_L", "cheekPuff_R"):
        lower(name, 1.6 * jaw)
    lower("mouthPucker", 0.8 * jaw)
    lower("mouthShrugLower", jaw)
    for side in "LR":
        closed = result[..., _PLACE[f"eyeBlink_{side}"]]
        smile = result[..., _PLACE[f"mouthSmile_{side}"]]
        lower(f"eyeWide_{side}", 2 * closed)
        lower(f"eyeSquint_{side}", 0.8 * closed)
        lower(f"eyeLookDown_{side}", 0.7 * closed)
        lower(f"eyeLookUp_{side}", 0.7 * closed)
        lower(f"mouthFrown_{side}", 1.5 * smile)
        lower(f"mouthSmile_{side}", 0.7 * round_lips)
        lower(f"mouthStretch_{side}", 0.7 * round_lips)
        raised = np.maximum(result[..., _PLACE[f"browOuterUp_{side}"]], result[..., _PLACE[f"browInnerUp_{side}"]])
        lower(f"browDown_{side}", raised)
    return np.asarray(result, np.float32)


def look(across: float, up: float) -> Array:
    """Coefficients (53,) of a gaze: `across` in [-1, 1] towards the picture's right, `up` in [-1, 1]."""
    return np.asarray(look_track(np.array([across]), np.array([up]))[0])


def look_track(across: Array, up: Array) -> Array:
    """Coefficients (T, 53) of a gaze over time; both eyes turn together."""
    values = np.zeros((len(across), len(EXPRESSIONS)))
    for name, amount in (("Out_L", across), ("In_R", across), ("In_L", -across), ("Out_R", -across)):
        values[:, _PLACE[f"eyeLook{name}"]] = np.maximum(amount, 0)
    for side in "LR":
        values[:, _PLACE[f"eyeLookUp_{side}"]] = np.maximum(up, 0)
        values[:, _PLACE[f"eyeLookDown_{side}"]] = np.maximum(-up, 0)
    return values


def contrasting_expressions(rng: np.random.Generator, poses: int) -> FloatArray:
    """Expressions (poses, 3, 53): the three of a pose differ clearly in mouth, jaw, eyes and brows.

    Over the whole set: half of the frames have the jaw open, evenly over (0, 1]; a quarter have closed eyes.
    """
    count = poses * 3
    open_frames = count // 2
    openings = (rng.permutation(open_frames) + rng.random(open_frames)) / open_frames
    closed_frames = round(count / 4)
    faces = np.zeros((poses, 3, len(EXPRESSIONS)))
    taken = 0
    for pose in range(poses):
        slots = rng.permutation(3)
        mouths = [0, int(rng.choice(SMILES)), int(rng.integers(3, len(MOUTHS)))]
        brows = [0, 1, 2] if rng.random() < 0.5 else [0, int(rng.integers(3, len(BROWS))), int(rng.integers(1, 3))]
        for slot, mouth, brow in zip(slots, mouths, rng.permutation(brows), strict=True):
            faces[pose, slot] += blend(MOUTHS[mouth], rng.uniform(0.6, 1.1), rng)
            faces[pose, slot] += blend(BROWS[brow], rng.uniform(0.5, 1.1), rng)
            faces[pose, slot] += look(*np.clip(rng.normal(0, 0.38, 2), -0.9, 0.9) * [1.0, 0.8])
        due = (pose + 1) * open_frames // poses
        for slot in rng.permutation(3)[: due - taken]:
            faces[pose, slot, _PLACE["jawOpen"]] = openings[taken]
            taken += 1
        faces[pose, :, _PLACE["jawLeft"]] += np.maximum(rng.normal(-0.4, 0.3, 3), 0)
        faces[pose, :, _PLACE["jawRight"]] += np.maximum(rng.normal(-0.4, 0.3, 3), 0)
        closed = (pose + 1) * closed_frames // poses - pose * closed_frames // poses
        order = rng.permutation(3)
        for slot in order[:closed]:
            _close_eyes(faces[pose, slot], rng)
        for slot in order[closed:]:
            _open_eyes(faces[pose, slot], rng)
    return plausible(faces)


def _close_eyes(face: Array, rng: np.random.Generator) -> None:
    """Shut both eyes, or now and then wink."""
    amount = rng.uniform(0.9, 1.0)
    face[_PLACE["eyeBlink_L"]] = amount
    face[_PLACE["eyeBlink_R"]] = np.clip(amount + rng.normal(0, 0.03), 0, 1)
    if rng.random() < 0.1:
        face[_PLACE[str(rng.choice(["eyeBlink_L", "eyeBlink_R"]))]] = 0.1


def _open_eyes(face: Array, rng: np.random.Generator) -> None:
    """Open eyes: normal, wide, narrowed, or half way through a blink."""
    kind = rng.random()
    if kind < 0.2:
        face += blend({"eyeWide": rng.uniform(0.4, 0.9)})
    elif kind < 0.35:
        face += blend({"eyeSquint": rng.uniform(0.3, 0.8)})
    elif kind < 0.5:
        face += blend({"eyeBlink": rng.uniform(0.2, 0.7)})


def near_neutral(rng: np.random.Generator) -> tuple[FloatArray, Pose]:
    """A calm face (53,) looking at the camera, near frontal: a natural reference portrait."""
    face = blend({"mouthSmile": max(0.0, rng.normal(0.05, 0.12)), "eyeSquint": max(0.0, rng.normal(0, 0.08))}, 1.0, rng)
    face += look(*rng.normal(0, 0.08, 2))
    shift = rng.normal(0, [0.3, 0.3, 0.8])
    return plausible(face), Pose(*(float(value) for value in (*rng.normal(0, [2.5, 4.0, 2.0]), *shift)))


def wide_pose(rng: np.random.Generator) -> Pose:
    """A pose over the whole range that is trained on: near frontal mostly, one in eight far out on each axis."""
    return Pose(
        pitch=_far(rng.normal(0, 10), 15, PITCH_LIMIT),
        yaw=_far(rng.normal(0, 20), 30, YAW_LIMIT),
        roll=_far(rng.normal(0, 8), 12, ROLL_LIMIT),
        right=float(np.clip(rng.normal(0, 0.8), -2.0, 2.0)),
        up=float(np.clip(rng.normal(0, 0.6), -1.5, 1.5)),
        nearer=float(np.clip(rng.normal(0, 2.0), -5.0, 5.0)),
    )


def _far(angle: float, usual: float, limit: float) -> float:
    """Degrees; beyond `usual`, 1.5 standard deviations, angles spread faster: to the limit at 2.3 of them."""
    beyond = max(0.0, abs(angle) - usual) * (limit - usual) / (0.8 / 1.5 * usual)
    return float(np.copysign(min(min(abs(angle), usual) + beyond, limit), angle))


def motion_clip(
    rng: np.random.Generator, frames: int, fps: float, from_neutral: bool = False, liveliness: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Smooth natural motion: expression coefficients (frames, 53) and poses (frames, 6), rows for Pose(*row).

    Talking in spells, moods, brow accents, glances, blinks, turns and nods. `from_neutral` starts calm, frontal and
    with open eyes and fades the motion in over 0.6 s. `liveliness` scales the head's motion.
    """
    steps = int(np.ceil(frames / fps * RATE)) + 1
    faces = _speech(rng, steps) + _moods(rng, steps, MOUTHS, (1.0, 2.6)) + _moods(rng, steps, BROWS, (0.5, 1.6))
    faces += look_track(_held(rng, steps, 0.30, (0.4, 1.6), 1.5), 0.7 * _held(rng, steps, 0.25, (0.4, 1.6), 1.5))
    poses = _head(rng, steps, liveliness)
    blinks = _blinks(rng, steps)
    if from_neutral:
        fade = smoothstep(0.0, 0.6, np.arange(steps) / RATE)
        faces, poses, blinks = faces * fade[:, None], poses * fade[:, None], blinks * fade
    for side in "LR":
        place = _PLACE[f"eyeBlink_{side}"]
        faces[:, place] = np.maximum(faces[:, place], blinks)
    chosen = np.round(np.arange(frames) / fps * RATE).astype(int)
    return plausible(faces[chosen]), poses[chosen].astype(np.float32)


def _steps_of(rng: np.random.Generator, steps: int, hold: tuple[float, float], draw: Callable[[], Array]) -> Array:
    """Piecewise constant values (steps, K): `draw` gives the next ones, each held for some seconds in `hold`."""
    rows: list[Array] = []
    remaining = int(rng.uniform(0, hold[1]) * RATE)
    current = draw()
    for _ in range(steps):
        if remaining <= 0:
            current, remaining = draw(), int(rng.uniform(*hold) * RATE)
        rows.append(current)
        remaining -= 1
    return np.stack(rows)


def _speech(rng: np.random.Generator, steps: int) -> Array:
    """Mouth shapes (steps, 53) of speaking in spells of some syllables a second."""
    speaking = _steps_of(rng, steps, (0.8, 2.5), lambda: np.array([float(rng.random() < 0.65)]))
    shapes = [blend(viseme) for viseme in VISEMES]

    def sound() -> Array:
        return np.asarray(shapes[int(rng.integers(len(shapes)))] * rng.uniform(0.7, 1.25))

    sounds = _steps_of(rng, steps, (0.09, 0.22), sound)
    return np.asarray(gaussian_filter1d(sounds * speaking, 4.0, axis=0, mode="nearest"))


def _moods(rng: np.random.Generator, steps: int, shapes: tuple[Shape, ...], hold: tuple[float, float]) -> Array:
    """Slowly changing shapes (steps, 53), half of the time none of them."""

    def mood() -> Array:
        choice = shapes[int(rng.integers(len(shapes)))] if rng.random() < 0.55 else shapes[0]
        return blend(choice, rng.uniform(0.5, 1.0), rng)

    return np.asarray(gaussian_filter1d(_steps_of(rng, steps, hold, mood), 10.0, axis=0, mode="nearest"))


def _held(rng: np.random.Generator, steps: int, spread: float, hold: tuple[float, float], smooth: float) -> Array:
    """A value (steps,) that jumps to normal draws and stays there a while; `smooth` in steps."""
    jumps = _steps_of(rng, steps, hold, lambda: np.array([np.clip(rng.normal(0, spread), -2.2 * spread, 2.2 * spread)]))
    return np.asarray(gaussian_filter1d(jumps[:, 0], smooth, mode="nearest"))


def _blinks(rng: np.random.Generator, steps: int) -> Array:
    """Lid closure (steps,) in [0, 1]: a blink takes about a quarter of a second."""
    closure = np.zeros(steps)
    times = np.arange(steps) / RATE
    moment = rng.uniform(0.2, 2.0)
    while moment < times[-1] + 0.3:
        falling = smoothstep(moment - 0.09, moment - 0.02, times)
        rising = smoothstep(moment + 0.18, moment + 0.03, times)
        closure = np.maximum(closure, falling * rising)
        moment += rng.uniform(0.9, 3.5)
    return closure


def _head(rng: np.random.Generator, steps: int, liveliness: float) -> Array:
    """Poses (steps, 6): turns between held directions, nods, and a slight sway."""
    hold = (0.5, 1.6)
    poses = np.zeros((steps, 6))
    for column, spread in enumerate((6.0, 14.0, 5.0, 0.5, 0.4, 1.2)):
        poses[:, column] = _held(rng, steps, spread * liveliness, hold, 17.0)
        sway = gaussian_filter1d(rng.standard_normal(steps + 200), 22.0)[100 : 100 + steps]
        poses[:, column] += 0.10 * spread * sway / 0.113  # 0.113: deviation of white noise after this filter
    times = np.arange(steps) / RATE
    moment = rng.uniform(0.3, 3.0)
    while moment < times[-1]:  # nods
        envelope = np.exp(-(((times - moment) / 0.35) ** 2))
        poses[:, 0] += liveliness * rng.uniform(3, 8) * envelope * np.sin((times - moment) * 2 * np.pi * 1.6)
        moment += rng.uniform(1.5, 4.5)
    poses[:, 0] = np.clip(poses[:, 0], -PITCH_LIMIT, PITCH_LIMIT)
    poses[:, 1] = np.clip(poses[:, 1], -YAW_LIMIT, YAW_LIMIT)
    poses[:, 2] = np.clip(poses[:, 2], -ROLL_LIMIT, ROLL_LIMIT)
    return poses
