"""The processes of one training run: which device, which share of the work, how their gradients become one.

accelerate starts and finds them (one process by itself is a run of one). Each has all weights; after the backward
passes of a step the gradients are added up over all processes in one flat buffer, so that the sum does not depend on
how the step's batches were spread over them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from personalive.device import choose_device
from personalive.errors import ConfigError
from personalive.training.recipe import Optimisation


class Processes:
    """This process among those of the run. `device`: where it computes; `rank` of `count`."""

    def __init__(self, device: str = "auto") -> None:
        self._accelerator = Accelerator(cpu=device == "cpu")
        # One process computes where it is told; several have a device each, which accelerate gives them.
        self.device: torch.device = choose_device(device) if self.count == 1 else self._accelerator.device
        self.rank: int = self._accelerator.process_index

    @property
    def count(self) -> int:
        """How many processes share the run."""
        return int(self._accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, batches: int) -> range:
        """This process's share of a step's batches. Raises ConfigError when they cannot be shared evenly."""
        if batches % self.count:
            raise ConfigError(
                f"{self.count} processes cannot share {batches} batches evenly: set optimisation.accumulate to a "
                f"multiple of {self.count}"
            )
        return range(self.rank, batches, self.count)

    def autocast(self, settings: Optimisation) -> AbstractContextManager[None]:
        """The precision of the recipe, for `with`."""
        wanted = settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every parameter's gradient by its sum over the processes; no gradient counts as zeros."""
        if self.count == 1:
            return
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        total: Tensor = self.total(torch.cat([part.flatten() for part in parts]))
        at = 0
        for parameter in parameters:
            parameter.grad = total[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same in all of them."""
        if self.count == 1:
            return tensor
        summed: Tensor = self._accelerator.reduce(tensor, "sum")
        return summed

    def wait(self) -> None:
        """Until all processes have come here."""
        self._accelerator.wait_for_everyone()


def seeded(*parts: int) -> random.Random:
    """Random numbers that are a function of `parts` alone: Python's are returned, torch's are set.

    A batch is drawn after `seeded(seed, step, batch, update)`: which process draws it, and whether the run was
    interrupted before, makes no difference.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    return random.Random(digest[7:])
