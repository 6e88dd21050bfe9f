"""The head mesh of the reference warp beside the shards: training reads it without a renderer or a face model."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from personalive.config import FaceMeshConfig
from personalive.errors import InputError, OutputError, WeightsError, output_error
from personalive.models.face_mesh import FaceMesh
from personalive.weights.load import load_state
from personalive.weights.tensors import read_safetensors

FILE = "face_mesh.safetensors"


def save_face_mesh(mesh: FaceMesh, folder: Path) -> Path:
    """Write `face_mesh.safetensors` into a folder, which is made where it is missing; returns the file's path.

    The file appears complete or not at all. Raises OutputError where it cannot be written.
    """
    path = folder / FILE
    part = folder / f".{FILE}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        save_file({name: tensor.contiguous() for name, tensor in mesh.state_dict().items()}, str(part))
        part.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    except Exception as error:  # safetensors has its own kind for a full disk
        raise OutputError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def load_face_mesh(folder: Path, config: FaceMeshConfig) -> FaceMesh:
    """Returns the head mesh of a data folder, of the sizes that `config` asks for, on the CPU.

    Raises InputError where the file is missing, damaged, or of other sizes.
    """
    path = folder / FILE
    advice = f"`personalive data render -o {folder}` writes it"
    if not path.is_file():
        raise InputError(f"{path} is missing, the head mesh that the reference warp is trained with: {advice}")
    mesh = FaceMesh(config)
    try:
        load_state(mesh, read_safetensors(path)[0], str(path))
    except WeightsError as error:
        raise InputError(f"{error}; {advice}, and the config's warp.mesh has to have its sizes") from error
    return mesh
