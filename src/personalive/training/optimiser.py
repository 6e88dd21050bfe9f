"""The optimisers of a recipe: Muon with AdamW, AdamW alone as in the paper, or AdamW with its state in 8 bits.

Muon (Jordan and others, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, so that all its
directions learn at one pace; a convolution's kernel counts as a matrix (out, in * k * k). Its update is scaled to the
root mean square of an AdamW update, so that both share one learning rate (Liu and others, 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from personalive.errors import ConfigError
from personalive.training.recipe import Optimisation

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration."""


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Roughly U V^T of a matrix (..., m, n) = U S V^T, by Newton-Schulz iterations: singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.mT if tall else x
    return result


class MuonAdamW(torch.optim.Optimizer):
    """Groups carry `muon` (True: matrices and kernels, else AdamW), `lr`, `weight_decay`, `betas`, `momentum`."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "momentum": 0.95, "weight_decay": 0.0, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. `closure` is for torch's signature: there is none."""
        if closure is not None:
            raise ValueError("this optimiser takes no closure")
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)

    @staticmethod
    def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)
        scale = 0.2 * max(matrix.shape) ** 0.5
        parameter.add_(orthogonalise(matrix).view_as(parameter), alpha=-group["lr"] * scale)

    @staticmethod
    def _adamw(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        step = state.setdefault("step", torch.zeros(()))
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        square = state.setdefault("square", torch.zeros_like(parameter))
        step += 1
        mean.lerp_(gradient, 1 - first)
        square.lerp_(gradient.square(), 1 - second)
        scale = (square / (1 - second ** float(step))).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean / (1 - first ** float(step)), scale, value=-group["lr"])


EMBEDDINGS = ("conv_in", "conv_out", "position", "time_emb", "class_embedding", "expression_head", "whitening")
"""Matrices that Muon leaves to AdamW: what stands at the ends of a network, and tables that are looked up."""


def build_optimiser(named: Mapping[str, nn.Parameter], settings: Optimisation) -> torch.optim.Optimizer:
    """The recipe's optimiser for parameters by their dotted names; vectors are never decayed.

    Raises ConfigError when 8-bit states are asked for and bitsandbytes is not installed.
    """

    def is_matrix(name: str) -> bool:
        return named[name].ndim > 1 and not (settings.optimiser == "muon" and any(e in name for e in EMBEDDINGS))

    matrices = [parameter for name, parameter in named.items() if is_matrix(name)]
    others = [parameter for name, parameter in named.items() if not is_matrix(name)]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimiser == "muon":
        for group in groups:
            group["muon"] = group["params"] is matrices
        return MuonAdamW(groups, settings.rate, settings.betas)
    if settings.optimiser == "adamw8bit":
        try:
            import bitsandbytes
        except ImportError as error:
            raise ConfigError("optimiser adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
        optimiser: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.rate, betas=settings.betas)
        return optimiser
    # Fused: the other ways need temporaries as large as all weights.
    return torch.optim.AdamW(groups, lr=settings.rate, betas=settings.betas, fused=True)
