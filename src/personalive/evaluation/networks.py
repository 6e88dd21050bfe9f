"""Networks for the published measures, by path: none comes with the product, none is needed by it.

What each has to take and to give is written at its class; docs/evaluation.md says where such networks are to be had.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation.temporal import Distance
from personalive.evaluation.yardstick import Array, face_boxes, unit
from personalive.media.frames import Pixels, to_unit
from personalive.weights.record import sha256_of

FloatArray: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[FloatArray], tuple[FloatArray, ...]]
"""A batch (N, 3, H, W) -> what the network gives, each with N rows."""

FacePoints: TypeAlias = Callable[[Pixels], Array | None]
"""A frame -> eyes, nose tip and mouth corners (5, 2) in pixels, the left of the picture first; None: no face."""

LPIPS_TRUNKS = ("alex", "vgg", "squeeze")

ARCFACE_SIDE = 112
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace networks are trained to see eyes, nose tip and mouth corners in 112x112 pixels (InsightFace)."""

FACE_SIDE = 224
FACE_REACH = 1.4  # side of the crop for face parameters, in sides of the detected square
CLIP_FRAMES, CLIP_SIDE = 16, 224


@dataclass(frozen=True)
class NetworkFiles:
    """Which networks to measure with; None: that measure is not taken.

    lpips: a name of LPIPS_TRUNKS, or a file; mesh: a Python that has mediapipe (see `mesh.FaceMesh`).
    """

    lpips: str | None = None
    identity: Path | None = None
    landmarks: Path | None = None
    face: Path | None = None
    video: Path | None = None
    mesh: str | None = None

    def key(self) -> dict[str, str]:
        """What tells these networks from others: names, and hashes of files. Raises WeightsError for a missing one."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value) if value in LPIPS_TRUNKS else "mediapipe" if name == "mesh" else file_hash(Path(value))
            for name, value in given.items()
            if value is not None
        }


def file_hash(path: Path) -> str:
    """SHA-256 of a network's file. Raises WeightsError where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check the path of the network") from error


def open_network(path: Path, outputs: Sequence[str]) -> Run:
    """An ONNX (.onnx) or TorchScript file as a function that gives these outputs.

    Of ONNX the outputs are found by name (a single wanted one: the first); TorchScript gives a tensor, a tuple in this
    order, or a dictionary with these names. Raises WeightsError, naming the file, for one that cannot be read or that
    does not give what is asked.
    """
    file_hash(path)  # a missing file is one clear line, whatever the library would say
    return _onnx(path, outputs) if path.suffix.lower() == ".onnx" else _scripted(path, outputs)


def _onnx(path: Path, outputs: Sequence[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own exceptions have no common root
        raise WeightsError(f"{path} is not an ONNX network: {' '.join(str(error).split())[:200]}") from error
    taken = session.get_inputs()[0]
    names = [output.name for output in session.get_outputs()]
    if len(outputs) == 1 and outputs[0] not in names:
        outputs = names[:1]
    missing = [name for name in outputs if name not in names]
    if missing:
        raise WeightsError(f"{path} gives {', '.join(names)}, not {', '.join(missing)}; name its outputs so")
    one_by_one = taken.shape and taken.shape[0] == 1  # exported for a batch of one

    def run(batch: FloatArray) -> tuple[FloatArray, ...]:
        parts = np.split(batch, len(batch)) if one_by_one else [batch]
        try:
            found = [session.run(list(outputs), {taken.name: part}) for part in parts]
        except Exception as error:
            raise WeightsError(f"{path} does not take {batch.shape}: {' '.join(str(error).split())[:200]}") from error
        return tuple(np.concatenate(values) for values in zip(*found, strict=True))

    return run


def _scripted(path: Path, outputs: Sequence[str]) -> Run:
    network = load_script(path)

    @torch.inference_mode()
    def run(batch: FloatArray) -> tuple[FloatArray, ...]:
        try:
            found: Any = network(torch.from_numpy(batch))
        except RuntimeError as error:
            raise WeightsError(f"{path} does not take {batch.shape}: {' '.join(str(error).split())[-200:]}") from error
        if isinstance(found, dict):
            found = tuple(found[name] for name in outputs if name in found)
        elif isinstance(found, Tensor):
            found = (found,)
        if len(found) < len(outputs):
            raise WeightsError(f"{path} gives {len(found)} outputs; {', '.join(outputs)} are needed")
        return tuple(value.float().numpy() for value in found[: len(outputs)])

    return run


def load_script(path: Path) -> Any:
    """A TorchScript module on the CPU. Raises WeightsError for another kind of file."""
    file_hash(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is not a TorchScript file; save the network with torch.jit.save") from error


def lpips_distance(choice: str) -> Distance:
    """LPIPS (Zhang et al. 2018) of pictures in [0, 1], of any size: 0 (equal) upwards, lower is nearer.

    choice: a trunk of LPIPS_TRUNKS, through the package lpips or else torchmetrics, which fetch weights once; or a
    TorchScript file: two batches (N, 3, H, W) in [-1, 1] -> N numbers. Raises ConfigError where nothing is installed.
    """
    network = _lpips_trunk(choice) if choice in LPIPS_TRUNKS else load_script(Path(choice))

    @torch.inference_mode()
    def distance(first: Tensor, second: Tensor) -> Tensor:
        found: Tensor = network(first * 2 - 1, second * 2 - 1)
        if found.numel() != len(first):
            raise WeightsError(f"{choice} gives {tuple(found.shape)} for {len(first)} pairs; one number each is LPIPS")
        return found.reshape(len(first))

    return distance


def _lpips_trunk(trunk: str) -> Any:
    if importlib.util.find_spec("torchvision") is not None:  # both take their trunks from there
        if importlib.util.find_spec("lpips") is not None:
            import lpips

            return lpips.LPIPS(net=trunk, verbose=False).eval()
        if importlib.util.find_spec("torchmetrics") is not None:
            from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as similarity

            def one_by_one(first: Tensor, second: Tensor) -> Tensor:
                pairs = zip(first[:, None], second[:, None], strict=True)
                return torch.stack(
                    [similarity(a.clamp(-1, 1), b.clamp(-1, 1), net_type=cast(Any, trunk)) for a, b in pairs]
                )

            return one_by_one
    raise ConfigError(f"--lpips {trunk} needs the packages lpips and torchvision: pip install lpips")


class IdentityNetwork:
    """An ArcFace-like network: faces (N, 3, 112, 112), RGB, (pixel - 127.5) / 127.5 -> embeddings (N, D).

    With `points` the face is brought to ARCFACE_POINTS by a similarity, as such networks are trained, and the figure is
    ID-SIM; without, it is cut out around the detector's square, which lowers all cosines: that figure has another name.
    """

    def __init__(self, run: Run, points: FacePoints | None = None) -> None:
        self._run, self._points = run, points
        self.measure = "identity cosine, box crop" if points is None else "ID-SIM"

    def embed(self, frames: Pixels) -> Array:
        """Unit vectors (F, D) of frames (F, H, W, 3) of one video; NaN where there is no face."""
        faces = self._aligned(frames) if self._points is not None else _boxed(frames, 1.1, ARCFACE_SIDE, up=0.076)
        known = [number for number, face in enumerate(faces) if face is not None]
        if not known:
            return np.full((len(frames), 1), np.nan)
        batch = np.stack([face for face in faces if face is not None]).transpose(0, 3, 1, 2)
        (found,) = self._run(np.ascontiguousarray((batch.astype(np.float32) - 127.5) / 127.5))
        embeddings = np.full((len(frames), found.shape[1]), np.nan)
        embeddings[known] = unit(found.astype(np.float64))
        return embeddings

    def _aligned(self, frames: Pixels) -> list[Pixels | None]:
        assert self._points is not None
        seen = (self._points(frame) for frame in frames)
        return [
            None if points is None else _warped(frame, similarity(points, ARCFACE_POINTS), ARCFACE_SIDE)
            for frame, points in zip(frames, seen, strict=True)
        ]


class FaceNetwork:
    """A SMIRK-like network: faces (N, 3, 224, 224), RGB in [0, 1] -> expression (N, E) and pose (N, P) parameters.

    The crop is a square of FACE_REACH sides of the detected one, about its centre.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def parameters(self, frames: Pixels) -> tuple[Array, Array] | None:
        """Expression (F, E) and pose (F, P) of frames (F, H, W, 3) of one video; None: no face in any."""
        faces = [face for face in _boxed(frames, FACE_REACH, FACE_SIDE) if face is not None]
        if not faces:
            return None
        batch = np.stack(faces).transpose(0, 3, 1, 2).astype(np.float32) / 255
        expression, pose = self._run(np.ascontiguousarray(batch))
        return expression.astype(np.float64), pose.astype(np.float64)


class VideoNetwork:
    """An I3D as TorchScript: clips (N, 3, 16, 224, 224), RGB in [-1, 1] -> features (N, D).

    Where its forward takes `rescale`, `resize` and `return_features` (the usual I3D file for FVD does), they are given
    as False, False, True: what comes in is already scaled.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._network = path, load_script(path)
        taken = {argument.name for argument in self._network.forward.schema.arguments}
        wanted = {"rescale": False, "resize": False, "return_features": True}
        self._options = wanted if set(wanted) <= taken else {}

    @torch.inference_mode()
    def features(self, frames: Pixels) -> Array:
        """(1, D) of one clip (CLIP_FRAMES, H, W, 3)."""
        pictures = functional.interpolate(to_unit(frames), (CLIP_SIDE, CLIP_SIDE), mode="bilinear", antialias=True)
        clip = (pictures.clamp(0, 1) * 2 - 1).transpose(0, 1)[None]  # (1, 3, T, H, W)
        try:
            found: Tensor = self._network(clip, **self._options)
        except RuntimeError as error:
            raise WeightsError(f"{self._path} does not take clips {tuple(clip.shape)}; is it an I3D?") from error
        return np.asarray(found.reshape(1, -1).double())


def yunet(path: Path) -> FacePoints:
    """The five points of the largest face by OpenCV's FaceDetectorYN from a YuNet ONNX file. Raises WeightsError."""
    file_hash(path)
    try:
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.6)
    except cv2.error as error:
        raise WeightsError(f"{path} is not a YuNet network that OpenCV reads") from error

    def points(frame: Pixels) -> Array | None:
        detector.setInputSize((frame.shape[1], frame.shape[0]))
        _, faces = detector.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if faces is None or not len(faces):
            return None
        largest = max(faces, key=lambda face: float(face[2] * face[3]))
        return np.asarray(largest[4:14], np.float64).reshape(5, 2)

    return points


def similarity(points: Array, wanted: Array) -> Array:
    """The map (2, 3) that turns, scales and moves points (N, 2) nearest to `wanted` (N, 2), by least squares."""
    z, w = points[:, 0] + 1j * points[:, 1], wanted[:, 0] + 1j * wanted[:, 1]  # a similarity is w = a z + b
    centred = z - z.mean()
    a = (centred.conj() * (w - w.mean())).sum() / max(float(np.square(np.abs(centred)).sum()), 1e-12)
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _boxed(frames: Pixels, reach: float, side: int, up: float = 0.0) -> list[Pixels | None]:
    """The detected squares, `reach` times as large and `up` sides higher, at `side` pixels."""
    boxes = face_boxes(frames)
    if boxes is None:
        return [None] * len(frames)
    faces: list[Pixels | None] = []
    for frame, box in zip(frames, boxes, strict=True):
        scale = side / (box.side * reach)
        y = box.y - up * box.side
        to_cut = np.array([[scale, 0, side / 2 - box.x * scale], [0, scale, side / 2 - y * scale]])
        faces.append(_warped(frame, to_cut, side))
    return faces


def _warped(frame: Pixels, to_cut: Array, side: int) -> Pixels:
    """A part of a frame at side x side pixels; smoothed where it shrinks; its border is repeated beyond it."""
    scale = float(np.hypot(to_cut[0, 0], to_cut[1, 0]))
    smooth = cv2.GaussianBlur(frame, (0, 0), 0.4 / scale) if scale < 0.6 else frame
    cut: Any = cv2.warpAffine(smooth, to_cut, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)
