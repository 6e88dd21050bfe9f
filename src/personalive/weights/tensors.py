"""Files of tensors, read as tensors only and never as code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from personalive.errors import WeightsError

PICKLES = (".pth", ".bin", ".pt", ".ckpt")
"""Endings of the files that `torch.load` may read, tensors only."""

CODE = (".pkl", ".pickle", ".joblib")
"""Endings of pickles that are no checkpoints: refused unopened."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of any kind, on the CPU. A {"state_dict": ...} around them is taken off.

    Raises:
        WeightsError: the file is missing, damaged, of an unknown kind, or holds anything but tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    refuse_code(path)
    if path.suffix not in PICKLES:
        raise WeightsError(f"{path}: a checkpoint ends in .safetensors, {', '.join(PICKLES)}")
    return _read_pickle(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. WeightsError where it is missing or damaged."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone. WeightsError as `read_safetensors`."""
    with _opened(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
        return metadata


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    _require_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({first_line(error)}): fetch or write it again"
        ) from error


def refuse_code(path: Path) -> None:
    """WeightsError for the ending of a pickle that is no checkpoint."""
    if path.suffix.lower() in CODE:
        raise WeightsError(
            f"{path}: pickles with code are never read, since they can do anything to this machine; use a checkpoint "
            f"of tensors only (.safetensors, {', '.join(PICKLES)})"
        )


def listing(kind: str, keys: Iterable[str]) -> str:
    """E.g. "5 missing (a, b, c, ...)", or nothing where there are none."""
    keys = list(keys)
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {kind} ({shown})" if keys else ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _require_file(path)
    try:
        data = _load(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path} holds more than tensors ({named[1] if named else 'or is no checkpoint'}): refused, since such a "
            "file can run code. Nothing of it was run: pickles with code are never read; use a checkpoint of tensors "
            "only"
        ) from error
    except Exception as error:  # a damaged pickle can fail anywhere in the reader
        raise WeightsError(f"{path} is not a whole PyTorch checkpoint: fetch it again") from error
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise WeightsError(f"{path} holds a {type(data).__name__}, not a table of tensors")
    foreign = [str(key) for key, value in data.items() if not isinstance(value, Tensor)]
    if foreign:
        raise WeightsError(f"{path} holds entries that are no tensors: {listing('foreign', foreign)}")
    return {str(key): value for key, value in data.items()}


def _load(path: Path) -> object:
    """The content as it lies on the disk, without a copy in memory, where the file's format allows that."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: give the checkpoint file itself")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
