"""Where the networks run."""

from __future__ import annotations

import os

import torch

from personalive.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """A torch device by name; "auto": the first CUDA device, else the CPU. ConfigError if there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} cannot be used ({str(error).splitlines()[0]}); try auto or cpu") from error


def describe_device(device: torch.device) -> str:
    """For people: the GPU's name, or the CPU's threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads, {os.cpu_count()} cores)"


def precision_named(name: str) -> torch.dtype | None:
    """A precision by name; None for "auto". ConfigError for another one."""
    if name == "auto":
        return None
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigError(f"there is no precision {name!r}; choose auto, {', '.join(known)}")
    return known[name]
