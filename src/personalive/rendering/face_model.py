"""The morphable head: loading it from one `.npz`, and making that file from the public ICT-FaceKit release.

Units are centimetres; x points to the person's left (right in the picture), y up, z out of the face towards the camera.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalive.errors import InputError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

ENVIRONMENT_VARIABLE = "PERSONALIVE_FACE_MODEL"
LANDMARKS = 68
NEUTRAL_MESH = "generic_neutral_mesh.obj"
LANDMARK_FILE = "vertex_indices.json"
LANDMARK_KEY = "idx_to_landmark_verts"


class FaceModelError(InputError):
    """A face model that is missing, incomplete, or not an ICT-FaceKit model."""


@dataclass(frozen=True)
class FaceModel:
    """ICT-FaceKit head. V vertices, T texture coordinates, F faces, I identity and E expression shapes."""

    vertices: FloatArray  # (V, 3) the mean head, cm
    uv: FloatArray  # (T, 2) in [0, 1]
    faces: IntArray  # (F, 4) vertex numbers; the fourth is -1 for a triangle
    face_uvs: IntArray  # (F, 4) numbers into uv; the fourth is -1 for a triangle
    face_material: IntArray  # (F,) numbers into materials
    materials: tuple[str, ...]
    identity_deltas: FloatArray  # (I, V, 3) cm per standard deviation
    expression_deltas: FloatArray  # (E, V, 3) cm per unit coefficient
    expression_names: tuple[str, ...]
    landmark_vertices: IntArray  # (68,) vertex numbers of the usual 68 face landmarks

    @property
    def expression_index(self) -> dict[str, int]:
        """Place of every expression name in a coefficient vector."""
        return {name: place for place, name in enumerate(self.expression_names)}


def find_face_model() -> Path | None:
    """The face model that PERSONALIVE_FACE_MODEL names, else `../shared/ict-facekit` beside the repo, else None."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[4] / "shared" / "ict-facekit" / "ict_facekit.npz"
    return beside if beside.exists() else None


def load_face_model(path: Path | str) -> FaceModel:
    """Read a face model written by `save_face_model`.

    Raises:
        FaceModelError: the file is missing, is not an `.npz`, lacks an array or holds one of the wrong shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceModelError(
            f"face model not found: {path}; make one of the ICT-FaceKit release with `personalive data convert-obj`, "
            f"or set {ENVIRONMENT_VARIABLE}"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise FaceModelError(f"face model {path} is not a readable .npz: {error}") from error
    return _checked(arrays, path)


def save_face_model(model: FaceModel, path: Path | str) -> None:
    """Write `model` as one compressed `.npz`; the deltas as float16 (finer than a thousandth of a millimetre here)."""
    np.savez_compressed(
        path,
        vertices=model.vertices,
        uv=model.uv,
        faces=model.faces,
        face_uvs=model.face_uvs,
        face_material=model.face_material.astype(np.int8),
        materials=np.array(model.materials),
        identity_deltas=model.identity_deltas.astype(np.float16),
        expression_deltas=model.expression_deltas.astype(np.float16),
        expression_names=np.array(model.expression_names),
        landmark_vertices=model.landmark_vertices,
    )


def _checked(arrays: dict[str, NDArray[Any]], path: Path) -> FaceModel:
    """Arrays of a file -> FaceModel, or one clear line about what does not fit."""
    wanted = list(FaceModel.__dataclass_fields__)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        lacks = ", ".join(missing)
        raise FaceModelError(f"face model {path} lacks {lacks}; make it anew with `personalive data convert-obj`")
    vertices = arrays["vertices"].shape[0]
    shapes: dict[str, tuple[int | None, ...]] = {
        "vertices": (vertices, 3),
        "uv": (None, 2),
        "faces": (None, 4),
        "face_uvs": (arrays["faces"].shape[0], 4),
        "face_material": (arrays["faces"].shape[0],),
        "identity_deltas": (None, vertices, 3),
        "expression_deltas": (len(arrays["expression_names"]), vertices, 3),
        "landmark_vertices": (LANDMARKS,),
    }
    for name, shape in shapes.items():
        found = arrays[name].shape
        fits = len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=True))
        if not fits:
            raise FaceModelError(f"face model {path}: {name} has shape {found}, expected {shape}")
    for name in ("faces", "landmark_vertices"):
        if arrays[name].size and (arrays[name].max() >= vertices or arrays[name].min() < -1):
            raise FaceModelError(f"face model {path}: {name} points outside the {vertices} vertices")
    return FaceModel(
        vertices=arrays["vertices"].astype(np.float32),
        uv=arrays["uv"].astype(np.float32),
        faces=arrays["faces"].astype(np.int32),
        face_uvs=arrays["face_uvs"].astype(np.int32),
        face_material=arrays["face_material"].astype(np.int32),
        materials=tuple(str(name) for name in arrays["materials"]),
        identity_deltas=arrays["identity_deltas"].astype(np.float32),
        expression_deltas=arrays["expression_deltas"].astype(np.float32),
        expression_names=tuple(str(name) for name in arrays["expression_names"]),
        landmark_vertices=arrays["landmark_vertices"].astype(np.int32),
    )


@dataclass(frozen=True)
class _ObjMesh:
    vertices: FloatArray
    uv: FloatArray
    faces: IntArray
    face_uvs: IntArray
    face_material: IntArray
    materials: tuple[str, ...]


def convert_obj(folder: Path | str, out: Path | str) -> FaceModel:
    """Make the `.npz` from the ICT-FaceKit release (its folder `FaceXModel` of OBJ files) and return the model.

    Reads generic_neutral_mesh.obj, identity000.obj..., every other OBJ as an expression named by its file, and
    vertex_indices.json.

    Raises:
        FaceModelError: a file is missing or unreadable, or a shape has another number of vertices than the neutral one.
    """
    folder = Path(folder)
    if not (folder / NEUTRAL_MESH).is_file():
        raise FaceModelError(f"{folder} holds no {NEUTRAL_MESH}; point to FaceXModel of the ICT-FaceKit release")
    neutral = _read_mesh(folder / NEUTRAL_MESH)
    shapes = sorted(path for path in folder.glob("*.obj") if path.name != NEUTRAL_MESH)
    identities = [path for path in shapes if path.stem.startswith("identity")]
    expressions = [path for path in shapes if not path.stem.startswith("identity")]
    if not identities or not expressions:
        raise FaceModelError(f"{folder} needs identity*.obj and expression *.obj files beside {NEUTRAL_MESH}")
    model = FaceModel(
        vertices=neutral.vertices,
        uv=neutral.uv,
        faces=neutral.faces,
        face_uvs=neutral.face_uvs,
        face_material=neutral.face_material,
        materials=neutral.materials,
        identity_deltas=_deltas(identities, neutral.vertices),
        expression_deltas=_deltas(expressions, neutral.vertices),
        expression_names=tuple(path.stem for path in expressions),
        landmark_vertices=_read_landmarks(folder / LANDMARK_FILE, len(neutral.vertices)),
    )
    save_face_model(model, out)
    return model


def _deltas(paths: list[Path], neutral: FloatArray) -> FloatArray:
    """Offsets (shapes, V, 3) of the shapes in `paths` from the neutral vertices."""
    deltas = np.zeros((len(paths), *neutral.shape), np.float32)
    for place, path in enumerate(paths):
        vertices = _read_vertices(path)
        if vertices.shape != neutral.shape:
            raise FaceModelError(f"{path} has {len(vertices)} vertices, the neutral mesh {len(neutral)}")
        deltas[place] = vertices - neutral
    return deltas


def _read_landmarks(path: Path, vertices: int) -> IntArray:
    """The 68 landmark vertex numbers of vertex_indices.json."""
    try:
        numbers = np.array(json.loads(path.read_text())[LANDMARK_KEY], np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaceModelError(f"{path}: cannot read {LANDMARK_KEY}: {error!r}") from error
    if numbers.shape != (LANDMARKS,) or numbers.min() < 0 or numbers.max() >= vertices:
        raise FaceModelError(f"{path}: {LANDMARK_KEY} must hold {LANDMARKS} vertex numbers below {vertices}")
    return numbers


def _read_vertices(path: Path) -> FloatArray:
    """Only the vertex positions (V, 3) of an OBJ file."""
    try:
        rows = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
        return np.array(rows, np.float32).reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise FaceModelError(f"{path} is not a readable OBJ file: {error}") from error


def _read_mesh(path: Path) -> _ObjMesh:
    """Vertices, texture coordinates, triangles and quads with their materials of an OBJ file."""
    uv: list[list[float]] = []
    faces: list[list[int]] = []
    face_uvs: list[list[int]] = []
    face_material: list[int] = []
    materials: list[str] = []
    material = 0
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if words[0] == "vt":
                uv.append([float(words[1]), float(words[2])])
            elif words[0] == "usemtl":
                if words[1] not in materials:
                    materials.append(words[1])
                material = materials.index(words[1])
            elif words[0] == "f":
                if len(words) not in (4, 5):
                    raise FaceModelError(f"{path}, line {number}: only triangles and quads are supported")
                corners = [word.split("/") for word in words[1:]]
                padding = [-1] * (4 - len(corners))
                faces.append([int(corner[0]) - 1 for corner in corners] + padding)
                face_uvs.append([int(corner[1]) - 1 for corner in corners] + padding)
                face_material.append(material)
    except (OSError, ValueError, IndexError) as error:
        raise FaceModelError(f"{path} is not a readable OBJ file: {error}") from error
    if not faces:
        raise FaceModelError(f"{path} has no faces")
    return _ObjMesh(
        vertices=_read_vertices(path),
        uv=np.array(uv, np.float32).reshape(-1, 2),
        faces=np.array(faces, np.int32),
        face_uvs=np.array(face_uvs, np.int32),
        face_material=np.array(face_material, np.int32),
        materials=tuple(materials) or ("default",),
    )
