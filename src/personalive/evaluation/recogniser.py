"""Face recognition: embeddings that tell people apart, by a network that the user names, a file or a package.

None comes with the product and none is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation.face_points import FacePoints, detected_points
from personalive.evaluation.measures import COSINE, ID_SIM
from personalive.evaluation.networks import RECOGNISER_PACKAGES, FloatArray, Run, input_shape, open_network, warped
from personalive.evaluation.yardstick import Array, unit
from personalive.media.frames import Pixels

ARCFACE_SIDE = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace networks are trained to see eyes, nose tip and mouth corners in 112x112 pixels (InsightFace)."""

_EYES_AND_MOUTH = np.concatenate([ARCFACE_POINTS[:2], ARCFACE_POINTS[3:].mean(0, keepdims=True)])


class FaceRecogniser(Protocol):
    """What turns faces into unit vectors that are near for one person. measure: the name of its cosine."""

    @property
    def measure(self) -> str:
        """ID_SIM or COSINE."""
        ...

    def embed(self, frames: Pixels) -> Array:
        """Return unit vectors (F, D) of frames (F, H, W, 3) of one video; NaN: no face; (F, 1) where there is none."""
        ...


@dataclass(frozen=True)
class FaceInput:
    """What a recognition network takes: RGB faces of side x side pixels, (pixel - mean) / deviation of 0..255."""

    side: int = ARCFACE_SIDE
    channels_last: bool = False
    mean: float = 127.5
    deviation: float = 127.5

    def batch(self, faces: list[Pixels]) -> FloatArray:
        """Return faces (side, side, 3) as one batch."""
        pixels = (np.stack(faces).astype(np.float32) - self.mean) / self.deviation  # (N, S, S, 3)
        return np.ascontiguousarray(pixels if self.channels_last else pixels.transpose(0, 3, 1, 2))


class EmbeddingNetwork:
    """A network: aligned faces as FaceInput says -> embeddings (N, D).

    A similarity brings the face to ARCFACE_POINTS, scaled to the input: through `points` the cosine is ID_SIM, else
    through the eyes that OpenCV's cascade finds.
    """

    def __init__(self, run: Run, points: FacePoints | None = None, taken: FaceInput | None = None) -> None:
        self._run, self._points, self._taken = run, points, taken or FaceInput()
        self.measure = COSINE if points is None else ID_SIM

    def embed(self, frames: Pixels) -> Array:
        """Return unit vectors (F, D) of frames (F, H, W, 3) of one video; NaN: no face; (F, 1) where there is none."""
        faces = self._aligned(frames)
        known = [number for number, face in enumerate(faces) if face is not None]
        if not known:
            return np.full((len(frames), 1), np.nan)
        (found,) = self._run(self._taken.batch([face for face in faces if face is not None]))
        vectors = found.reshape(len(known), -1).astype(np.float64)
        embeddings = np.full((len(frames), vectors.shape[1]), np.nan)
        embeddings[known] = unit(vectors)
        return embeddings

    def _aligned(self, frames: Pixels) -> list[Pixels | None]:
        points, side = self._points, self._taken.side
        seen = detected_points(frames) if points is None else [points(frame) for frame in frames]
        wanted = (_EYES_AND_MOUTH if points is None else ARCFACE_POINTS) * (side / ARCFACE_SIDE)
        return [
            None if found is None else warped(frame, similarity(found, wanted), side)
            for frame, found in zip(frames, seen, strict=True)
        ]


class PackageRecogniser:
    """An installed package that finds, aligns and recognises faces itself."""

    measure = COSINE

    def __init__(self, name: str, embed: Callable[[Pixels], Array | None]) -> None:
        """embed: a frame (H, W, 3) -> the embedding (D,) of its largest face; None: no face."""
        self._name, self._embed = name, embed

    def embed(self, frames: Pixels) -> Array:
        """Return unit vectors (F, D) of frames (F, H, W, 3) of one video; NaN: no face; (F, 1) where there is none."""
        found = [self._embed(frame) for frame in frames]
        size = next((len(one) for one in found if one is not None), 1)
        return unit(np.stack([np.full(size, np.nan) if one is None else one for one in found]))


def open_recogniser(choice: str, points: FacePoints | None = None) -> FaceRecogniser:
    """Return the recogniser of a file (ONNX or TorchScript), or of one of PACKAGES.

    Of ONNX the input's size and order of axes are read; a network that begins with a subtraction and a multiplication
    takes pixels of 0..255 (as InsightFace's own loader decides), any other, and TorchScript of 112 pixels, takes
    (pixel - 127.5) / 127.5. Raises WeightsError for a file that cannot be used, ConfigError for a package that is not
    installed or lacks its weights.
    """
    if choice in PACKAGES:
        return PackageRecogniser(choice, PACKAGES[choice]())
    path = Path(choice)
    return EmbeddingNetwork(open_network(path, ["embedding"]), points, face_input(path))


def face_input(path: Path) -> FaceInput:
    """Return what a network's file takes, as `open_recogniser` says. Raises WeightsError where that is no face."""
    shape = input_shape(path)
    if shape is None:
        return FaceInput()
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise WeightsError(f"{path} takes {shape}; a face recogniser takes (N, 3, S, S) or (N, S, S, 3)")
    last = shape[1] != 3
    height, width = shape[1:3] if last else shape[2:4]
    if height != width:
        raise WeightsError(f"{path} takes {width}x{height} pixels; a face recogniser takes squares")
    mean, deviation = (0.0, 1.0) if _normalises(path) else (127.5, 127.5)
    return FaceInput(height or ARCFACE_SIDE, last, mean, deviation)


def similarity(points: Array, wanted: Array) -> Array:
    """Return the map (2, 3) that turns, scales and moves points (N, 2) nearest to `wanted` (N, 2), by least squares."""
    z, w = points[:, 0] + 1j * points[:, 1], wanted[:, 0] + 1j * wanted[:, 1]  # a similarity is w = a z + b
    centred = z - z.mean()
    a = (centred.conj() * (w - w.mean())).sum() / max(float(np.square(np.abs(centred)).sum()), 1e-12)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _normalises(path: Path) -> bool:
    """Whether an ONNX network brings pixels of 0..255 to its own range itself."""
    if importlib.util.find_spec("onnx") is None:
        return False
    import onnx

    first = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node[:8]}
    return {"Sub", "Mul"} <= first


def _face_recognition() -> Callable[[Pixels], Array | None]:
    """dlib's network through the package face_recognition, whose weights come as a package, too."""
    for needed in (
        "face_recognition",
        "face_recognition_models",
        "pkg_resources",
    ):  # it ends the program where one lacks
        if importlib.util.find_spec(needed) is None:
            raise ConfigError(
                f"--identity face_recognition lacks {needed}: "
                "pip install face_recognition face_recognition_models 'setuptools<81'"
            )
    package: Any = importlib.import_module("face_recognition")

    def embed(frame: Pixels) -> Array | None:
        places = package.face_locations(frame)  # (top, right, bottom, left)
        if not places:
            return None
        largest = max(places, key=lambda place: (place[2] - place[0]) * (place[1] - place[3]))
        return np.asarray(package.face_encodings(frame, [largest])[0], np.float64)

    return embed


def _insightface() -> Callable[[Pixels], Array | None]:
    """ArcFace through the package insightface, from model files that it has fetched before."""
    folder = Path.home() / ".insightface" / "models"
    packs = [pack.name for pack in sorted(folder.glob("*")) if any(pack.glob("*.onnx"))]
    if importlib.util.find_spec("insightface") is None or not packs:
        raise ConfigError(
            f"--identity insightface needs the package and its model files in {folder} (nothing is downloaded here): "
            "install it and run it once, or name its recognition network's ONNX file"
        )
    package: Any = importlib.import_module("insightface.app")
    app = package.FaceAnalysis(packs[0], allowed_modules=["detection", "recognition"])
    app.prepare(ctx_id=-1)

    def embed(frame: Pixels) -> Array | None:
        faces = app.get(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if not faces:
            return None
        largest = max(faces, key=lambda face: float(np.prod(face.bbox[2:] - face.bbox[:2])))
        return np.asarray(largest.embedding, np.float64)

    return embed


PACKAGES: dict[str, Callable[[], Callable[[Pixels], Array | None]]] = dict(
    zip(RECOGNISER_PACKAGES, (_face_recognition, _insightface), strict=True)
)
"""Name for --identity -> what opens the package: a function of a frame that gives an embedding."""
