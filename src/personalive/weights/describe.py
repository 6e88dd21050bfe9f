"""What a checkpoint says about itself, without reading its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from personalive.config import from_json
from personalive.errors import ConfigError, WeightsError
from personalive.weights.compact import SCALE
from personalive.weights.load import FORMAT


@dataclass(frozen=True)
class CheckpointInfo:
    """One file: its size in bytes, numbers in it, the side of the pictures that come out, and its training note."""

    path: Path
    size: int
    parameters: int
    output_size: int
    description: str


def describe_checkpoint(path: str | Path) -> CheckpointInfo:
    """Reads the header of a file that `save_networks` wrote. Raises WeightsError for any other file."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            entries = [key for key in file.keys() if not key.endswith(SCALE)]  # noqa: SIM118
            parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in entries)
            size = path.stat().st_size
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint ({error}): install or write it again") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} is not a checkpoint of this project")
    try:
        output_size = from_json(metadata.get("config", "")).output_size
    except ConfigError as error:
        raise WeightsError(f"{path}: its configuration is not of this version: {error}") from error
    return CheckpointInfo(path, size, parameters, output_size, metadata.get("description", ""))
