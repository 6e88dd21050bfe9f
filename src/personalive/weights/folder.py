"""A model as a folder: config.json and one safetensors file for each network. What `personalive convert` writes.

One file for each network, so that a large model is written and read with one network in memory twice, not all; or, of
a network larger than files may be, several, numbered.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from personalive.config import OFFICIAL, ModelConfig
from personalive.contracts import Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.plain_data import build, to_json
from personalive.weights.load import (
    FORMAT,
    NAMES,
    build_networks,
    load_state,
    modules,
    names_of,
    stored_tensors,
    write_tensors,
)
from personalive.weights.official import fill_official
from personalive.weights.record import unheard
from personalive.weights.tensors import read_safetensors

CONFIG = "config.json"

ENTRY = 128
"""Bytes at most that a tensor takes in a file's header beside its name."""


def is_model_folder(folder: Path) -> bool:
    """Whether this looks like a folder that `save_folder` or `convert` wrote."""
    return (folder / CONFIG).is_file() and any(_files(folder, name) for name in NAMES)


def save_folder(
    networks: Networks, folder: str | Path, dtype: torch.dtype = torch.float16, file_bytes: int | None = None
) -> None:
    """Write a model's folder; it appears complete or not at all. Parameters as `dtype`, buffers as they are.

    file_bytes: a network with more is split among several files, none larger unless one tensor alone is.

    Raises:
        WeightsError: a parameter is not finite, or does not fit into `dtype`.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    _write(networks.config, lambda name: modules(networks)[name], Path(folder), dtype, file_bytes)


def convert(
    source: str | Path,
    folder: str | Path,
    config: ModelConfig = OFFICIAL,
    dtype: torch.dtype = torch.float16,
    advance: Callable[[str], object] = unheard,
) -> None:
    """A folder in the published layout -> a model's folder, strictly, one network in memory at a time.

    `advance` hears the name of each network that is about to be converted.

    Raises:
        WeightsError: a file is missing, damaged, holds code, does not fit its network, or does not fit into `dtype`.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    networks = build_networks(config, "meta", torch.float32)

    def filled(name: str) -> nn.Module:
        advance(name)
        for done in modules(networks).values():
            done.to("meta")
        fill_official(networks, name, Path(source))
        return modules(networks)[name]

    _write(config, filled, Path(folder), dtype)


def load_folder(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Networks:
    """The networks of a model's folder, in evaluation mode.

    Raises:
        WeightsError: a file is missing, damaged, foreign, or not what the configuration says.
    """
    folder = Path(folder)
    networks = build_networks(read_config(folder), "meta", dtype)
    for name, module in modules(networks).items():
        tensors: dict[str, Tensor] = {}
        for file in _files(folder, name) or [folder / f"{name}.safetensors"]:
            tensors |= read_safetensors(file)[0]
        load_state(module, tensors, str(folder / f"{name}.safetensors"))
        module.to(device)
    return networks


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model's folder. WeightsError where it is missing or not of this version."""
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise WeightsError(f"{path} is not the configuration of a model of this project")
        return build(ModelConfig, data.get("config"), "config")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): fetch or convert the model again") from error
    except ConfigError as error:
        raise WeightsError(f"{path}: its configuration is not of this version: {error}") from error


def _write(
    config: ModelConfig,
    network: Callable[[str], nn.Module],
    folder: Path,
    dtype: torch.dtype,
    file_bytes: int | None = None,
) -> None:
    """Ask for one network after the other, and write it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder: choose another one")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name in names_of(config):
            _write_network(network(name), name, temporary, dtype, file_bytes)
        text = json.dumps({"format": FORMAT, "config": json.loads(to_json(config))}, indent=1)
        (temporary / CONFIG).write_text(text + "\n", "utf-8")
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_network(module: nn.Module, name: str, folder: Path, dtype: torch.dtype, file_bytes: int | None) -> None:
    parts = _split(stored_tensors(module, name, dtype), file_bytes)
    for number, part in enumerate(parts, 1):
        stem = name if len(parts) == 1 else f"{name}-{number:05d}-of-{len(parts):05d}"
        write_tensors(part, folder / f"{stem}.safetensors", {"format": FORMAT})


def _files(folder: Path, name: str) -> list[Path]:
    """A network's file, or its numbered ones, as far as they are there."""
    whole = folder / f"{name}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{name}-?????-of-?????.safetensors"))


def _split(tensors: dict[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """The tensors in as few groups as their order allows, of at most `limit` bytes each with what a file adds."""
    groups: list[dict[str, Tensor]] = [{}]
    size = ENTRY
    for key, tensor in tensors.items():
        more = tensor.nbytes + len(key) + ENTRY
        if limit is not None and groups[-1] and size + more > limit:
            groups.append({})
            size = ENTRY
        groups[-1][key] = tensor
        size += more
    return groups
