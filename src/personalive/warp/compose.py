"""Putting the picture together: warped portrait, background plate and what the diffusion model generates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.models.reference_warp import ReferenceWarp
from personalive.warp.drive import Warp
from personalive.warp.flow import fill, sample
from personalive.warp.portrait import PortraitSurface

SURE_BACKGROUND = 0.08
"""A cell of the portrait is background for the plate where no figure value around it exceeds this."""
PLATE_MARGIN = 5
"""Cells around a place that have to be background, too (odd)."""
TINT_SIDE = 32
"""Side of the map of colour differences between the portrait and what is generated."""
LEAST_SHARE = 0.02
"""Share that the compositor can always give to each of its three sources."""


@dataclass(frozen=True)
class PortraitLayers:
    """A portrait ready to be composed, on the device of the networks.

    picture, plate (1, 3, H, H) in [0, 1] at the output's size: the portrait, and its background without the person;
    small_picture, small_plate (1, 3, s, s): the same at the grid's side; surface: what moves.
    """

    picture: Tensor
    plate: Tensor
    small_picture: Tensor
    small_plate: Tensor
    surface: PortraitSurface


def portrait_layers(picture: Tensor, surface: PortraitSurface) -> PortraitLayers:
    """The layers of a portrait (1, 3, H, H) in [0, 1], H a multiple of the grid's side."""
    side = surface.weight.shape[-1]
    figure = surface.figure.detach()[None, None]
    around = F.max_pool2d(figure, PLATE_MARGIN, 1, PLATE_MARGIN // 2)
    background = (around < SURE_BACKGROUND).float()
    small = _resized(picture, side)
    plate_small = fill(small * background, background)
    share = F.interpolate(background, size=picture.shape[-2:], mode="bilinear", align_corners=False)
    plate = share * picture + (1 - share) * _resized(plate_small, picture.shape[-1])
    return PortraitLayers(picture, plate, small, plate_small, surface)


def warped_picture(picture: Tensor, warp: Warp) -> Tensor:
    """A portrait (1, 3, H, H) carried to F frames: (F, 3, H, H)."""
    flow = _resized(warp.flow.movedim(-1, 1), picture.shape[-1]).movedim(1, -1)
    mode = "bilinear" if picture.shape[-1] <= warp.flow.shape[1] else "bicubic"
    return sample(picture.expand(len(flow), -1, -1, -1), flow, mode).clamp(0, 1)


def guide_pictures(layers: PortraitLayers, warp: Warp) -> Tensor:
    """What the denoiser is shown of the warp: (F, 6, s, s): the figure over its plate in [-1, 1], and three masks."""
    warped = warped_picture(layers.small_picture, warp)
    over = warp.figure * warped + (1 - warp.figure) * layers.small_plate
    return torch.cat([over * 2 - 1, warp.figure, warp.seen, warp.eye], dim=1)


def guide_features(warp: ReferenceWarp, layers: PortraitLayers, moved: Warp, size: int) -> Tensor:
    """Features (F, C, size / 8, size / 8) of the warped portrait for the denoising UNet."""
    shown = guide_pictures(layers, moved)
    if shown.shape[-1] != size:
        shown = _resized(shown, size)
    features: Tensor = warp.guider(shown.to(next(warp.guider.parameters()).dtype))
    return features


def compose(warp: ReferenceWarp, layers: PortraitLayers, moved: Warp, generated: Tensor) -> Tensor:
    """The finished frames (F, 3, H, H) in [0, 1] at the size of `layers.picture`.

    generated (F, 3, S, S) in [0, 1]: what the diffusion model decoded for them.
    """
    shares, paint = blend(warp, layers, moved, generated)
    side = layers.picture.shape[-1]
    shares, paint = _resized(shares, side), _resized(paint, side)
    sources = (warped_picture(layers.picture, moved), layers.plate, paint)
    return sum(share * source for share, source in zip(shares.split(1, dim=1), sources, strict=True)).clamp(0, 1)


def blend(warp: ReferenceWarp, layers: PortraitLayers, moved: Warp, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (F, 3, s, s) of warped portrait, plate and generated picture, which add up to 1; and the latter, mended.

    The second result (F, 3, s, s) is the generated picture in the portrait's colours with the compositor's changes.
    """
    side = moved.flow.shape[1]
    generated = _resized(generated.float(), side)
    warped = warped_picture(layers.small_picture, moved)
    plate = layers.small_plate.expand_as(warped)
    paint = generated + _tint(warped, generated, moved)
    inputs = torch.cat(
        [paint * 2 - 1, warped * 2 - 1, plate * 2 - 1, moved.figure, moved.seen, moved.eye, moved.gap,
         1 - layers.surface.figure.expand_as(moved.figure)], dim=1
    )  # fmt: skip
    told = warp.compositor(inputs.to(next(warp.compositor.parameters()).dtype)).float()
    first = torch.cat(
        [moved.figure * moved.seen, (1 - moved.figure) * (1 - moved.gap), moved.figure * (1 - moved.seen)], dim=1
    )
    shares = torch.softmax((first + LEAST_SHARE).log() + 4 * told[:, :3], dim=1)
    return shares, paint + 0.5 * told[:, 3:]


def _tint(warped: Tensor, generated: Tensor, moved: Warp) -> Tensor:
    """What brings the generated picture to the portrait's colours, from where both are known: (F, 3, s, s).

    Not inside the mouth, which would take the lips' colour.
    """
    side = warped.shape[-1]
    known = (moved.figure * moved.seen) ** 4
    step = max(1, side // TINT_SIDE)
    weight = F.avg_pool2d(known, step)
    difference = F.avg_pool2d((warped - generated) * known, step) / weight.clamp(min=1e-3)
    sure = (weight > 0.3).float()
    return _resized(fill(difference * sure, sure), side) * (1 - moved.gap)


def _resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, C, h, h) at another side: averaged down, or bilinearly up."""
    if pictures.shape[-1] == side:
        return pictures
    if pictures.shape[-1] > side:
        return F.interpolate(pictures, size=side, mode="area")
    return F.interpolate(pictures, size=side, mode="bilinear", align_corners=False)
