"""The pictures and the driving video that ship with the package, rendered from scratch: nobody real is shown."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import PchipInterpolator

from personalive.media.video_writer import VideoWriter
from personalive.rendering.avatar import sample_person
from personalive.rendering.face_model import FloatArray, load_face_model
from personalive.rendering.ground_truth import Pose
from personalive.rendering.motion import EXPRESSIONS, MOUTHS, VISEMES, Shape, blend, look_track, plausible
from personalive.rendering.plans import Plan
from personalive.rendering.records import render_person
from personalive.rendering.renderer import Renderer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sitter:
    """Who is on a portrait, and where the head stands so that there is air above the hair; cm."""

    seed: int
    nearer: float
    up: float


PORTRAITS: dict[str, Sitter] = {  # by file name
    "ada": Sitter(3012, -4.3, -1.5),
    "bruno": Sitter(9278, -3.4, -0.7),
    "clara": Sitter(541, -3.2, -1.5),
    "dev": Sitter(9470, -3.2, -1.6),
    "emil": Sitter(2406, -3.9, -0.4),
    "femi": Sitter(525, 2.0, -0.7),
    "greta": Sitter(7310, -3.3, -0.4),
    "hana": Sitter(4449, -3.2, -0.9),
}
PORTRAIT_SIZE, PORTRAIT_QUALITY = 512, 90
DRIVER_SEED = 926
DRIVING_SIZE, DRIVING_RATE, DRIVING_SECONDS = 256, 25, 8
DRIVING_COMMENT = "A rendered person of PersonaLive's own making; nobody real is shown"
SUPERSAMPLE = 3
LIPS_APART = 0.04  # cm that a portrait's lips may be apart
CLOSING = 3.9  # cm by which the face model's mouthClose brings the lips together

# Times are seconds; a track is a list of (time, value) that smooth curves connect.
Track = list[tuple[float, float]]
_PITCH: Track = [
    (0, 0),
    (0.6, 0),
    (2.9, 0),
    (3.15, 11),
    (3.45, -8),
    (3.75, 10),
    (4.05, -4),
    (4.4, 0),
    (5.6, -4),
    (6.6, 5),
    (8, 0),
]
_YAW: Track = [
    (0, 0),
    (0.5, 0),
    (1.1, -30),
    (1.5, -30),
    (2.2, 30),
    (2.6, 30),
    (3.1, 2),
    (4.6, 0),
    (5.4, -12),
    (6.3, 12),
    (7.2, 0),
    (8, 0),
]
_ROLL: Track = [(0, 0), (1.1, 3), (2.2, -3), (3.1, 0), (5.0, 7), (6.0, -7), (7.0, 5), (8, 0)]
_TALK = (4.9, 6.9)  # one sound every SYLLABLE seconds
SYLLABLE = 0.16
_TALK_ORDER = (0, 1, 4, 2, 6, 3, 0, 5, 8, 4, 1, 7)
_WIDE_OPEN: Track = [(0, 0), (4.15, 0), (4.45, 0.95), (4.7, 0.95), (4.95, 0), (8, 0)]
_SMILE: Track = [(0, 0.1), (0.6, 0.1), (1.3, 0.9), (2.5, 0.9), (2.9, 0.1), (4.2, 0), (6.9, 0), (7.3, 1), (8, 0.9)]
_BROWS: Track = [(0, 0), (2.9, 0), (4.15, 0), (4.45, 0.9), (4.75, 0.8), (5.0, 0), (5.7, 0.6), (6.1, 0), (8, 0.2)]
_LOOK: Track = [
    (0, 0),
    (0.5, 0),
    (0.7, -0.6),
    (1.4, -0.3),
    (1.7, 0.6),
    (2.4, 0.3),
    (2.8, 0),
    (5.2, 0),
    (5.4, 0.7),
    (5.9, 0.7),
    (6.1, 0),
    (8, 0),
]
_BLINKS = (0.35, 1.65, 2.75, 4.0, 5.3, 6.4, 7.15)


def render_assets(face_model: Path | str, out: Path | str) -> list[Path]:
    """Render `portraits/<name>.jpg` and `driving.mp4` into the folder `out`; returns the files.

    Raises:
        FaceModelError: the face model cannot be read.
        RenderingUnavailableError: no off-screen OpenGL.
        OutputError: the video cannot be written.
    """
    model = load_face_model(face_model)
    out = Path(out)
    folder = out / "portraits"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with closing(Renderer(model, PORTRAIT_SIZE, SUPERSAMPLE)) as renderer:
        for name, sitter in PORTRAITS.items():
            files.append(folder / f"{name}.jpg")
            render_sitter(renderer, sitter).save(files[-1], quality=PORTRAIT_QUALITY, optimize=True)
    video = out / "driving.mp4"
    with closing(Renderer(model, DRIVING_SIZE, SUPERSAMPLE)) as renderer:
        frames = render_person(renderer, DRIVER_SEED, demonstration()).images
    with VideoWriter(video, DRIVING_SIZE, DRIVING_SIZE, rate=DRIVING_RATE, comment=DRIVING_COMMENT) as writer:
        for frame in frames:
            writer.write(frame)
    return [*files, video]


def render_sitter(renderer: Renderer, sitter: Sitter) -> Image.Image:
    """The portrait of a sitter, the lips together or nearly."""
    face, pose = pleasant(sitter.seed)
    pose = replace(pose, nearer=sitter.nearer, up=sitter.up)
    renderer.set_person(sample_person(renderer.head.model, sitter.seed))
    apart = renderer.lip_gap(renderer.expressed(face)) - LIPS_APART
    face[EXPRESSIONS.index("mouthClose")] += max(apart, 0.0) / CLOSING
    plan = Plan(face[None], (pose,), ("reference",), (0,))
    return Image.fromarray(render_person(renderer, sitter.seed, plan).images[0])


def pleasant(seed: int) -> tuple[FloatArray, Pose]:
    """A slight smile and a slight turn for a portrait: coefficients (53,) and pose."""
    rng = np.random.default_rng([seed, 9])
    face = blend(MOUTHS[1], rng.uniform(0.45, 0.9), rng) + blend({"browInnerUp": 0.15})
    return plausible(face), Pose(
        pitch=float(rng.normal(0, 1.5)), yaw=float(rng.normal(0, 4.0)), roll=float(rng.normal(0, 1.5))
    )


def demonstration() -> Plan:
    """The built-in driving clip: starts calm and frontal, then turns, smiles, nods, opens the mouth, talks, smiles."""
    times = np.arange(DRIVING_SECONDS * DRIVING_RATE) / DRIVING_RATE
    faces = _tracked(MOUTHS[2], _SMILE, times) + _tracked({"jawOpen": 1.0}, _WIDE_OPEN, times)
    faces += _tracked({"browInnerUp": 0.9, "browOuterUp": 0.8, "eyeWide": 0.5}, _BROWS, times)
    faces += look_track(_curve(_LOOK, times), np.zeros_like(times)) + _speech(times)
    closed = np.max([np.exp(-(((times - moment) / 0.065) ** 4)) for moment in _BLINKS], axis=0)
    for side in "LR":
        faces[:, EXPRESSIONS.index(f"eyeBlink_{side}")] += closed
    yaw = _curve(_YAW, times)
    columns = [_curve(_PITCH, times), yaw, _curve(_ROLL, times), 0.02 * yaw, np.zeros_like(times), np.zeros_like(times)]
    poses = tuple(Pose(*map(float, row)) for row in np.stack(columns, axis=1))
    return Plan(plausible(faces), poses, ("clip",) * len(times), (0,) * len(times))


def _curve(track: Track, times: Array) -> Array:
    """A track's values at `times`, without overshoot."""
    moments, values = zip(*track, strict=True)
    return np.asarray(PchipInterpolator(moments, values)(times))


def _tracked(shape: Shape, track: Track, times: Array) -> Array:
    """Coefficients (T, 53) of a shape whose strength follows a track."""
    return np.asarray(blend(shape)[None] * _curve(track, times)[:, None])


def _speech(times: Array) -> Array:
    """Coefficients (T, 53) of a spell of speech."""
    start, end = _TALK
    total = np.zeros((len(times), len(EXPRESSIONS)))
    for number, sound in enumerate(_TALK_ORDER):
        moment = start + (number + 0.5) * (end - start) / len(_TALK_ORDER)
        strength = np.exp(-(((times - moment) / (0.6 * SYLLABLE)) ** 2))
        total += strength[:, None] * blend(VISEMES[sound])[None]
    return total
