"""What a renderer knows of a person's geometry: the head, dense landmarks, exact backward flow; and its file format.

All of it is one compressed `.npz` beside the person's pictures in a shard. Flow is stored as displacement in half
precision at half the pictures' side, masks bit by bit.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

HEAD_ARRAYS = ("camera", "dense", "dense_visible", "identity", "pose")
FLOW_ARRAYS = ("displacement", "part", "reference_part", "references", "targets", "visible")


@dataclass(frozen=True)
class HeadTruth:
    """The head behind F rendered frames. Positions in [-1, 1], x right, y down; K landmarks."""

    identity: FloatArray  # (I,) identity coefficients of the face model, standard deviations
    camera: FloatArray  # (3,) field of view in degrees, height and distance in cm
    pose: FloatArray  # (F, 6) pitch, yaw, roll in degrees; right, up, nearer in cm
    dense: FloatArray  # (F, K, 2) projected vertices of rendering.dense_landmarks, the 68 landmarks first
    dense_visible: BoolArray  # (F, K) nothing lies before them


@dataclass(frozen=True)
class FlowTruth:
    """Exact backward flow of T target frames towards each of R reference frames; S is the pictures' side."""

    references: IntArray  # (R,) frames
    targets: IntArray  # (R, T) frames
    flow: FloatArray  # (R, T, S / 2, S / 2, 2) x, y: where the pixel is in the reference picture, [-1, 1] or beyond
    visible: BoolArray  # (R, T, S, S) the reference shows that place
    part: NDArray[np.uint8]  # (R, T, S, S) what the target shows, numbers of rendering.layers.Part
    reference_part: NDArray[np.uint8]  # (R, S, S)


@dataclass(frozen=True)
class PackedArrays:
    """The content of an `.npz` and the names in it."""

    content: bytes
    names: tuple[str, ...]


def pixel_grid(side: int) -> FloatArray:
    """The position of every pixel's centre (side, side, 2), x right, y down, in [-1, 1]."""
    line = (np.arange(side) + 0.5) / side * 2 - 1
    return np.stack(np.meshgrid(line, line), axis=-1).astype(np.float32)


def pack_geometry(head: HeadTruth | None, flows: FlowTruth | None) -> PackedArrays | None:
    """The file of a person's geometry; None where nothing is known."""
    arrays: dict[str, NDArray[Any]] = {}
    if head is not None:
        arrays |= {
            "camera": head.camera,
            "dense": head.dense,
            "dense_visible": np.packbits(head.dense_visible, axis=-1),
            "identity": head.identity,
            "pose": head.pose,
        }
    if flows is not None:
        displacement = flows.flow - pixel_grid(flows.flow.shape[2])
        arrays |= {
            "displacement": displacement.astype(np.float16),
            "part": flows.part,
            "reference_part": flows.reference_part,
            "references": flows.references,
            "targets": flows.targets,
            "visible": np.packbits(flows.visible, axis=-1),
        }
    if not arrays:
        return None
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes a flag for an array
    return PackedArrays(file.getvalue(), tuple(sorted(arrays)))


def unpack_geometry(
    content: bytes, names: Sequence[str], frames: int, side: int
) -> tuple[HeadTruth | None, FlowTruth | None]:
    """Read what `pack_geometry` wrote, of a person with so many frames of so many pixels a side.

    Raises:
        ValueError: the file is not readable, or does not hold exactly the arrays `names` in their shapes.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"its arrays cannot be read: {error}") from error
    known = [group for group in (HEAD_ARRAYS, FLOW_ARRAYS) if set(group) & set(arrays)]
    if list(names) != sorted(arrays) or set(arrays) != {name for group in known for name in group} or not known:
        raise ValueError(f"its arrays are not whole: {', '.join(sorted(arrays)) or 'none'}")
    head = _head(arrays, frames) if HEAD_ARRAYS in known else None
    return head, _flows(arrays, frames, side) if FLOW_ARRAYS in known else None


def _head(arrays: Mapping[str, NDArray[Any]], frames: int) -> HeadTruth:
    count = arrays["dense"].shape[1] if arrays["dense"].ndim == 3 else 0
    _check(arrays, "identity", (len(arrays["identity"]),), np.float32)
    _check(arrays, "camera", (3,), np.float32)
    _check(arrays, "pose", (frames, 6), np.float32)
    _check(arrays, "dense", (frames, count, 2), np.float32)
    _check(arrays, "dense_visible", (frames, -(-count // 8)), np.uint8)
    seen = np.unpackbits(arrays["dense_visible"], axis=-1, count=count).astype(bool)
    return HeadTruth(arrays["identity"], arrays["camera"], arrays["pose"], arrays["dense"], seen)


def _flows(arrays: Mapping[str, NDArray[Any]], frames: int, side: int) -> FlowTruth:
    if arrays["targets"].ndim != 2:
        raise ValueError("its array targets is not of two dimensions")
    rows, count = arrays["targets"].shape
    _check(arrays, "references", (rows,), np.int32)
    _check(arrays, "targets", (rows, count), np.int32)
    _check(arrays, "displacement", (rows, count, side // 2, side // 2, 2), np.float16)
    _check(arrays, "visible", (rows, count, side, -(-side // 8)), np.uint8)
    _check(arrays, "part", (rows, count, side, side), np.uint8)
    _check(arrays, "reference_part", (rows, side, side), np.uint8)
    for name in ("references", "targets"):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() < frames:
            raise ValueError(f"its array {name} names frames that are not there")
    flow = arrays["displacement"].astype(np.float32) + pixel_grid(side // 2)
    visible = np.unpackbits(arrays["visible"], axis=-1, count=side).astype(bool)
    return FlowTruth(arrays["references"], arrays["targets"], flow, visible, arrays["part"], arrays["reference_part"])


def _check(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], kind: type[np.generic]) -> None:
    array = arrays[name]
    if array.shape != shape or array.dtype != kind:
        raise ValueError(f"its array {name} is not {'x'.join(map(str, shape))} of {kind.__name__}")
    if np.issubdtype(kind, np.floating) and not np.isfinite(array).all():
        raise ValueError(f"its array {name} is not finite")
