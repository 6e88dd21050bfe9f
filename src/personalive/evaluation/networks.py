"""Networks for the published measures, by path: none comes with the product, none is needed by it.

What each has to take and to give is written at its class; docs/evaluation.md says where such networks are to be had.
"""

from __future__ import annotations

import importlib.metadata
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
from personalive.evaluation.yardstick import Array, face_boxes
from personalive.media.frames import Pixels, to_unit
from personalive.weights.record import sha256_of

FloatArray: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[FloatArray], tuple[FloatArray, ...]]
"""A batch (N, 3, H, W) -> what the network gives, each with N rows."""

LPIPS_TRUNKS = ("alex", "vgg", "squeeze")

RECOGNISER_PACKAGES = ("face_recognition", "insightface")
"""Installed packages that may be named instead of a face recognition network's file: see recogniser.py."""

FACE_SIDE = 224
FACE_REACH = 1.4  # side of the crop for face parameters, in sides of the detected square
CLIP_FRAMES, CLIP_SIDE = 16, 224


@dataclass(frozen=True)
class NetworkFiles:
    """Which networks to measure with; None: that measure is not taken.

    lpips: a name of LPIPS_TRUNKS, or a file; identity: one of RECOGNISER_PACKAGES, or a file; mesh: a Python that has
    mediapipe (see `mesh.FaceMesh`).
    """

    lpips: str | None = None
    identity: str | None = None
    landmarks: Path | None = None
    face: Path | None = None
    video: Path | None = None
    mesh: str | None = None

    def key(self) -> dict[str, str]:
        """Return what tells these networks from others: names, versions of packages, and hashes of files.

        Raises WeightsError for a missing file.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _key(name, str(value)) for name, value in given.items() if value is not None}


def _key(name: str, value: str) -> str:
    if name == "mesh":
        return "mediapipe"
    if value in RECOGNISER_PACKAGES and name == "identity":
        try:
            return f"{value} {importlib.metadata.version(value)}"
        except importlib.metadata.PackageNotFoundError:  # opening it says what to do
            return value
    return value if value in LPIPS_TRUNKS else file_hash(Path(value))


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


def input_shape(path: Path) -> list[int | None] | None:
    """Return the shape of an ONNX file's first input, None for a size that is left open; None for TorchScript.

    Raises WeightsError for a file that cannot be read.
    """
    if path.suffix.lower() != ".onnx":
        return None
    return [size if isinstance(size, int) else None for size in _session(path).get_inputs()[0].shape]


def _session(path: Path) -> Any:
    import onnxruntime

    file_hash(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's own exceptions have no common root
        raise WeightsError(f"{path} is not an ONNX network: {' '.join(str(error).split())[:200]}") from error


def _onnx(path: Path, outputs: Sequence[str]) -> Run:
    session = _session(path)
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


def _boxed(frames: Pixels, reach: float, side: int) -> list[Pixels | None]:
    """The detected squares, `reach` times as large, at `side` pixels."""
    boxes = face_boxes(frames)
    if boxes is None:
        return [None] * len(frames)
    faces: list[Pixels | None] = []
    for frame, box in zip(frames, boxes, strict=True):
        scale = side / (box.side * reach)
        to_cut = np.array([[scale, 0, side / 2 - box.x * scale], [0, scale, side / 2 - box.y * scale]])
        faces.append(warped(frame, to_cut, side))
    return faces


def warped(frame: Pixels, to_cut: Array, side: int) -> Pixels:
    """Return a part of a frame at side x side pixels; smoothed where it shrinks; its border is repeated beyond it."""
    scale = float(np.hypot(to_cut[0, 0], to_cut[1, 0]))
    smooth = cv2.GaussianBlur(frame, (0, 0), 0.4 / scale) if scale < 0.6 else frame
    cut: Any = cv2.warpAffine(smooth, to_cut, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)
