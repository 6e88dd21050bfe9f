"""What learns of a stage: its parameters, their optimiser and their moving average, over all processes of a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from personalive.training.checkpoint import TrainingError
from personalive.training.masters import Masters
from personalive.training.optimiser import build_optimiser
from personalive.training.processes import Processes, seeded
from personalive.training.sharding import is_spread, part, whole

if TYPE_CHECKING:
    from personalive.training.loop import Losses, Stage


def mark(stage: Stage) -> dict[str, nn.Parameter]:
    """All parameters of a stage by their dotted names, told whether they learn."""
    named = {f"{prefix}.{n}": p for prefix, module in stage.modules().items() for n, p in module.named_parameters()}
    for name, parameter in named.items():
        parameter.requires_grad_(stage.learns(name))
    return named


def halve(parameter: nn.Parameter) -> None:
    """Hold a matrix or kernel in bfloat16. Vectors are small, and norms want them in full."""
    if parameter.ndim > 1:
        parameter.data = parameter.data.to(torch.bfloat16)


def running_statistics(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The running means and variances of all batch norms, by their dotted names: they are averaged like weights."""
    return {
        ".".join(filter(None, (prefix, path, name))): buffer
        for prefix, module in modules.items()
        for path, part in module.named_modules()
        if isinstance(part, nn.BatchNorm2d)
        for name, buffer in part.named_buffers()
        if buffer.is_floating_point()
    }


@torch.no_grad()
def _fill(buffers: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        buffer.copy_(values[name])


class Learner:
    """The stage's learning parameters with their optimiser and their moving average.

    From then on the modules hold their weights as the recipe says (`Optimisation.weights`), and spread over the
    processes where they are sharded.
    """

    def __init__(self, stage: Stage, processes: Processes) -> None:
        self.stage, self.processes = stage, processes
        settings, modules = stage.optimisation, stage.modules()
        mark(stage)
        half = settings.weights == "bfloat16"
        processes.spread(modules.values(), half)
        named = mark(stage)  # those that are sharded are others now
        self.named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self.masters = Masters(self.named, settings)
        self.optimiser = build_optimiser(self.masters.tensors, settings)
        self.average = {name: master.detach().clone() for name, master in self.masters.tensors.items()}
        self.statistics = running_statistics(modules)
        self.average_statistics = {name: buffer.clone() for name, buffer in self.statistics.items()}
        self._frozen: dict[str, Tensor] = {}  # in full precision, where the modules hold less
        for name, parameter in named.items():
            if half and not is_spread(parameter):
                if name not in self.named:
                    self._frozen[name] = parameter.detach().cpu()
                halve(parameter)

    def step(self, seed: int, step: int) -> dict[str, float]:
        """The updates of one step's batches; returns the means of the losses over batches and updates.

        Raises TrainingError, in every process, when a loss is not a number; the weights are then still good.
        """
        settings = self.stage.optimisation
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        share = self.processes.share(settings.accumulate)
        batches = {index: self.stage.losses(seeded(seed, step, index), step) for index in share}
        sums: dict[str, float] = {}
        update = 0
        while (found := self._update(batches, seed, step, update)) is not None:
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
            update += 1
        return {name: value / update for name, value in sums.items()}

    def _update(
        self, batches: Mapping[int, Iterator[Losses]], seed: int, step: int, update: int
    ) -> dict[str, float] | None:
        """One optimiser step on the next loss of each batch, or None when they have no more."""
        settings = self.stage.optimisation
        means: dict[str, Tensor] = {}
        for index, batch in batches.items():
            seeded(seed, step, index, update)
            with self.processes.autocast(settings):
                losses = next(batch, None)
            if losses is None:
                return None
            (losses["loss"] / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                share = value.detach().double() / settings.accumulate
                means[name] = means[name] + share if name in means else share
        figures = dict(zip(means, self.processes.total(torch.stack(list(means.values()))).tolist(), strict=True))
        if not math.isfinite(figures["loss"]):
            raise TrainingError(f"stage {self.stage.name}, step {step}: the loss is {figures['loss']}")
        self.processes.add_up(list(self.named.values()))
        self.masters.take_gradients()
        figures["gradient"] = self._clip(settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.masters.show()
        keep = min(settings.ema, (1 + step) / (20 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list[Tensor](self.masters.tensors.values()), 1 - keep)
            for name, average in self.average_statistics.items():
                average.lerp_(self.statistics[name], 1 - keep)
        return figures

    def _clip(self, limit: float) -> float:
        """Scale the masters' gradients down to a common norm of `limit`; the norm that they had."""
        kept: dict[bool, list[Tensor]] = {False: [], True: []}  # whole, and spread over the processes
        for name, master in self.masters.tensors.items():
            if master.grad is not None:
                kept[is_spread(self.named[name])].append(master.grad)
        norm = torch.nn.utils.get_total_norm(kept[False])
        if self.processes.sharded:
            own = torch.nn.utils.get_total_norm(kept[True]).square().to(self.processes.device)
            norm = (norm.square() + self.processes.total(own).to(norm.device)).sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.masters.tensors.values(), limit, norm)
        return float(norm)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """For `with`: the modules carry the averaged weights and statistics inside, the live ones again outside."""
        live = {name: buffer.clone() for name, buffer in self.statistics.items()}
        with self.masters.replaced(self.average):
            _fill(self.statistics, self.average_statistics)
            try:
                yield
            finally:
                _fill(self.statistics, live)

    def state(self) -> dict[str, Any]:
        """Everything that changes, whole and in float32, however it is held: for a checkpoint.

        Every process has to ask; only the first one gets the values of what is sharded.
        """
        return {
            "modules": self._modules({name: self._whole(name, m) for name, m in self.masters.tensors.items()}),
            "average": {name: self._whole(name, value) for name, value in self.average.items()}
            | self.average_statistics,
            "optimiser": self._states(self.optimiser.state_dict(), self._whole),
        }

    def trained(self) -> dict[str, dict[str, Tensor]]:
        """The modules' tensors with the averaged weights, whole and in float32; for the processes see `state`."""
        averages = {name: self._whole(name, value) for name, value in self.average.items()}
        return self._modules(averages | self.average_statistics)

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`. Raises ValueError or KeyError where something does not fit."""
        for prefix, module in self.stage.modules().items():
            saved, present = state["modules"][prefix], module.state_dict()
            if saved.keys() != present.keys():
                raise ValueError(f"{prefix} has other tensors: {sorted(saved.keys() ^ present.keys())[0]}")
            for name, tensor in present.items():
                value, full = saved[name], f"{prefix}.{name}"
                if value.shape != tensor.shape:
                    raise ValueError(f"{full} is {tuple(value.shape)} there, {tuple(tensor.shape)} here")
                if full in self.named:
                    self.masters.tensors[full].copy_(part(value, self.named[full]))
                    self.average[full].copy_(part(state["average"][full], self.named[full]))
                else:
                    tensor.copy_(value)
                    if full in self.statistics:  # earlier checkpoints have no average of them
                        self.average_statistics[full].copy_(state["average"].get(full, value))
                    if full in self._frozen:
                        self._frozen[full] = value.clone()
        self.masters.show()
        own = self._states(state["optimiser"], lambda name, value: part(value, self.named[name]).clone())
        self.optimiser.load_state_dict(own)

    def _whole(self, name: str, value: Tensor) -> Tensor:
        """What belongs to a parameter, of all processes; memory holds it once: others than the first get nothing."""
        if not is_spread(self.named[name]):
            return value.detach()
        everything = whole(value, self.named[name])
        return everything.cpu() if self.processes.first else everything.new_empty(0)

    def _states(self, state: dict[str, Any], change: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """An optimiser's state dict with what is shaped like a sharded parameter changed; its step counts stay."""
        names = {id(master): name for name, master in self.masters.tensors.items()}
        order = [names[id(master)] for group in self.optimiser.param_groups for master in group["params"]]
        states = {
            index: {
                key: change(order[index], value) if isinstance(value, Tensor) and value.ndim else value
                for key, value in values.items()
            }
            for index, values in state["state"].items()
        }
        return state | {"state": states}

    def _modules(self, learned: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The state of every module, with these values of what learns and exact ones of what does not."""
        exact = {**self._frozen, **learned}
        return {
            prefix: {name: exact.get(f"{prefix}.{name}", value) for name, value in module.state_dict().items()}
            for prefix, module in self.stage.modules().items()
        }
