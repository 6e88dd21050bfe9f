"""How much the expression reader's hidden layer counts: decided on people held out, kept beside the reader."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from personalive.models.reference_warp import ExpressionReader
from personalive.training.checkpoint import load_modules


class HiddenShare(nn.Module):
    """One number: the share in [0, 1] of the hidden layer's output that is added to the linear map's."""

    share: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(()))


def load_expression(reader: ExpressionReader, path: Path) -> None:
    """Fill a reader from a run folder's `expression.safetensors`; its hidden layer adds the share that was decided on.

    A file of a model that the run began with has the reader alone. Raises WeightsError like `load_modules`.
    """
    from safetensors import safe_open

    load_modules({"expression": reader}, path)
    hidden = HiddenShare()
    with safe_open(str(path), "pt") as file:
        decided = "hidden.share" in file.keys()  # noqa: SIM118 (not a mapping)
    if decided:
        load_modules({"hidden": hidden}, path)
    with torch.no_grad():
        for parameter in reader.second.parameters():
            parameter.mul_(hidden.share)
