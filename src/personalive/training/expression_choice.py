"""Whether the expression reader's hidden layer counts: decided on people held out, kept beside the reader."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from personalive.models.reference_warp import ExpressionReader
from personalive.training.checkpoint import load_modules


class HiddenLayerChoice(nn.Module):
    """One number: 1 where the hidden layer counts, 0 where the linear map is as good alone."""

    counts: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.ones(()))


def load_expression(reader: ExpressionReader, path: Path) -> None:
    """Fill a reader from a run folder's `expression.safetensors`; its hidden layer adds 0 where it does not count.

    A file of a model that the run began with has the reader alone. Raises WeightsError like `load_modules`.
    """
    from safetensors import safe_open

    load_modules({"expression": reader}, path)
    choice = HiddenLayerChoice()
    with safe_open(str(path), "pt") as file:
        chosen = "choice.counts" in file.keys()  # noqa: SIM118 (not a mapping)
    if chosen:
        load_modules({"choice": choice}, path)
    if not bool(choice.counts):
        nn.init.zeros_(reader.second.weight), nn.init.zeros_(reader.second.bias)
