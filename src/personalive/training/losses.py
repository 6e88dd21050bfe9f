"""Objectives shared by the stages: region weights, multi-scale gradient loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

# Of the 68 landmarks: brows, eyes, mouth; and how wide their weight spreads, in units of half the image side.
REGIONS = ((17, 22, 0.1), (22, 27, 0.1), (36, 42, 0.12), (42, 48, 0.12), (48, 68, 0.17))


def region_weights(landmarks: Tensor, side: int, detail: float, face: float = 0.7, rest: float = 0.5) -> Tensor:
    """Loss weights (N, 1, side, side) from landmarks (N, 68, 2): `detail` at brows, eyes, mouth, `face`, and `rest`."""
    centres = (torch.arange(side, device=landmarks.device) + 0.5) / side * 2 - 1

    def blob(points: Tensor, spread: float) -> Tensor:
        middle = points.mean(1)  # (N, 2)
        across = torch.exp(-((centres - middle[:, :1]) ** 2) / (2 * spread**2))  # (N, side)
        down = torch.exp(-((centres - middle[:, 1:]) ** 2) / (2 * spread**2))
        return (down[:, :, None] * across[:, None])[:, None]

    nothing = torch.zeros((), device=landmarks.device)
    details = sum((blob(landmarks[:, first:last], spread) for first, last, spread in REGIONS), nothing)
    return rest + detail * details.clamp(max=1.0) + face * blob(landmarks, 0.45)


def pixel_loss(output: Tensor, target: Tensor, weight: Tensor, scales: int = 3) -> Tensor:
    """Weighted L1 plus L1 of the image gradients at several scales, a mean; (N, 3, H, W), weight (N, 1, H, W)."""
    total = ((output - target).abs() * weight).mean()
    for scale in range(scales):
        if scale:
            output, target, weight = (functional.avg_pool2d(x, 2) for x in (output, target, weight))
        difference = output - target
        down = difference[..., 1:, :] - difference[..., :-1, :]
        across = difference[..., 1:] - difference[..., :-1]
        strength = 1.0 / (1.0 + 0.5 * scale)
        total = total + strength * (down.abs() * weight[..., 1:, :]).mean()
        total = total + strength * (across.abs() * weight[..., 1:]).mean()
    return total


@torch.no_grad()
def channel_weights(decode: Callable[[Tensor], Tensor], latents: Tensor, step: float = 0.3) -> Tensor:
    """How much each latent channel matters in pixels: (N, C, h, w) -> weights (C, 1, 1) with mean 1.

    Root mean square change of the decoded picture when the channel moves by `step`. Channels of equal variance are
    far from equal in the picture: the first carries brightness, the last fine grain.
    """
    still = decode(latents)
    moves = torch.eye(latents.shape[1], device=latents.device)[:, None, :, None, None] * step  # (C, 1, C, 1, 1)
    change = torch.stack([(decode(latents + move) - still).square().mean().sqrt() for move in moves])
    return (change / change.mean())[:, None, None]


def charbonnier(difference: Tensor, epsilon: float = 0.1) -> Tensor:
    """sqrt(d^2 + eps^2): squared near zero, absolute far from it, elementwise."""
    return (difference.square() + epsilon**2).sqrt()
