"""Rendered people on disk: tar files of WebP frames and one JSON of ground truth per person."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from personalive.errors import InputError
from personalive.rendering.face_model import FloatArray, IntArray

FORMAT = 1
WEBP_QUALITY = 92


class ShardError(InputError):
    """A shard that is missing, cut short or not written by this program."""


@dataclass(frozen=True)
class PersonRecord:
    """One person's frames with exact motion. F frames; positions in [-1, 1], x right, y down; angles in degrees."""

    seed: int
    images: NDArray[np.uint8]  # (F, H, W, 3) RGB
    expression: FloatArray  # (F, 53) in [0, 1], order of motion.EXPRESSIONS
    angles: FloatArray  # (F, 3) pitch, yaw, roll
    scale: FloatArray  # (F,)
    translation: FloatArray  # (F, 2)
    canonical: FloatArray  # (21, 3) canonical @ R * scale + t gives keypoints, nearly (perspective)
    keypoints: FloatArray  # (F, 21, 2) exact projection of the expressionless head
    landmarks: FloatArray  # (F, 68, 2) exact projection with expression
    face_box: FloatArray  # (F, 4) x1, y1, x2, y2
    group: IntArray  # (F,) frames of one group share their pose (kind "pose") or follow one another (kind "clip")
    kind: tuple[str, ...]  # (F,) reference, pose or clip


_ARRAYS: dict[str, type[np.generic]] = {
    "expression": np.float32,
    "angles": np.float32,
    "scale": np.float32,
    "translation": np.float32,
    "canonical": np.float32,
    "keypoints": np.float32,
    "landmarks": np.float32,
    "face_box": np.float32,
    "group": np.int32,
}


def write_shard(path: Path, people: Iterable[PersonRecord]) -> None:
    """Write people to a tar file that appears under `path` only when it is complete."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with tarfile.open(partial, "w") as archive:
            for person in people:
                _add_person(archive, person)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _add_person(archive: tarfile.TarFile, person: PersonRecord) -> None:
    name = f"{person.seed:08d}"
    for number, picture in enumerate(person.images):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "WEBP", quality=WEBP_QUALITY, method=3)
        _add_file(archive, f"{name}/{number:03d}.webp", content.getvalue())
    truth: dict[str, Any] = {"format": FORMAT, "seed": person.seed, "frames": len(person.images), "kind": person.kind}
    for field in _ARRAYS:
        truth[field] = np.round(getattr(person, field).astype(np.float64), 6).tolist()
    _add_file(archive, f"{name}.json", json.dumps(truth).encode())


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def read_shards(paths: Iterable[Path | str]) -> Iterator[PersonRecord]:
    """The people of shards, one after another.

    Raises:
        ShardError: a shard is missing, cut short, or holds something else.
    """
    for path in paths:
        yield from _read_shard(Path(path))


def _read_shard(path: Path) -> Iterator[PersonRecord]:
    if not path.is_file():
        raise ShardError(f"shard not found: {path}")
    pictures: dict[str, NDArray[np.uint8]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                stream = archive.extractfile(entry)
                if stream is None:
                    raise ShardError(f"shard {path}: {entry.name} is not a file")
                content = stream.read()
                if entry.name.endswith(".json"):
                    yield _person(json.loads(content), pictures)
                    pictures = {}
                else:
                    pictures[entry.name] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (tarfile.TarError, UnidentifiedImageError, OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"shard {path} is damaged; delete it and render it again: {error!r}") from error
    if pictures:
        raise ShardError(f"shard {path} is damaged; delete it and render it again: it ends within a person")


def _person(truth: dict[str, Any], pictures: dict[str, NDArray[np.uint8]]) -> PersonRecord:
    """Ground truth and pictures -> record; a ValueError or KeyError where they do not fit."""
    if truth["format"] != FORMAT:
        raise ValueError(f"format {truth['format']}, expected {FORMAT}")
    names = [f"{truth['seed']:08d}/{number:03d}.webp" for number in range(truth["frames"])]
    arrays = {field: np.array(truth[field], kind) for field, kind in _ARRAYS.items()}
    for field, array in arrays.items():
        if field != "canonical" and len(array) != len(names):
            raise ValueError(f"{field} has {len(array)} rows for {len(names)} frames")
    images = np.stack([pictures[name] for name in names])
    return PersonRecord(seed=int(truth["seed"]), images=images, kind=tuple(truth["kind"]), **arrays)
