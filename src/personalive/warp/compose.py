"""Putting the picture together: warped portrait, background plate and what the diffusion model generates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.contracts import Networks
from personalive.media.frames import Pixels, resample, resize_picture, to_unit
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.face_crop import AROUND, FramedPortrait
from personalive.motion.signals import Observation
from personalive.warp.drive import Warp, move_surface
from personalive.warp.flow import fill, sample
from personalive.warp.portrait import PortraitSurface, build_surface, fit_portrait

SURE_BACKGROUND = 0.08
"""A cell of the portrait is background for the plate where no figure value around it exceeds this."""
PLATE_MARGIN = 5
"""Cells around a place that have to be background, too (odd)."""
MOUTH_SHADE = 0.45
"""How much darker the inside of a mouth is than what a small denoiser, which blurs it with the lips, makes of it."""
TINT_SIDE = 32
"""Side of the map of colour differences between the portrait and what is generated."""
LEAST_SHARE, MOST_CORRECTION = 0.02, 0.8
"""The masks' word for a source is at least the first, and the compositor changes its logarithm by at most the second: a
soft picture in the right place has a smaller error than a sharp one beside it, but is not the person."""


@dataclass(frozen=True)
class PortraitLayers:
    """A portrait ready to be composed, on the device of the networks. Pictures are in [0, 1].

    plate (1, 3, H, H) at the output's size, small_plate (1, 3, s, s) at the grid's side: the portrait's background
    without the person. picture (1, 3, A, A), A = AROUND * H, and small_picture: the portrait and what lies around; skin
    and small_skin: the same without its eyes. surface: what moves.
    """

    picture: Tensor
    skin: Tensor
    plate: Tensor
    small_picture: Tensor
    small_skin: Tensor
    small_plate: Tensor
    surface: PortraitSurface

    def warped(self, warp: Warp) -> Tensor:
        """The portrait carried to F frames, at the output's size: (F, 3, H, H)."""
        return _carried(self.picture, self.skin, self.plate.shape[-1], warp)

    def small_warped(self, warp: Warp) -> Tensor:
        """The portrait carried to F frames, at the grid's side: (F, 3, s, s)."""
        return _carried(self.small_picture, self.small_skin, self.small_plate.shape[-1], warp)


def read_portrait(networks: Networks, portrait: Pixels | FramedPortrait, seen: Observation) -> PortraitLayers | None:
    """The layers of a square portrait (H, H, 3) at the output's size; None for a model without a reference warp.

    seen (1, ...): what the motion networks see in it.
    """
    warp, side = networks.reference_warp, networks.config.output_size
    if warp is None:
        return None

    def unit(pixels: Pixels, size: int) -> Tensor:
        return to_unit(resize_picture(pixels, size)).to(seen.motion.device)

    if not isinstance(portrait, FramedPortrait):
        picture = unit(portrait, side)
        head = fit_portrait(warp, picture, seen.head, seen.motion)
        return portrait_layers(picture, build_surface(warp, picture, head, seen.head))
    picture = unit(portrait.pixels, side)
    head = fit_portrait(warp, picture, seen.head, seen.motion)
    surface = replace(build_surface(warp, picture, head, seen.head), reach=portrait.reach)
    return portrait_layers(picture, surface, unit(portrait.around, round(AROUND * side)))


def portrait_layers(picture: Tensor, surface: PortraitSurface, around: Tensor | None = None) -> PortraitLayers:
    """The layers of a portrait (1, 3, H, H) in [0, 1], H a multiple of 4.

    around (1, 3, A, A): what lies around it, by default its border going on.
    """
    side, size = surface.weight.shape[-1], picture.shape[-1]
    figure = surface.figure.detach()[None, None]
    background = (F.max_pool2d(figure, PLATE_MARGIN, 1, PLATE_MARGIN // 2) < SURE_BACKGROUND).float()
    small, eyes = resample(picture, side), surface.eye.detach()[None, None]
    plate = fill(small * background, background)
    without = 1 - F.max_pool2d(eyes, 3, 1, 1)
    skin = _exchanged(picture, fill(small * without, without), eyes)
    margin = (round(AROUND * size) - size) // 2
    pad = (margin,) * 4
    wide = F.pad(picture, pad, mode="replicate") if around is None else around
    wide_skin = wide.clone()
    wide_skin[..., margin : margin + size, margin : margin + size] = skin
    wide_side = round(AROUND * side)
    return PortraitLayers(
        picture=wide,
        skin=wide_skin,
        plate=_exchanged(picture, plate, 1 - background),
        small_picture=resample(wide, wide_side),
        small_skin=resample(wide_skin, wide_side),
        small_plate=plate,
        surface=surface,
    )


def _exchanged(picture: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """A picture (1, 3, H, H) with another (1, 3, s, s) where a mask (1, 1, s, s) is 1."""
    share = F.interpolate(where, size=picture.shape[-2:], mode="bilinear", align_corners=False)
    return torch.lerp(picture, resample(other, picture.shape[-1]), share)


def _carried(picture: Tensor, skin: Tensor, side: int, warp: Warp) -> Tensor:
    """A portrait and its surroundings (1, 3, A, A), with and without eyes, carried to F frames (F, 3, side, side)."""
    mode = "bilinear" if side <= warp.flow.shape[1] else "bicubic"

    def carried(picture: Tensor, flow: Tensor, mode: str) -> Tensor:
        finer = resample(flow.movedim(-1, 1), side).movedim(1, -1) / AROUND
        return sample(picture.expand(len(flow), -1, -1, -1), finer, mode)

    eyes = carried(picture, warp.eyeballs, "bilinear")
    return torch.lerp(carried(skin, warp.flow, mode), eyes, resample(warp.eye, side)).clamp(0, 1)


def guide_pictures(warped: Tensor, plate: Tensor, masks: Tensor) -> Tensor:
    """What the denoiser is shown of a warp: (F, 6, s, s): the figure over its plate in [-1, 1], and three masks.

    What the portrait does not show of the figure is blank (0), also between parted lips.

    warped, plate (F or 1, 3, s, s) in [0, 1]; masks (F, 4, s, s): figure, seen, eye and gap.
    """
    figure, seen, gap = masks[:, 0:1], masks[:, 1:2], masks[:, 3:4]
    over = figure * warped + (1 - figure) * plate
    return torch.cat([(over * 2 - 1) * (1 - figure * (1 - seen)) * (1 - gap), masks[:, :3]], dim=1)


class PortraitGuide:
    """Warps a portrait as it is driven and makes features of it for the denoiser; `moved` is the latest warp."""

    def __init__(self, warp: ReferenceWarp, layers: PortraitLayers, size: int) -> None:
        """size: side of the pictures that the denoiser works on."""
        self._warp, self._layers, self._size = warp, layers, size
        self.moved: Warp | None = None

    def __call__(self, target: Observation) -> Tensor:
        """Features (F, C, size / 8, size / 8) of the portrait moved to F retargeted frames."""
        expression = target.expression
        if expression is None:  # of a frame that was only observed
            raise ValueError("the warp needs to know the expression: see `warp.driver.follow_driver`")
        self.moved = moved = move_surface(self._layers.surface, target.head, expression)
        warped = self._layers.small_warped(moved)
        shown = guide_pictures(warped, self._layers.small_plate, moved.masks)
        features: Tensor = self._warp.guider(resample(shown, self._size).to(self._warp.dtype))
        return features

    def composed(self, generated: Tensor) -> Tensor:
        """The finished frames (F, 3, H, H) in [0, 1] of the latest warp: see `compose`."""
        if self.moved is None:
            raise ValueError("nothing was warped yet")
        return compose(self._warp, self._layers, self.moved, generated)


def with_expression(seen: Observation, layers: PortraitLayers | None) -> Observation:
    """What is seen in a portrait (1, ...), with the expression of its fitted head, if it has layers."""
    return seen if layers is None else replace(seen, expression=layers.surface.head.expression[None])


def guide_of(networks: Networks, layers: PortraitLayers | None) -> PortraitGuide | None:
    """The guide of a portrait's layers, at the size that the denoiser works at; None without a reference warp."""
    warp = networks.reference_warp
    return None if warp is None or layers is None else PortraitGuide(warp, layers, networks.config.image_size)


def compose(warp: ReferenceWarp, layers: PortraitLayers, moved: Warp, generated: Tensor) -> Tensor:
    """The finished frames (F, 3, H, H) in [0, 1] at the size of `layers.plate`.

    generated (F, 3, S, S) in [0, 1]: what the diffusion model decoded for them.
    """
    small = ComposeInputs(
        generated=resample(generated.float(), moved.flow.shape[1]),
        warped=layers.small_warped(moved),
        plate=layers.small_plate.expand(len(generated), -1, -1, -1),
        masks=moved.masks,
        own_figure=layers.surface.figure.expand_as(moved.figure),
    )
    shares, paint = blend(warp.compositor, small, warp.dtype)
    side = layers.plate.shape[-1]
    return mix(resample(shares, side), layers.warped(moved), layers.plate, resample(paint, side))


@dataclass(frozen=True)
class ComposeInputs:
    """What the compositor decides by, for F frames at one side s.

    generated, warped, plate (F, 3, s, s) in [0, 1]; masks (F, 4, s, s): figure, seen, eye and gap of a `Warp`;
    own_figure (F, 1, s, s): the person in the portrait itself.
    """

    generated: Tensor
    warped: Tensor
    plate: Tensor
    masks: Tensor
    own_figure: Tensor


def blend(compositor: nn.Module, given: ComposeInputs, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Shares (F, 3, s, s) of warped portrait, plate and generated picture, which add up to 1; and the latter, mended.

    The second result (F, 3, s, s) is the generated picture in the portrait's colours with the compositor's changes.
    dtype: the compositor's precision.
    """
    figure, seen, gap = given.masks[:, 0:1], given.masks[:, 1:2], given.masks[:, 3:4]
    paint = given.generated + _tint(given.warped, given.generated, figure * seen, gap)
    pictures = torch.cat([paint, given.warped, given.plate], dim=1) * 2 - 1
    inputs = torch.cat([pictures, given.masks, 1 - given.own_figure], dim=1)
    told = compositor(inputs.to(dtype)).float()
    hidden = torch.maximum(figure * (1 - seen), gap)
    first = torch.cat([figure * seen, (1 - figure) * (1 - gap), hidden], dim=1)
    corrected = MOST_CORRECTION * torch.tanh(4 / MOST_CORRECTION * told[:, :3])
    shares = torch.softmax((first + LEAST_SHARE).log() + corrected, dim=1)
    shade = 1 - MOUTH_SHADE * torch.maximum(gap, F.avg_pool2d(gap, 3, 1, 1))  # a mouth that opens is dark inside
    return shares, (paint + 0.5 * told[:, 3:]) * shade


def mix(shares: Tensor, warped: Tensor, plate: Tensor, paint: Tensor) -> Tensor:
    """The sum of three pictures (F or 1, 3, s, s) by their shares (F, 3, s, s), in [0, 1]."""
    mixed = shares[:, 0:1] * warped + shares[:, 1:2] * plate + shares[:, 2:3] * paint
    return mixed.clamp(0, 1)


def _tint(warped: Tensor, generated: Tensor, known: Tensor, gap: Tensor) -> Tensor:
    """What brings the generated picture to the portrait's colours, from where both are known: (F, 3, s, s).

    Not between parted lips, which would lend the mouth their colour.
    """
    side = warped.shape[-1]
    known, step = known**4, max(1, side // TINT_SIDE)
    weight = F.avg_pool2d(known, step)
    difference = F.avg_pool2d((warped - generated) * known, step) / weight.clamp(min=1e-3)
    sure = (weight > 0.3).float()
    return resample(fill(difference * sure, sure), side) * (1 - gap)
