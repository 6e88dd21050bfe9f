"""The perceptual term of stage 2: LPIPS where it is installed, else a stand-in that needs no download.

The stand-in is `losses.pixel_loss`: L1 plus L1 of the picture's gradients at three scales. It rewards edges in their
place as LPIPS does, but knows nothing of faces: expect softer skin and hair than with LPIPS.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from personalive.errors import ConfigError
from personalive.training.losses import pixel_loss

logger = logging.getLogger(__name__)

Perceptual = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Output and truth (N, 3, H, W) in [-1, 1], weight (N, 1, H, W) -> a scalar."""


def choose_perceptual(kind: Literal["auto", "lpips", "gradients"], device: torch.device) -> Perceptual:
    """The term a recipe asks for. Raises ConfigError when LPIPS is asked for by name and cannot be had."""
    if kind == "gradients":
        return pixel_loss
    if importlib.util.find_spec("lpips") is None:
        if kind == "lpips":
            raise ConfigError('perceptual "lpips" needs the package: pip install lpips, or set it to "gradients"')
        logger.info("lpips is not installed: the perceptual term is L1 of pixels and of gradients at three scales")
        return pixel_loss
    return _lpips(device)


def _lpips(device: torch.device) -> Perceptual:
    import lpips

    network: Any = lpips.LPIPS(net="vgg", spatial=True, verbose=False).to(device).eval().requires_grad_(False)

    def distance(output: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = (network(output, truth) * weight).mean()
        return result

    return distance
