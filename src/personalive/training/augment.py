"""What happens to a driving picture before the motion networks see it in training (spec section 4, stage 1).

Rendered faces are clean and look alike; cameras are not. Colour, blur, noise, occlusion and an affine move make the
motion networks look at shape alone. The affine move changes the ground truth too, exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as functional
from torch import Tensor

from personalive.contracts import HeadMotion
from personalive.motion.keypoints import pose_keypoints


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.rand(count) * (high - low) + low


def colour(images: Tensor) -> Tensor:
    """Random gain, gamma, contrast, saturation and tint per image; (N, 3, H, W) in [0, 1]."""
    n = len(images)
    grey = images.mean(1, keepdim=True)
    keep = _uniform(n, -0.1, 1.3).clamp(min=0.0)[:, None, None, None]
    images = grey + (images - grey) * keep
    tint = 1 + 0.1 * torch.randn(n, 3, 1, 1)
    images = (images * tint * _uniform(n, 0.7, 1.25)[:, None, None, None]).clamp(1e-3, 1)
    images = images ** torch.exp(0.25 * torch.randn(n))[:, None, None, None]
    pivot = images.mean((1, 2, 3), keepdim=True)
    return ((images - pivot) * _uniform(n, 0.6, 1.3)[:, None, None, None] + pivot).clamp(0, 1)


def degrade(images: Tensor) -> Tensor:
    """Lost resolution, sensor noise, a light gradient and an occluding patch on some; (N, 3, H, W) in [0, 1]."""
    n, _, height, width = images.shape
    if torch.rand(()) < 0.5:
        factor = float(_uniform(1, 0.4, 0.9))
        small = functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
        soft = functional.interpolate(small, size=(height, width), mode="bilinear")
        images = torch.where(torch.rand(n, 1, 1, 1) < 0.6, soft, images)
    ramp = torch.linspace(-1, 1, width)[None, None, None] * torch.randn(n, 1, 1, 1)
    ramp = ramp + torch.linspace(-1, 1, height)[None, None, :, None] * torch.randn(n, 1, 1, 1)
    images = images * (1 + 0.15 * ramp)
    images = images + torch.randn_like(images) * (0.035 * torch.rand(n, 1, 1, 1))
    for i in range(n):
        if torch.rand(()) < 0.15:
            h, w = int(height * _uniform(1, 0.08, 0.3)), int(width * _uniform(1, 0.08, 0.3))
            y, x = int(torch.randint(height - h, (1,))), int(torch.randint(width - w, (1,)))
            images[i, :, y : y + h, x : x + w] = torch.rand(3, 1, 1)
    return images.clamp(0, 1)


def affine(images: Tensor, head: HeadMotion) -> tuple[Tensor, HeadMotion]:
    """A random in-plane rotation, zoom and shift of (N, 3, H, W) images and of their ground truth."""
    n = len(images)
    turn, zoom = _uniform(n, -25, 25), torch.exp(0.18 * torch.randn(n)).clamp(0.6, 1.6)
    shift = 0.16 * torch.randn(n, 2)
    cos, sin = torch.cos(turn * math.pi / 180), torch.sin(turn * math.pi / 180)
    forward = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (N, 2, 2) on columns
    inverse = forward.transpose(1, 2) / zoom[:, None, None]
    theta = torch.cat([inverse, -(inverse @ shift[:, :, None])], -1)  # output position -> input position
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    plane = (forward @ head.translation[:, :2, None])[..., 0] * zoom[:, None] + shift
    return moved, replace(
        head,
        angles=head.angles + torch.stack([torch.zeros(n), torch.zeros(n), turn], -1),
        translation=torch.cat([plane, head.translation[:, 2:]], -1),
        scale=head.scale * zoom[:, None],
    )


def posed(head: HeadMotion) -> Tensor:
    """Keypoints of a head in the picture plane: (N, K, 2)."""
    return pose_keypoints(head)[..., :2]
