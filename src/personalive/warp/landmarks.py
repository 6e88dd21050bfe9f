"""Finding the landmarks of the head mesh: in a portrait by several looks, in a driver's frames at a glance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.models.landmark_network import LandmarkNetwork

PASSES = 3
FACE_SHARE = 0.55
"""The face's 68 usual landmarks span this share of a crop."""
CLOSE_UPS = (slice(36, 42), slice(42, 48), slice(48, 68))
"""Landmarks of the eyes and of the mouth, which a portrait's are looked at again from near."""
CLOSE_UP_SHARE = 2.0
"""The face's span over a close-up's side."""
CLOSE_UP_BORDER = 0.8
"""A landmark farther out than this in a close-up is known better from the whole face."""
FACE_LANDMARKS = 68
BORDER = 0.93
"""A landmark farther out than this in the crop may lie outside: it is not trusted."""
UNTRUSTED = 10.0


@torch.no_grad()
def find_landmarks(network: LandmarkNetwork, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks of the face in a square picture (1, 3, H, H) in [0, 1], which it roughly fills.

    Returns points (K, 2), picture coordinates [-1, 1], and spread (K,): their expected errors in the same units.
    """
    centre, half = picture.new_zeros(1, 2), picture.new_ones(1)
    points, spread = picture.new_zeros(0), picture.new_zeros(0)
    for _ in range(PASSES):
        points, spread = glance(network, picture, centre, half)
        centre, half = face_square(points)
        half = (half / FACE_SHARE).clamp(0.2, 1.5)
    return _closer(network, picture, points, spread, half * FACE_SHARE / CLOSE_UP_SHARE)


def face_square(points: Tensor) -> tuple[Tensor, Tensor]:
    """The square about faces' usual landmarks, the first of (N, K, 2): its middle (N, 2) and half of its side (N,)."""
    face = points[:, :FACE_LANDMARKS]
    low, high = face.amin(1), face.amax(1)
    return (low + high) / 2, (high - low).amax(1) / 2


def _closer(
    network: LandmarkNetwork, picture: Tensor, points: Tensor, spread: Tensor, half: Tensor
) -> tuple[Tensor, Tensor]:
    """Points (K, 2) and spread (K,) after close-ups of eyes and mouth, each where it is surer than what was known.

    points (1, K, 2), spread (1, K): known from the whole face; half (1,): of a close-up.
    """
    centres = torch.cat([points[:, part].mean(1) for part in CLOSE_UPS])  # (3, 2)
    half = half.expand(len(CLOSE_UPS))
    found, errors = glance(network, picture.expand(len(CLOSE_UPS), -1, -1, -1), centres, half)
    # Of a landmark outside the close-up the network knows nothing, nor that it is outside.
    farthest = torch.maximum((found - centres[:, None]).abs(), (points - centres[:, None]).abs()).amax(-1)
    inside = farthest < CLOSE_UP_BORDER * half[:, None]
    errors = torch.where(inside, errors, torch.full_like(errors, UNTRUSTED))
    all_points, all_errors = torch.cat([points, found]), torch.cat([spread, errors])  # (4, K, ...)
    best = all_errors.argmin(0)
    return all_points[best, torch.arange(points.shape[1], device=best.device)], all_errors.amin(0)


@torch.no_grad()
def glance(network: LandmarkNetwork, frames: Tensor, centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks of faces in F square frames (F, 3, H, H) in [0, 1], about where they are known to be.

    centre (F, 2), half (F,): of the crops, see `find_landmarks`. Returns points (F, K, 2) and spread (F, K).
    """
    parameter = next(network.parameters())
    crops = _cut(frames, centre, half, network.config.image_size) * 2 - 1
    found, errors = (part.to(frames) for part in network(crops.to(parameter.dtype)))
    inside = found.abs().amax(-1) < BORDER
    spread = torch.where(inside, errors * half[:, None], torch.full_like(errors, UNTRUSTED))
    return found * half[:, None, None] + centre[:, None], spread


def _cut(frames: Tensor, centre: Tensor, half: Tensor, side: int) -> Tensor:
    """The squares around `centre` (F, 2) reaching `half` (F,) to each side: (F, 3, side, side), antialiased."""
    size = half[:, None, None] * torch.eye(2, dtype=half.dtype, device=half.device)
    theta = torch.cat([size, centre[:, :, None]], dim=2)
    fine = F.affine_grid(theta, [len(frames), 3, 2 * side, 2 * side], align_corners=False)
    return F.avg_pool2d(F.grid_sample(frames, fine, padding_mode="border", align_corners=False), 2)
