"""Crops of rendered faces for the landmark network, and what makes them look like other cameras' and painters'."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as functional
from torch import Tensor

from personalive.warp.landmarks import face_square


def crop_faces(
    pictures: Tensor,
    points: Tensor,
    side: int,
    span: Tensor,
    turn: Tensor,
    shift: Tensor,
    beyond: str = "border",
) -> tuple[Tensor, Tensor]:
    """Returns antialiased crops around faces, (N, 3, side, side), and the points in their coordinates, (N, K, 2).

    pictures (N, 3, H, H); points (N, K, 2) in [-1, 1], the usual 68 landmarks first; span (N,): the share of the crop
    that these span; turn (N,) radians; shift (N, 2): of the crop over the face, in halves of its side. beyond: what is
    outside the picture, "border" or "reflection".
    """
    span, turn, shift = (values.to(pictures.device) for values in (span, turn, shift))
    middle, reach = face_square(points)
    half = reach / span  # (N,) of the crop's side, in picture units
    centre = middle + shift * half[:, None]
    cos, sin = torch.cos(turn), torch.sin(turn)
    turned = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (N, 2, 2) crop -> picture
    theta = torch.cat([turned * half[:, None, None], centre[:, :, None]], dim=2)
    fine = functional.affine_grid(theta, [len(pictures), 3, 2 * side, 2 * side], align_corners=False)
    crops = functional.grid_sample(pictures, fine, padding_mode=beyond, align_corners=False)
    moved = (points - centre[:, None]) @ turned / half[:, None, None]  # rows times the matrix: its inverse's columns
    return functional.avg_pool2d(crops, 2), moved


def look_different(crops: Tensor, rng: random.Random) -> Tensor:
    """Crops (N, 3, S, S) in [0, 1] in other light and colours, coarser, flatter, noisier, or partly hidden."""
    crops = _sensor(_colour(crops))
    if rng.random() < 0.5:
        crops = _shade(crops)
    if rng.random() < 0.35:
        small = functional.interpolate(crops, scale_factor=1 / rng.randint(2, 4), mode="area")
        crops = functional.interpolate(small, size=crops.shape[-2:], mode="bilinear")
    if rng.random() < 0.2:
        crops = _few_colours(crops)
    crops = crops + _normal(crops, 3, *crops.shape[2:]) * _uniform(crops, 1, 1, 1) * 0.07 * _some(crops, 0.6)
    if rng.random() < 0.5:
        crops = _hide(crops, rng)
    return crops.clamp(0, 1)


def draw_points(pictures: Tensor, points: Tensor, colour: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Tensor:
    """A copy of pictures (N, 3, S, S) in [0, 1] in which the pixels of points (N, K, 2) have one colour."""
    pictures, side = pictures.clone(), pictures.shape[-1]
    places = ((points + 1) / 2 * side).long().clamp(0, side - 1)  # (N, K, 2)
    rows = torch.arange(len(pictures), device=pictures.device)[:, None].expand(places.shape[:2])
    for channel, level in enumerate(colour):
        pictures[rows, channel, places[..., 1], places[..., 0]] = level
    return pictures


def _uniform(crops: Tensor, *shape: int) -> Tensor:
    return torch.rand(len(crops), *shape).to(crops.device)


def _normal(crops: Tensor, *shape: int) -> Tensor:
    return torch.randn(len(crops), *shape).to(crops.device)


def _some(crops: Tensor, share: float) -> Tensor:
    """1 for a share of the crops, 0 for the others: (N, 1, 1, 1)."""
    return (_uniform(crops, 1, 1, 1) < share).float()


def _colour(crops: Tensor) -> Tensor:
    """A fifth of the crops greyer."""
    grey = _some(crops, 0.2) * _uniform(crops, 1, 1, 1)
    return crops.lerp(crops.mean(1, keepdim=True), grey)


def _sensor(crops: Tensor) -> Tensor:
    """Another gamma, gain and offset of each colour, and contrast."""
    crops = crops.clamp(1e-3, 1) ** torch.exp(0.4 * _normal(crops, 1, 1, 1))
    crops = crops * (1 + 0.15 * _normal(crops, 3, 1, 1)) + 0.06 * _normal(crops, 3, 1, 1)
    return (crops - 0.5) * torch.exp(0.25 * _normal(crops, 1, 1, 1)) + 0.5


def _shade(crops: Tensor) -> Tensor:
    """Half of the crops with soft light and shadow across them."""
    coarse = _normal(crops, 1, 3, 3)
    light = functional.interpolate(coarse, size=crops.shape[-2:], mode="bicubic").clamp(-1.5, 1.5)
    return crops * (1 + 0.5 * light * _some(crops, 0.5))


def _few_colours(crops: Tensor) -> Tensor:
    """Half of the crops in 6 to 15 levels of each colour, as flat as a poster."""
    levels = 6 + (_uniform(crops, 1, 1, 1) * 10).floor()
    return torch.where(_some(crops, 0.5) > 0, (crops * levels).round() / levels, crops)


def _hide(crops: Tensor, rng: random.Random) -> Tensor:
    """Half of the crops with patches of random colours before the face."""
    cells, size = rng.choice((4, 6, 9, 16)), crops.shape[-2:]
    patches = functional.interpolate(_uniform(crops, 3, cells, cells), size=size, mode="bilinear")
    where = functional.interpolate(_uniform(crops, 1, 5, 5), size=size, mode="bilinear") > 0.78
    return crops.lerp(patches, where.float() * _some(crops, 0.5))
