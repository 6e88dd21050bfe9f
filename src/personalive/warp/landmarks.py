"""Finding the landmarks of the head mesh in a portrait: look, move the crop onto the face, look again."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.models.landmark_network import LandmarkNetwork

PASSES = 3
FACE_SHARE = 0.55
"""The face's 68 usual landmarks span this share of a crop."""
FACE_LANDMARKS = 68
BORDER = 0.93
"""A landmark farther out than this in the crop may lie outside: it is not trusted."""
UNTRUSTED = 10.0


@torch.no_grad()
def find_landmarks(network: LandmarkNetwork, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks of the face in a square picture (1, 3, H, H) in [0, 1], which it roughly fills.

    Returns points (K, 2), picture coordinates [-1, 1], and spread (K,): their expected errors in the same units.
    """
    side = network.config.image_size
    parameter = next(network.parameters())
    centre, half = picture.new_zeros(2), picture.new_tensor(1.0)
    points, spread = picture.new_zeros(0), picture.new_zeros(0)
    for _ in range(PASSES):
        crop = _cut(picture, centre, half, side) * 2 - 1
        found, errors = network(crop.to(parameter.dtype))
        inside = found[0].abs().amax(-1) < BORDER
        points, spread = found[0] * half + centre, errors[0] * half
        spread = torch.where(inside, spread, torch.full_like(spread, UNTRUSTED))
        low, high = points[:FACE_LANDMARKS].amin(0), points[:FACE_LANDMARKS].amax(0)
        centre, half = (low + high) / 2, ((high - low).amax() / 2 / FACE_SHARE).clamp(0.2, 1.5)
    return points, spread


def _cut(picture: Tensor, centre: Tensor, half: Tensor, side: int) -> Tensor:
    """The square around `centre` (2,) reaching `half` to each side: (1, 3, side, side), antialiased."""
    zero = torch.zeros_like(half)
    rows = torch.stack([torch.stack([half, zero, centre[0]]), torch.stack([zero, half, centre[1]])])
    fine = F.affine_grid(rows[None], [1, 3, 2 * side, 2 * side], align_corners=False)
    return F.avg_pool2d(F.grid_sample(picture, fine, padding_mode="border", align_corners=False), 2)
