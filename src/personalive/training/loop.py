"""One training loop for every stage: optimiser, EMA, log, samples, checkpoints, resume, budget, SIGTERM.

A stage brings the modules that learn, one `loss` of one batch, a `validate` and a sheet of sample pictures. The loop
knows nothing else of it. A checkpoint restarts the run where it stopped: weights, EMA, optimiser, random states, step.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from personalive.errors import PersonaLiveError, WeightsError
from personalive.training.recipe import Optimisation

logger = logging.getLogger(__name__)


class TrainingError(PersonaLiveError):
    """A run that cannot go on: a loss that is not a number, a checkpoint of another stage."""


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    optimisation: Optimisation

    def modules(self) -> Mapping[str, nn.Module]:
        """The modules that learn or that hold trained buffers, by name; they are what is saved."""

    def learns(self, name: str) -> bool:
        """Whether the parameter of this dotted name gets gradients."""

    def loss(self, rng: random.Random, step: int, /) -> dict[str, Tensor]:
        """Draw one batch and compute its losses; "loss" is the one that is minimised."""

    def validate(self) -> dict[str, float]:
        """Figures on people held out from training."""

    def samples(self) -> np.ndarray[Any, Any] | None:
        """A picture (H, W, 3) uint8 to look at, or None."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how long: `folder` holds checkpoints, log and samples; times in minutes."""

    folder: Path
    budget_minutes: float | None = None
    resume: bool = True
    seed: int = 0
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 5.0


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

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.named: dict[str, nn.Parameter] = {}
        for prefix, module in stage.modules().items():
            for name, parameter in module.named_parameters():
                learns = stage.learns(f"{prefix}.{name}")
                parameter.requires_grad_(learns)
                if learns:
                    self.named[f"{prefix}.{name}"] = parameter
        settings = stage.optimisation
        matrices = [p for p in self.named.values() if p.ndim > 1]
        vectors = [p for p in self.named.values() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.rate,
            betas=settings.betas,
        )
        self.average = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    def update(self, loss: Tensor, step: int) -> float:
        """One optimiser step; returns the gradient norm before clipping."""
        settings = self.stage.optimisation
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.named.values()), settings.clip))
        self.optimiser.step()
        keep = min(settings.ema, (1 + step) / (20 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.named.values()), 1 - keep)
        return norm

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


def train(stage: Stage, options: RunOptions) -> dict[str, float]:
    """Run a stage until its last step or the budget. Saves `STAGE.safetensors`; returns the last validation.

    Raises TrainingError when a loss is not a number (the last good checkpoint stays) or a checkpoint is foreign.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    learner = _Learner(stage)
    checkpoint = options.folder / f"{stage.name}.checkpoint"
    step = _restore(checkpoint, stage, learner, rng) if options.resume and checkpoint.exists() else 0
    log = _Log(options.folder / f"{stage.name}.csv", fresh=step == 0)
    begin = saved = validated = time.monotonic()
    figures: dict[str, float] = {}
    with _Stop() as stop:
        while step < stage.optimisation.steps:
            now = time.monotonic()
            if stop.asked or (options.budget_minutes is not None and now - begin > options.budget_minutes * 60):
                break
            losses = stage.loss(rng, step)
            value = float(losses["loss"].detach())
            if not math.isfinite(value):
                raise TrainingError(f"stage {stage.name}, step {step}: the loss is {value}; resume from {checkpoint}")
            norm = learner.update(losses["loss"], step)
            step += 1
            log.add({k: float(v.detach()) for k, v in losses.items()}, norm)
            if step % 50 == 0:
                log.write(step, stage.optimisation.rate_at(step), time.monotonic() - begin)
            if now - saved > options.checkpoint_minutes * 60:
                _save(checkpoint, stage, learner, rng, step)
                saved = now
            if now - validated > options.validate_minutes * 60:
                with learner.averaged():
                    figures = _look(stage, options.folder, step)
                validated = time.monotonic()
    _save(checkpoint, stage, learner, rng, step)
    with learner.averaged():
        figures = _look(stage, options.folder, step)
        save_modules(stage.modules(), options.folder / f"{stage.name}.safetensors")
    return figures


class _Log:
    """Running means of the losses: one CSV row and one log line every few steps."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.sums: dict[str, float] = {}
        self.count = 0
        if fresh:
            path.unlink(missing_ok=True)

    def add(self, losses: Mapping[str, float], norm: float) -> None:
        for key, value in {**losses, "gradient": norm}.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1

    def write(self, step: int, rate: float, seconds: float) -> None:
        row = {"step": float(step), "seconds": round(seconds, 1), "rate": rate}
        row |= {key: round(value / self.count, 5) for key, value in self.sums.items()}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow(row.values())
        logger.info(" ".join(f"{key} {value:g}" for key, value in row.items()))
        self.sums, self.count = {}, 0


def _look(stage: Stage, folder: Path, step: int) -> dict[str, float]:
    """Validate and save the sample sheet, with no gradients and without touching the run's random state."""
    state = torch.random.get_rng_state()
    torch.manual_seed(1234)
    with torch.no_grad():
        figures = stage.validate()
        sheet = stage.samples()
    torch.random.set_rng_state(state)
    logger.info("validation at step %d: %s", step, " ".join(f"{k} {v:.4f}" for k, v in figures.items()))
    if sheet is not None:
        Image.fromarray(sheet).save(folder / f"{stage.name}.png")
    with (folder / f"{stage.name}.validation.csv").open("a", newline="") as file:
        csv.writer(file).writerow([step, *(f"{k}={v:.5f}" for k, v in figures.items())])
    return figures


def _save(path: Path, stage: Stage, learner: _Learner, rng: random.Random, step: int) -> None:
    version, internal, gauss = rng.getstate()
    state = {
        "stage": stage.name,
        "step": step,
        "modules": {name: module.state_dict() for name, module in stage.modules().items()},
        "average": learner.average,
        "optimiser": learner.optimiser.state_dict(),
        "torch": torch.random.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def _restore(path: Path, stage: Stage, learner: _Learner, rng: random.Random) -> int:
    try:
        state = torch.load(path, weights_only=True)
        if state["stage"] != stage.name:
            raise TrainingError(f"{path} is a checkpoint of stage {state['stage']!r}, not of {stage.name!r}")
        for name, module in stage.modules().items():
            module.load_state_dict(state["modules"][name])
        learner.average = {name: state["average"][name] for name in learner.named}
        learner.optimiser.load_state_dict(state["optimiser"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise TrainingError(f"{path} does not fit this run ({error}): move it away or use another --run") from error
    torch.random.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    rng.setstate((version, tuple(internal), gauss))
    logger.info("resumed %s at step %d", stage.name, state["step"])
    return int(state["step"])


def save_modules(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Float32 weights of some modules in one safetensors file, keys prefixed by the module's name."""
    from safetensors.torch import save_file

    tensors = {
        f"{prefix}.{name}": tensor.detach().contiguous()
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    part = path.with_suffix(".part")
    save_file(tensors, str(part))
    os.replace(part, path)


def load_modules(modules: Mapping[str, nn.Module], path: Path) -> None:
    """The inverse of `save_modules`, strict for each module named. Raises WeightsError naming the stage to run."""
    from safetensors.torch import load_file

    if not path.exists():
        raise WeightsError(f"{path} is missing: run `personalive train --stage {path.stem}` first")
    tensors = load_file(str(path))
    for prefix, module in modules.items():
        own = {key.removeprefix(prefix + "."): t for key, t in tensors.items() if key.startswith(prefix + ".")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit {prefix}: {str(error).splitlines()[-1].strip()}") from error
