"""The smallest stage of training. A fixture of the loop's tests, no tests here."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import TOY
from personalive.training.recipe import Optimisation


class Regression:
    """The smallest stage: y = 2x by a linear layer, `updates` losses a batch."""

    name = "regression"

    def __init__(self, steps: int, bad_at: int = -1, updates: int = 1, **settings: Any) -> None:
        chosen: dict[str, Any] = {"batch": 4, "rate": 0.05, "warmup": 1, "weight_decay": 0.0, "optimiser": "adamw"}
        self.config = TOY
        self.optimisation = Optimisation(steps=steps, **(chosen | settings))
        torch.manual_seed(5)
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1)
        self.bad_at, self.updates = bad_at, updates
        self.seen: list[float] = []
        self.at_step: Callable[[int], None] = lambda step: None

    def modules(self) -> Mapping[str, nn.Module]:
        return {"layer": self.layer, "frozen": self.frozen}

    def learns(self, name: str) -> bool:
        return name.startswith("layer.")

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        self.at_step(step)
        for _ in range(self.updates):
            x = torch.randn(4, 1) + rng.random()
            self.seen.append(float(x.sum()))
            scale = math.nan if step == self.bad_at else 1.0
            yield {"loss": (self.layer(x) - 2 * x).square().mean() * scale}

    def validate(self) -> dict[str, float]:
        x = torch.arange(2.0)[:, None]
        return {"weight": float(self.layer(x).diff(dim=0))}

    def samples(self) -> np.ndarray[Any, Any] | None:
        return np.zeros((4, 4, 3), np.uint8)


def join_two(rank: int, port: int) -> None:
    """Makes this process one of two that meet on this machine, with one thread."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
