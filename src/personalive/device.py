"""Where the networks run, and how tensors get there and back without anybody waiting."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

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


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for the work that the device still has."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory the copy would wait; torch keeps this until it is done
    return tensor.to(device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers, or tuples of numbers, as a tensor that is sent to the device once. Not to be changed."""
    with torch.inference_mode(False):  # born in inference mode it could never take part in training later
        return torch.tensor(values, dtype=dtype, device=device)


class Arriving:
    """A tensor on its way from a device to the CPU; the device may still have to compute it."""

    def __init__(self, tensor: Tensor, done: torch.cuda.Event | None = None) -> None:
        self._tensor, self._done = tensor, done

    @property
    def ready(self) -> bool:
        """Whether `wait` would not wait."""
        return self._done is None or bool(self._done.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Tensor:
        """The tensor, on the CPU, as soon as it is complete."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensor


def fetch(
    work: Callable[[Tensor], Tensor], given: Tensor, beside: bool = False, reads: Iterable[Tensor] = ()
) -> Arriving:
    """`work(given)` on its way to the CPU. Nobody waits: a GPU is only told what to do.

    reads: tensors of the device that `work` reads, too.
    beside: in a CUDA stream of its own, so that what the GPU is told next may run at the same time; that takes the
    memory of both. On a CPU all is done on return, `beside` or not: its cores have nothing to spare for a second queue.
    """
    device = given.device
    if device.type != "cuda":
        return Arriving(work(given).cpu())
    queue = torch.cuda.current_stream(device)
    if beside:
        queue = _second_queue(device)
        queue.wait_stream(torch.cuda.current_stream(device))  # what `given` is computed from was told before
        for tensor in (given, *reads):
            tensor.record_stream(queue)  # its memory is not for others before this queue has read it
    with torch.cuda.stream(queue):
        result = work(given)
        # Pinned: into other memory the copy would wait.
        arrived = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        arrived.copy_(result, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(queue)
    return Arriving(arrived, done)


@functools.lru_cache(maxsize=16)
def _second_queue(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
