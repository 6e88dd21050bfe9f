"""The processes of one training run: which device, which share of the work, how their gradients become one.

accelerate starts and finds them (one process by itself is a run of one). Each has all weights, unless they are sharded
(`sharding.py`); after the backward passes of a step the gradients are added up over all processes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from personalive.device import choose_device
from personalive.errors import ConfigError
from personalive.training.recipe import Optimisation
from personalive.training.sharding import is_spread, shard

BUCKET = 1 << 24
"""Numbers of gradients that are added up at a time."""


class Processes:
    """This process among those of the run. `device`: where it computes; `rank` of `count`.

    `sharded`: each holds a part only of large networks' learning weights; alone, there is nothing to share.
    """

    def __init__(self, device: str = "auto", sharded: bool = False) -> None:
        self._accelerator = Accelerator(cpu=device == "cpu")
        # One process computes where it is told; several have a device each, which accelerate gives them.
        self.device: torch.device = choose_device(device) if self.count == 1 else self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.sharded = sharded and self.count > 1

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

    def accept(self, settings: Optimisation) -> None:
        """Raises ConfigError when these processes cannot work by these settings."""
        self.share(settings.accumulate)
        if self.sharded and settings.optimiser != "adamw":
            raise ConfigError(
                f"optimiser {settings.optimiser!r} needs whole weights, and --shard spreads them: set "
                'optimisation.optimiser to "adamw", or leave --shard out'
            )

    def spread(self, networks: Iterable[nn.Module], half: bool) -> None:
        """Shard what learns of the large networks, if this run is sharded; see `sharding.shard`."""
        if self.sharded:
            shard(networks, init_device_mesh(self.device.type, (self.count,)), half)

    def autocast(self, settings: Optimisation) -> AbstractContextManager[None]:
        """The precision of the recipe, for `with`."""
        wanted = settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every parameter's gradient by its sum over the processes, where one of them has any.

        Gradients of sharded parameters have been summed on their way already.
        """
        if self.count == 1:
            return
        whole = [parameter for parameter in parameters if not is_spread(parameter)]
        owners = self.total(torch.tensor([float(p.grad is not None) for p in whole], device=self.device)).tolist()
        for bucket in _buckets([p for p, count in zip(whole, owners, strict=True) if count]):
            parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket]
            sums = torch.split(self.total(torch.cat(parts)), [len(part) for part in parts])
            for parameter, total in zip(bucket, sums, strict=True):
                parameter.grad = total.view_as(parameter)

    def any(self, *wishes: bool) -> list[bool]:
        """Which of these a process wants: the same answer in all of them."""
        return [bool(wanted) for wanted in self.total(torch.tensor(wishes, device=self.device).float()).tolist()]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same in all of them."""
        if self.count == 1:
            return tensor
        summed: Tensor = self._accelerator.reduce(tensor, "sum")
        return summed

    def wait(self) -> None:
        """Until all processes have come here."""
        self._accelerator.wait_for_everyone()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type together, up to `BUCKET` numbers; a larger parameter by itself."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(p.numel() for p in bucket) + parameter.numel()
        if bucket and (size > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def seeded(*parts: int) -> random.Random:
    """Random numbers that are a function of `parts` alone: Python's are returned, torch's are set.

    A batch is drawn after `seeded(seed, step, batch, update)`: which process draws it, and whether the run was
    interrupted before, makes no difference.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    return random.Random(digest[7:])
