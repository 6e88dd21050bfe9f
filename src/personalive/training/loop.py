"""One training loop for every stage: optimiser, EMA, log, samples, checkpoints, resume, budget, SIGTERM, processes.

A stage brings the modules that learn, the losses of one batch, a `validate` and a sheet of sample pictures. The loop
knows nothing else of it. Every batch is drawn from random numbers that are a function of (seed, step, batch, update):
a run that was interrupted, or spread over several processes, sees the same batches as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.training.checkpoint import Progress, TrainingError, restore, save, save_modules
from personalive.training.log import Log
from personalive.training.optimiser import build_optimiser
from personalive.training.processes import Processes, seeded
from personalive.training.recipe import Optimisation

Losses = dict[str, Tensor]
"""Scalars by name. "loss" is the one that is minimised; the others are for the log."""


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    config: ModelConfig
    optimisation: Optimisation

    def modules(self) -> Mapping[str, nn.Module]:
        """The modules that learn or that hold trained buffers, by name; they are what is saved."""

    def learns(self, name: str) -> bool:
        """Whether the parameter of this dotted name gets gradients."""

    def losses(self, rng: random.Random, step: int, /) -> Iterator[Losses]:
        """Draw one batch and yield its losses: once, or once for each update that the batch is worth.

        Equally often for every batch of a step. The graph of one loss is gone when the next is asked for.
        """

    def validate(self) -> dict[str, float]:
        """Figures on people held out from training."""

    def samples(self) -> np.ndarray[Any, Any] | None:
        """A picture (H, W, 3) uint8 to look at, or None."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how long: `folder` holds checkpoints, log and samples; times in minutes.

    `report(step, steps)` is called after every step.
    """

    folder: Path
    budget_minutes: float | None = None
    resume: bool = True
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 5.0
    log_steps: int = 50
    report: Callable[[int, int], None] | None = None


class _Stop:
    """Turns the first SIGTERM or Ctrl-C into a request to stop after the current step."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class _Learner:
    """The stage's learning parameters with their optimiser and their moving average."""

    def __init__(self, stage: Stage, processes: Processes) -> None:
        self.stage, self.processes = stage, processes
        self.named: dict[str, nn.Parameter] = {}
        for prefix, module in stage.modules().items():
            for name, parameter in module.named_parameters():
                learns = stage.learns(f"{prefix}.{name}")
                parameter.requires_grad_(learns)
                if learns:
                    self.named[f"{prefix}.{name}"] = parameter
        self.optimiser = build_optimiser(self.named, stage.optimisation)
        self.average = {name: parameter.detach().clone() for name, parameter in self.named.items()}

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
        self.optimiser.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for index, batch in batches.items():
            seeded(seed, step, index, update)
            with self.processes.autocast(settings):
                losses = next(batch, None)
            if losses is None:
                return None
            (losses["loss"] / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                part = value.detach().double() / settings.accumulate
                means[name] = means[name] + part if name in means else part
        figures = dict(zip(means, self.processes.total(torch.stack(list(means.values()))).tolist(), strict=True))
        if not math.isfinite(figures["loss"]):
            raise TrainingError(f"stage {self.stage.name}, step {step}: the loss is {figures['loss']}")
        parameters: list[nn.Parameter] = list(self.named.values())
        self.processes.add_up(parameters)
        figures["gradient"] = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
        self.optimiser.step()
        keep = min(settings.ema, (1 + step) / (20 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list[Tensor](parameters), 1 - keep)
        return figures

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """For `with`: the modules carry the averaged weights inside, the live ones again outside."""
        live = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(live)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(values[name])


def train(stage: Stage, options: RunOptions, processes: Processes | None = None) -> dict[str, float]:
    """Run a stage until its last step or the budget. Saves `STAGE.safetensors`; returns the last validation.

    Of several processes the first one writes; the others return nothing. Raises TrainingError when a loss is not a
    number (the last good checkpoint stays) or a checkpoint is foreign.
    """
    processes = processes or Processes(options.device)
    if processes.first:
        options.folder.mkdir(parents=True, exist_ok=True)
    learner = _Learner(stage, processes)
    checkpoint = options.folder / f"{stage.name}.checkpoint"
    progress = Progress(stage, learner.optimiser, learner.average)
    step = restore(checkpoint, progress) if options.resume and checkpoint.exists() else 0
    processes.wait()  # nobody writes before everybody has read
    log = Log(options.folder, stage.name, fresh=step == 0) if processes.first else None
    begin = saved = validated = time.monotonic()
    with _Stop() as stop:
        while step < stage.optimisation.steps:
            now = time.monotonic()
            over = options.budget_minutes is not None and now - begin > options.budget_minutes * 60
            if float(processes.total(torch.tensor(float(stop.asked or over), device=processes.device))):
                break
            try:
                figures = learner.step(options.seed, step)
            except TrainingError as error:
                kept = f"; {checkpoint} is from before" if checkpoint.exists() else ""
                raise TrainingError(f"{error}{kept}: lower the rate and resume") from error
            step += 1
            if log is None:
                continue
            log.add(figures)
            if options.report is not None:
                options.report(step, stage.optimisation.steps)
            if step % options.log_steps == 0:
                log.write(step, stage.optimisation.rate_at(step), time.monotonic() - begin)
            if now - saved > options.checkpoint_minutes * 60:
                save(checkpoint, progress, step)
                saved = now
            if now - validated > options.validate_minutes * 60:
                with learner.averaged():
                    _look(stage, log, step)
                validated = time.monotonic()
    if log is None:
        return {}
    save(checkpoint, progress, step)
    with learner.averaged():
        figures = _look(stage, log, step)
        save_modules(stage.modules(), options.folder / f"{stage.name}.safetensors", stage.config)
    log.close()
    return figures


def _look(stage: Stage, log: Log, step: int) -> dict[str, float]:
    """Validate and save the sample sheet, with no gradients; equal weights give equal figures."""
    seeded(1234)
    with torch.no_grad():
        figures = stage.validate()
        sheet = stage.samples()
    log.validated(step, figures, sheet)
    return figures
