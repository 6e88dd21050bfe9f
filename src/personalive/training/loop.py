"""One training loop for every stage: optimiser, EMA, log, samples, checkpoints, resume, budget, SIGTERM, processes.

A stage brings the modules that learn, the losses of one batch, a `validate` and a sheet of sample pictures. The loop
knows nothing else of it. Every batch is drawn from random numbers that are a function of (seed, step, batch, update):
a run that was interrupted, or spread over several processes, sees the same batches as one that was not.
"""

from __future__ import annotations

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
from personalive.training.checkpoint import TrainingError, restore, save, save_tensors
from personalive.training.learner import Learner
from personalive.training.log import Log
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

    `report(step, steps)` is called after every step. `shard`: several processes hold a part each of large networks.
    `people_at_once`: so many people are in memory, others every `steps_at_once` steps; None: all of them.
    """

    folder: Path
    budget_minutes: float | None = None
    resume: bool = True
    seed: int = 0
    device: str = "cpu"
    shard: bool = False
    people_at_once: int | None = None
    steps_at_once: int = 1000
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


@dataclass(frozen=True)
class Ended:
    """Where a run ended: its last validation, the step it reached, and whether the budget or a signal stopped it."""

    figures: dict[str, float]
    step: int
    stopped: bool


def train(stage: Stage, options: RunOptions, processes: Processes | None = None, until: int | None = None) -> Ended:
    """Run a stage until its last step, the step `until`, or the budget. Saves `STAGE.safetensors`.

    Of several processes the first one writes; the others end without figures. Raises TrainingError when a loss is not a
    number (the last good checkpoint stays) or a checkpoint is foreign, ConfigError when these processes cannot work by
    the stage's settings.
    """
    processes = processes or Processes(options.device, options.shard)
    if processes.first:
        options.folder.mkdir(parents=True, exist_ok=True)
    processes.accept(stage.optimisation)
    learner = Learner(stage, processes)
    checkpoint = options.folder / f"{stage.name}.checkpoint"
    step = restore(checkpoint, learner) if options.resume and checkpoint.exists() else 0
    processes.wait()  # nobody writes before everybody has read
    log = Log(options.folder, stage.name, fresh=step == 0) if processes.first else None
    begin, ending = time.monotonic(), False
    end = stage.optimisation.steps if until is None else min(until, stage.optimisation.steps)
    saving, looking = _Rhythm(options.checkpoint_minutes), _Rhythm(options.validate_minutes)
    with _Stop() as stop:
        while step < end:
            over = options.budget_minutes is not None and time.monotonic() - begin > options.budget_minutes * 60
            # What all processes do together they have to agree on; the first one's clock decides.
            wishes = (stop.asked or over, saving.due and processes.first, looking.due and processes.first)
            ending, save_now, look_now = processes.any(*wishes)
            if ending:
                break
            if save_now:
                with saving:
                    _save(checkpoint, learner, step)
            if look_now:
                with looking:
                    _look(learner, log, step)
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
    _save(checkpoint, learner, step)
    figures = _look(learner, log, step)
    trained = learner.trained()
    if log is not None:
        save_tensors(trained, options.folder / f"{stage.name}.safetensors", stage.config)
        log.close()
    return Ended({} if log is None else figures, step, ending)


class _Rhythm:
    """When something is due that takes time: every so many minutes, and never for more than a tenth of the run.

    For `with`: while it is done.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds, self._took, self._last = minutes * 60, 0.0, time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self._last > max(self._seconds, 9 * self._took)

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._last = time.monotonic()
        self._took = self._last - self._begin


def _save(path: Path, learner: Learner, step: int) -> None:
    """Write a checkpoint, in the first process; the others help where weights are sharded."""
    state = learner.state()
    if learner.processes.first:
        save(path, learner.stage, state, step)


def _look(learner: Learner, log: Log | None, step: int) -> dict[str, float]:
    """Validate and save the sample sheet with the averaged weights; equal weights give equal figures.

    In the first process, or in all of them where weights are sharded; only the first has a `log`.
    """
    processes, stage = learner.processes, learner.stage
    if not (processes.first or processes.sharded):
        return {}
    seeded(1234)
    with learner.averaged(), torch.no_grad(), processes.autocast(stage.optimisation):
        figures = stage.validate()
        sheet = stage.samples()
    if log is not None:
        log.validated(step, figures, sheet)
    return figures
