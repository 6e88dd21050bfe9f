"""What a run keeps: checkpoints to go on from, and the trained modules of a finished stage. Both carry their config."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from personalive.config import ModelConfig, from_json
from personalive.errors import PersonaLiveError, WeightsError
from personalive.plain_data import to_json

if TYPE_CHECKING:
    from personalive.training.learner import Learner
    from personalive.training.loop import Stage

logger = logging.getLogger(__name__)


class TrainingError(PersonaLiveError):
    """A run that cannot go on: a loss that is not a number, a checkpoint of another stage or config."""


def save(path: Path, stage: Stage, state: dict[str, Any], step: int) -> None:
    """Write a checkpoint of a stage (`Learner.state`); the file is the old one or the new one, never half of it."""
    state = {"stage": stage.name, "config": to_json(stage.config), "step": step, **state}
    part = path.with_suffix(".part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
        part.unlink(missing_ok=True)
        raise TrainingError(f"cannot write {path} ({error}); the checkpoint before it is kept") from error


def reached(path: Path) -> int:
    """The step of a checkpoint; 0 where there is none. A file that is none is `restore`'s to complain of: 0 as well."""
    try:
        return int(torch.load(path, weights_only=True, map_location="cpu", mmap=True)["step"])
    except Exception:
        return 0


def restore(path: Path, learner: Learner) -> int:
    """The inverse of `save`: fills the stage, its optimiser and its average, and returns the step.

    Raises TrainingError for a file that is no checkpoint, or one of another stage or config.
    """
    stage = learner.stage
    advice = "move it away, use another --run, or begin anew with --fresh"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        if state["stage"] != stage.name:
            raise TrainingError(f"{path} is a checkpoint of stage {state['stage']!r}, not of {stage.name!r}: {advice}")
        _check_config(path, state["config"], stage.config)
        learner.load(state)
    except TrainingError:
        raise
    except Exception as error:  # torch.load raises half a dozen kinds for a file that is not its own
        raise TrainingError(f"{path} does not fit this run ({_line(error)}): {advice}") from error
    logger.info("resumed %s at step %d", stage.name, state["step"])
    return int(state["step"])


def _check_config(path: Path, text: str, config: ModelConfig) -> None:
    if text != to_json(config):
        raise TrainingError(f"{path} belongs to another config ({_difference(from_json(text), config)}): use its own")


def _difference(theirs: ModelConfig, ours: ModelConfig) -> str:
    """The first field that differs, for an error message."""

    def walk(a: object, b: object, where: str) -> str | None:
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            for field in dataclasses.fields(a):
                found = walk(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}".lstrip("."))
                if found:
                    return found
            return None
        return None if a == b else f"{where} is {a!r} there, {b!r} here"

    return walk(theirs, ours, "") or "no field differs"


def save_modules(modules: Mapping[str, nn.Module], path: Path, config: ModelConfig) -> None:
    """Float32 weights of some modules in one safetensors file, keys prefixed by the module's name."""
    save_tensors({name: module.state_dict() for name, module in modules.items()}, path, config)


def save_tensors(modules: Mapping[str, Mapping[str, Tensor]], path: Path, config: ModelConfig) -> None:
    """The same for the tensors of modules, as their `state_dict` names them."""
    from safetensors.torch import save_file

    tensors = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, state in modules.items()
        for name, tensor in state.items()
    }
    part = path.with_suffix(".part")
    save_file(tensors, str(part), metadata={"config": to_json(config)})
    os.replace(part, path)


def load_modules(modules: Mapping[str, nn.Module], path: Path) -> None:
    """The inverse of `save_modules`, strict for each module named. Raises WeightsError naming the stage to run."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise WeightsError(f"{path} is missing: run `personalive train --stage {path.stem}` first")
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file ({_line(error)}): train its stage again") from error
    for prefix, module in modules.items():
        own = {key.removeprefix(prefix + "."): t for key, t in tensors.items() if key.startswith(prefix + ".")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit {prefix}: {str(error).splitlines()[-1].strip()}") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
