"""A tracker of its own: what a face does and who it is, read from pixels without any network of the product.

The face is found by the cascade detector, cut out, and described by histograms of gradients (expression and pose) and
by these with a small colour picture (identity). Two linear maps, fitted in closed form to rendered people with known
truth (`benchmarks/fit_yardstick.py`), read the description: ridge regression for the signals, fitted to how the frames
of a person differ from their mean (the shape of a face must not tell), and linear discriminants for the identity
("Fisherfaces", Belhumeur, Hespanha and Kriegman 1997). It is a documented stand-in: ArcFace, SMIRK and MediaPipe are
better on photographs, and figures of this one are never given under their names. How well it reads people whom it has
not seen is printed by the fit and stands in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from personalive.data.landmarks import EXPRESSION
from personalive.errors import WeightsError
from personalive.media.frames import Pixels
from personalive.motion.face_finder import FaceBox, FaceFinder

Array: TypeAlias = NDArray[np.float64]

SIGNALS = (*EXPRESSION, "pitch", "yaw", "roll")
"""What a face does (data/landmarks.py) and the head's angles in degrees."""

SIDE = 96  # of the cut-out face, pixels
REACH = 1.15  # its side in sides of the detected square: chin and brows stay inside when the detector is a little off
COLOUR_SIDE = 12  # of the small colour picture
IDENTITY_SIZE = 48
SMOOTH = 9  # frames over which detections of a video are steadied by their median


@dataclass(frozen=True)
class Reading:
    """What the yardstick sees in F frames. signals (F, 7) in the order of SIGNALS; identity (F, 48), unit length.

    Rows of frames without a face follow from the nearest detection in time.
    """

    signals: Array
    identity: Array

    def signal(self, name: str) -> Array:
        """One of SIGNALS, (F,)."""
        return np.asarray(self.signals[:, SIGNALS.index(name)])


@dataclass(frozen=True)
class Yardstick:
    """Two linear maps over the descriptions of faces, see the module's text.

    signal_map (D + 1, 7): ridge regression with a constant; identity_mean (E,), identity_map (E, 48): discriminants.
    """

    signal_map: Array
    identity_mean: Array
    identity_map: Array

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        """Frames (F, H, W, 3) of one video. None when no frame shows a face that the detector finds.

        `held`: the head does not move in this video, so one box (the median) serves all frames and expression cannot
        leak in through the detector.
        """
        boxes = face_boxes(frames, held)
        if boxes is None:
            return None
        shapes, faces = describe(frames, boxes)
        return Reading(self.signals(shapes), self.identities(faces))

    def signals(self, shapes: Array) -> Array:
        """(F, 7) from shape descriptions (F, D)."""
        return np.asarray(shapes @ self.signal_map[:-1] + self.signal_map[-1])

    def identities(self, faces: Array) -> Array:
        """(F, 48) of unit length from face descriptions (F, E)."""
        return unit((faces - self.identity_mean) @ self.identity_map)

    def save(self, path: Path) -> None:
        """One safetensors file, half precision."""
        tensors = {
            "signal_map": self.signal_map,
            "identity_mean": self.identity_mean,
            "identity_map": self.identity_map,
        }
        save_file({name: np.asarray(value, np.float16) for name, value in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path | None = None) -> Yardstick:
        """From a file of `save`, by default the one that comes with the package. Raises WeightsError."""
        path = path or packaged()
        try:
            tensors = {name: value.astype(np.float64) for name, value in load_file(path).items()}
            return cls(**tensors)
        except (OSError, SafetensorError, TypeError) as error:
            raise WeightsError(f"{path} is not a yardstick ({error}); install again, or fit one") from error


def packaged() -> Path:
    """The yardstick that comes with the package. Kept figures follow from it: a new one measures anew."""
    return Path(str(files("personalive"))) / "assets" / "yardstick.safetensors"


def identity_distance(first: Array, second: Array) -> Array:
    """1 - cosine of embeddings (..., 48) of unit length: 0 the same .. 2, lower is nearer."""
    return np.asarray(1 - (first * second).sum(-1))


def unit(vectors: Array) -> Array:
    """Vectors (F, n) at length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def face_boxes(frames: Pixels, held: bool = False) -> list[FaceBox] | None:
    """The face's square in each frame, steadied by a median over SMOOTH frames (`held`: over all); None: no face."""
    finder = FaceFinder()
    found: list[FaceBox | None] = []
    last: FaceBox | None = None
    for frame in frames:
        near = None if last is None else finder.find_near(frame, last)
        seen = [near] if near is not None else finder.find(frame)
        if seen:
            last = seen[0]
        found.append(last if seen else None)
    places = [number for number, box in enumerate(found) if box is not None]
    if not places:
        return None
    known = np.array([[box.x, box.y, box.side] for box in found if box is not None])
    nearest = [int(np.argmin(np.abs(np.array(places) - number))) for number in range(len(frames))]
    track = known[nearest]  # (F, 3)
    if held:
        steady = np.broadcast_to(np.median(known, axis=0), track.shape)
    else:
        padded = np.pad(track, ((SMOOTH // 2, SMOOTH // 2), (0, 0)), mode="edge")
        steady = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH, axis=0), axis=-1)
    return [FaceBox(*(float(value) for value in row)) for row in steady]


def describe(frames: Pixels, boxes: Sequence[FaceBox]) -> tuple[Array, Array]:
    """Shape descriptions (F, D) and face descriptions (F, E = D + 432) of the faces in these squares."""
    shapes, faces = [], []
    gradients = cv2.HOGDescriptor((SIDE, SIDE), (16, 16), (8, 8), (8, 8), 9)
    for frame, box in zip(frames, boxes, strict=True):
        face = _cut(frame, box)
        shape = np.asarray(gradients.compute(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)), np.float64).ravel()
        small = cv2.resize(face, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA)
        colour = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float64).ravel() / 255
        shapes.append(shape)
        faces.append(np.concatenate([shape, colour]))
    return np.stack(shapes), np.stack(faces)


def _cut(frame: Pixels, box: FaceBox) -> Pixels:
    """The square around a face at SIDE pixels; beyond the frame its border is repeated."""
    scale = SIDE / (box.side * REACH)
    to_cut = np.array([[scale, 0, SIDE / 2 - box.x * scale], [0, scale, SIDE / 2 - box.y * scale]])
    smooth = cv2.GaussianBlur(frame, (0, 0), 0.4 / scale) if scale < 0.6 else frame  # shrinking must not alias
    cut: Any = cv2.warpAffine(smooth, to_cut, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


def fit(
    shapes: Array, faces: Array, signals: Array, people: NDArray[np.integer], ridge: float = 300.0, within: float = 0.02
) -> Yardstick:
    """Both maps from N descriptions with their true signals (N, 7) and whose face it is (N,).

    ridge: added to the diagonal of the descriptions' scatter divided by N, in thousandths of its mean; within: the
    same for the scatter within people, as a share of its mean, before the discriminants are taken.
    """
    moved = shapes - _means(shapes, people)
    scatter = moved.T @ moved / len(shapes)
    scatter[np.diag_indices_from(scatter)] += ridge / 1000 * np.trace(scatter) / len(scatter)
    weights = np.linalg.solve(scatter, moved.T @ (signals - _means(signals, people)) / len(shapes))
    signal_map = np.concatenate([weights, (signals.mean(0) - shapes.mean(0) @ weights)[None]])
    return Yardstick(signal_map, faces.mean(0), _discriminants(faces, people, within))


def _means(values: Array, people: NDArray[np.integer]) -> Array:
    """Of N rows (N, n): the mean of all rows of the same person."""
    names, place = np.unique(people, return_inverse=True)
    return np.stack([values[place == number].mean(0) for number in range(len(names))])[place]


def _discriminants(faces: Array, people: NDArray[np.integer], within: float) -> Array:
    """Directions (E, IDENTITY_SIZE) in which people differ most for how little each of them varies."""
    means = _means(faces, people)
    centres = means[np.unique(people, return_index=True)[1]]  # (P, E)
    own = faces - means
    inner = own.T @ own / len(faces)
    inner[np.diag_indices_from(inner)] += within * np.trace(inner) / len(inner)
    # Whitened by the spread within people, the principal directions of their centres are the discriminants.
    factor = np.linalg.cholesky(inner)
    white = np.linalg.solve(factor, (centres - centres.mean(0)).T)  # (E, P)
    left, _, _ = np.linalg.svd(white, full_matrices=False)
    return np.asarray(np.linalg.solve(factor.T, left[:, :IDENTITY_SIZE]))
