"""Sample pictures of a run: rows of images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def strip(rows: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    """Rows of images, each (N, 3, H, W) in [0, 1], as one picture (rows * H, N * W, 3) uint8."""
    lines = [torch.cat(list(row.clamp(0, 1)), -1) for row in rows]  # each (3, H, N * W)
    sheet = torch.cat(lines, -2).permute(1, 2, 0)  # (rows * H, N * W, 3)
    return (sheet * 255).round().byte().numpy()
