"""People on disk: tar files of WebP frames and one JSON per person, rendered or cut from real video.

A person named N is stored as N/000.webp, N/001.webp, ... and then N.json: who it is, what each frame is for, where the
face is, and the exact motion where a renderer knows it ("truth": null where nobody does). Before the JSON there may be
N.npz: what else a renderer knows (geometry.py), listed in the JSON as "arrays". Nothing else may be in a shard.
`stream.py` reads many of them shuffled, without holding them in memory.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from personalive.data.geometry import FlowTruth, HeadTruth, pack_geometry, unpack_geometry
from personalive.errors import InputError, output_error

FORMAT = 2
WEBP_QUALITY = 92
KINDS = ("reference", "pose", "clip")
"""What a frame is for: a calm frontal portrait; one of several expressions in one pose; a moment of a smooth clip."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


class ShardError(InputError):
    """A shard that is missing, empty, cut short, or that holds something else."""


@dataclass(frozen=True)
class GroundTruth:
    """The exact motion of F frames. Positions in [-1, 1], x right, y down; angles in degrees."""

    expression: FloatArray  # (F, 53) in [0, 1], order of rendering.motion.EXPRESSIONS
    angles: FloatArray  # (F, 3) pitch, yaw, roll
    scale: FloatArray  # (F,)
    translation: FloatArray  # (F, 2)
    canonical: FloatArray  # (21, 3) canonical @ R * scale + t gives keypoints, nearly (perspective)
    keypoints: FloatArray  # (F, 21, 2) exact projection of the expressionless head
    landmarks: FloatArray  # (F, 68, 2) exact projection with expression


@dataclass(frozen=True)
class PersonRecord:
    """Some frames of one person, square and of one size."""

    name: str  # of this record, unlike all others; letters, digits, "_", "-", "."
    person: str  # who is shown: records of one person are never divided between training and test
    images: NDArray[np.uint8]  # (F, H, H, 3) RGB
    face_box: FloatArray  # (F, 4) x1, y1, x2, y2, forehead to chin; the picture is [-1, 1], a box may reach beyond
    group: IntArray  # (F,) frames of one group share their pose (kind "pose") or follow one another (kind "clip")
    kind: tuple[str, ...]  # (F,) of KINDS
    truth: GroundTruth | None  # None: real video, nobody knows
    head: HeadTruth | None = None  # None: not known, or not stored
    flows: FlowTruth | None = None


_TRUTH_SHAPES: dict[str, tuple[str | int, ...]] = {
    "expression": ("F", 53),
    "angles": ("F", 3),
    "scale": ("F",),
    "translation": ("F", 2),
    "canonical": (21, 3),
    "keypoints": ("F", 21, 2),
    "landmarks": ("F", 68, 2),
}
_OPTIONAL = {"arrays"}  # names in N.npz
_ENTRIES = {"format", "name", "person", "frames", "kind", "group", "face_box", "truth"}
_PICTURE = re.compile(r"([\w.-]+)/(\d{3,})\.webp", re.ASCII)
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_END_OF_TAR = bytes(1024)
_AGAIN = "delete it and repeat the command that made it"


def write_shard(path: Path, people: Iterable[PersonRecord]) -> int:
    """Write people to a tar file that appears under `path` only when it is complete; how many they were.

    Nothing is written where there is nobody. Raises OutputError where the disk is full or not writable.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    written = 0
    try:
        with tarfile.open(partial, "w") as archive:
            for person in people:
                _add_person(archive, person)
                written += 1
        if written:
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # a disk that fills up late says so here
            partial.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def _add_person(archive: tarfile.TarFile, person: PersonRecord) -> None:
    if not _NAME.fullmatch(person.name):
        raise ValueError(f"{person.name!r} cannot name files")
    for number, picture in enumerate(person.images):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "WEBP", quality=WEBP_QUALITY, method=3)
        _add_file(archive, f"{person.name}/{number:03d}.webp", content.getvalue())
    arrays = pack_geometry(person.head, person.flows)
    if arrays is not None:
        _add_file(archive, f"{person.name}.npz", arrays.content)
    truth = person.truth and {field.name: _numbers(getattr(person.truth, field.name)) for field in fields(GroundTruth)}
    entries = {
        "format": FORMAT,
        "name": person.name,
        "person": person.person,
        "frames": len(person.images),
        "kind": person.kind,
        "group": person.group.tolist(),
        "face_box": _numbers(person.face_box),
        "truth": truth,
    }
    if arrays is not None:
        entries["arrays"] = list(arrays.names)
    _add_file(archive, f"{person.name}.json", json.dumps(entries).encode())


def _numbers(array: FloatArray) -> Any:
    return np.round(array.astype(np.float64), 6).tolist()


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@dataclass(frozen=True)
class StoredPerson:
    """A person as the shard holds it, pictures still compressed: a fiftieth of the memory."""

    shard: Path
    pictures: tuple[bytes, ...]
    entries: Mapping[str, Any]  # as in the JSON, checked
    arrays: bytes | None = None  # N.npz

    def decode(self) -> PersonRecord:
        """The person with pictures. Raises ShardError for one that is damaged or not of the size of the first."""
        entries = self.entries
        truth = entries["truth"]
        images = self._images()
        head, flows = self._geometry(images)
        return PersonRecord(
            name=entries["name"],
            person=entries["person"],
            images=images,
            face_box=np.array(entries["face_box"], np.float32),
            group=np.array(entries["group"], np.int32),
            kind=tuple(entries["kind"]),
            truth=truth and GroundTruth(**{name: np.array(truth[name], np.float32) for name in _TRUTH_SHAPES}),
            head=head,
            flows=flows,
        )

    def _geometry(self, images: NDArray[np.uint8]) -> tuple[HeadTruth | None, FlowTruth | None]:
        if self.arrays is None:
            return None, None
        try:
            return unpack_geometry(self.arrays, self.entries["arrays"], len(images), images.shape[1])
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _images(self) -> NDArray[np.uint8]:
        images = []
        for number, content in enumerate(self.pictures):
            try:
                images.append(np.asarray(Image.open(io.BytesIO(content), formats=["WEBP"]).convert("RGB")))
            except (OSError, ValueError) as error:  # PIL's errors for damaged pictures
                raise self._damaged(f"its picture {number} cannot be decoded") from error
        sizes = {image.shape[:2] for image in images}
        if len(sizes) > 1 or any(height != width for height, width in sizes):
            raise self._damaged("its pictures are not square and of one size")
        return np.stack(images)

    def _damaged(self, what: str) -> ShardError:
        return ShardError(f"shard {self.shard} is damaged: {self.entries['name']}: {what}; {_AGAIN}")


def read_shards(paths: Iterable[Path | str]) -> Iterator[PersonRecord]:
    """The people of shards, one after another.

    Raises:
        ShardError: a shard is missing, empty, cut short, or holds something else.
    """
    for path in paths:
        for stored in read_stored(path):
            yield stored.decode()


def read_stored(path: Path | str) -> Iterator[StoredPerson]:
    """The people of one shard, pictures not yet decoded. Raises ShardError like `read_shards`."""
    path = Path(path)
    if not path.is_file():
        raise ShardError(f"shard not found: {path}")
    pictures: dict[str, bytes] = {}
    arrays: dict[str, bytes] = {}
    people = 0
    try:
        _check_end(path)
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                stream = archive.extractfile(entry) if entry.isfile() else None
                if stream is None:
                    raise ValueError(f"{entry.name} is not a file")
                content = stream.read()
                if _PICTURE.fullmatch(entry.name):
                    pictures[entry.name] = content
                elif entry.name.endswith(".npz") and pictures and not arrays:
                    arrays[entry.name] = content
                elif entry.name.endswith(".json"):
                    name = entry.name.removesuffix(".json")
                    entries = _checked(json.loads(content), name, pictures)
                    if list(arrays) != [f"{name}.npz"] * ("arrays" in entries):
                        raise ValueError(f"the arrays of {name} are not those that its JSON names")
                    yield StoredPerson(path, tuple(pictures.values()), entries, arrays.get(f"{name}.npz"))
                    pictures, arrays = {}, {}
                    people += 1
                else:
                    raise ValueError(f"{entry.name} does not belong there")
        if pictures or arrays:
            raise ValueError("it ends within a person")
        if not people:
            raise ValueError("it holds nobody")
    except (tarfile.TarError, OSError, ValueError, TypeError) as error:
        raise ShardError(f"shard {path} is damaged: {error}; {_AGAIN}") from error


def _check_end(path: Path) -> None:
    """Raises ValueError for a tar file without its end: cut between two members it would be read without complaint."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END_OF_TAR)))
        if file.read() != _END_OF_TAR:
            raise ValueError("it is cut short or no tar file")


def _checked(entries: Any, name: str, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """A person's JSON, brought to the present format; ValueError where it is not whole or does not fit."""
    if isinstance(entries, dict) and entries.get("format") == 1:
        entries = _from_format_1(entries)
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise ValueError(f"{name}.json is not of format {FORMAT}")
    if set(entries) - _OPTIONAL != _ENTRIES:
        raise ValueError(f"{name}.json has wrong entries: {', '.join(sorted((set(entries) - _OPTIONAL) ^ _ENTRIES))}")
    if entries["name"] != name or not isinstance(entries["person"], str):
        raise ValueError(f"{name}.json is about somebody else")
    frames = entries["frames"]
    if not isinstance(frames, int) or frames < 1 or list(pictures) != [f"{name}/{i:03d}.webp" for i in range(frames)]:
        raise ValueError(f"the pictures of {name} are not its {frames} frames in order")
    _check_numbers(name, "face_box", entries["face_box"], (frames, 4))
    _check_numbers(name, "group", entries["group"], (frames,))
    if len(entries["kind"]) != frames or not set(entries["kind"]) <= set(KINDS):
        raise ValueError(f"kind of {name} is not {frames} of {', '.join(KINDS)}")
    truth = entries["truth"]
    if truth is not None:
        if set(truth) != set(_TRUTH_SHAPES):
            raise ValueError(f"truth of {name} has wrong entries: {', '.join(sorted(set(truth) ^ set(_TRUTH_SHAPES)))}")
        for field, shape in _TRUTH_SHAPES.items():
            _check_numbers(name, field, truth[field], [frames if side == "F" else side for side in shape])
    return entries


def _check_numbers(name: str, field: str, values: Any, shape: Sequence[int | str]) -> None:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{field} of {name} is not numbers in equal rows") from None
    if array.shape != tuple(shape) or not np.isfinite(array).all():
        raise ValueError(f"{field} of {name} is not {'x'.join(map(str, shape))} finite numbers")


def _from_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """The first format, rendered people only: a seed for a name, the truth flat beside the rest."""
    name = f"{int(old.get('seed', -1)):08d}"
    truth = {field: old.get(field) for field in _TRUTH_SHAPES}
    kept = {field: old.get(field) for field in ("frames", "kind", "group", "face_box")}
    return {"format": FORMAT, "name": name, "person": name, **kept, "truth": truth}
