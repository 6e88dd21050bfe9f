"""Convolution kernels as 8-bit numbers in a file: half the size of float16, for networks that bear the rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

LEVELS, SCALE = ":levels", ":scale"
"""What a kernel's two entries in a file add to its name: int8 numbers, and the float32 size of one for each output."""

COMPACT = ("reference_unet.", "reference_warp.landmarks.", "reference_warp.surface.", "reference_warp.compositor.")
"""Networks, by how their entries' names begin, whose kernels are stored so."""


def compacted(tensors: Mapping[str, Tensor], names: Iterable[str] = COMPACT) -> dict[str, Tensor]:
    """The tensors with the kernels (O, I, h, w) of the named networks rounded to 8 bits for each output channel."""
    beginnings = tuple(names)
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(beginnings) or tensor.dim() != 4:
            found[key] = tensor
            continue
        scale = tensor.float().abs().amax((1, 2, 3)).clamp(min=1e-8) / 127  # (O,)
        found[key + LEVELS] = (tensor.float() / scale[:, None, None, None]).round().to(torch.int8)
        found[key + SCALE] = scale
    return found


def expanded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `compacted`: every kernel in float32. Other tensors are left as they are.

    Entries that lack their other half stay, so that a strict reader names them.
    """
    found = dict(tensors)
    for key in [key.removesuffix(LEVELS) for key in tensors if key.endswith(LEVELS)]:
        if key + SCALE in found:
            levels, scale = found.pop(key + LEVELS), found.pop(key + SCALE)
            found[key] = levels.float() * scale.float()[:, None, None, None]
    return found
