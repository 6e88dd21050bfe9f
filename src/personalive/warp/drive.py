"""Moving a portrait's surface as a driver moves: the flow, masks and warped picture of each driven frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.contracts import HeadMotion
from personalive.models.face_mesh import project
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.keypoints import rotation
from personalive.warp.flow import density, invert, invert_smooth, sample
from personalive.warp.portrait import BEHIND_LIDS, PortraitSurface

SHOULDER_SHARE = 0.3
"""How much of the head's shift the shoulders follow."""
PINHOLE, FIGURE_HOLE = 5, 13
"""Gaps of fewer cells count as stretched portrait, and wider ones as part of the person, which is generated there."""
BLINK_GAIN = 1.3
"""Real lids are read as less closed than they are: so many times what is read closes them (docs/built-in-model.md)."""
FIGURE_FROM = 0.3
"""A cell of the portrait counts as part of the person from this figure value on."""


@dataclass(frozen=True)
class Warp:
    """Where F driven frames lie in their portrait, on a grid of s x s cells.

    flow (F, s, s, 2): positions in the portrait; figure (F, 1, s, s): the person, as far as the portrait shows it;
    seen (F, 1, s, s): 1 where the portrait shows what is there, 0 in gaps and where a line of it is stretched wide;
    eye (F, 1, s, s): the eyes' openings; gap (F, 1, s, s): between parted lips, where the portrait's were closed.
    """

    flow: Tensor
    figure: Tensor
    seen: Tensor
    eye: Tensor
    gap: Tensor

    @property
    def masks(self) -> Tensor:
        """Figure, seen, eye and gap: (F, 4, s, s)."""
        return torch.cat([self.figure, self.seen, self.eye, self.gap], dim=1)

    def __getitem__(self, frames: slice) -> Warp:
        """The warp of some of the frames."""
        return Warp(self.flow[frames], self.figure[frames], self.seen[frames], self.eye[frames], self.gap[frames])


def drive_surface(warp: ReferenceWarp, surface: PortraitSurface, target: HeadMotion, motion: Tensor) -> Warp:
    """The portrait's surface under retargeted heads (F, ...) and motion tokens (F, T, D)."""
    coefficients = warp.expression(motion).float()  # (F, E)
    gains = torch.ones_like(coefficients[0]).index_fill(0, warp.mesh.blinks.long(), BLINK_GAIN)
    return move_surface(surface, target, (coefficients * gains).clamp(0, 1))


def move_surface(surface: PortraitSurface, target: HeadMotion, coefficients: Tensor) -> Warp:
    """`drive_surface` with known expression coefficients (F, E)."""
    moved, depth = forward_motion(surface, target, coefficients)
    flow, reached = invert(moved, depth + BEHIND_LIDS * surface.eye, surface.figure > FIGURE_FROM)
    eyeballs = invert_smooth(_eyeballs(surface, target, coefficients))

    def read(map_: Tensor, flow: Tensor) -> Tensor:
        return sample(map_[None, None].expand(len(flow), -1, -1, -1), flow)

    closed = _closed(reached, PINHOLE)
    opening = (read(surface.eye, flow) - 0.35).div(0.3).clamp(0, 1) * closed
    gap = (read(surface.lips, flow) * 2).clamp(max=1) * (1 - reached)
    # A crease above the lashes would be stretched over the closing eye: lids are generated sooner than other skin.
    area, lids = density(flow), read(surface.lids, flow)
    solid = closed * torch.lerp(area * 6 - 0.5, area * 4 - 1, lids).clamp(0, 1) * (1 - gap)
    figure = read(surface.figure, flow)
    whole = _closed(F.max_pool2d(closed, 3, 1, 1), FIGURE_HOLE)
    share = opening.movedim(1, -1)
    return Warp(
        flow=flow * (1 - share) + eyeballs * share,
        figure=torch.maximum(figure, _closed(figure, FIGURE_HOLE)) * F.avg_pool2d(whole, 3, 1, 1),
        seen=solid * (1 - opening * (1 - read(surface.eye, eyeballs))),
        eye=opening,
        gap=gap,
    )


def _closed(mask: Tensor, side: int) -> Tensor:
    """A mask (F, 1, s, s) without its holes of less than `side` (odd) cells."""
    padded = F.pad(mask, (side,) * 4)
    grown = F.max_pool2d(padded, side, 1, side // 2)
    return -F.max_pool2d(-grown, side, 1, side // 2)[..., side:-side, side:-side]


def forward_motion(surface: PortraitSurface, target: HeadMotion, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell of the portrait goes: (F, s, s, 2) picture coordinates, and its depth (F, s, s) cm."""
    points = surface.rest + torch.einsum("fe,echw->fchw", coefficients, surface.motion)
    return _posed(surface, points, target)


def _eyeballs(surface: PortraitSurface, target: HeadMotion, coefficients: Tensor) -> Tensor:
    """Where the eyeballs' cells go, (F, s, s, 2), as if no lid were there."""
    change = (coefficients - surface.head.expression)[:, surface.glances]
    points = surface.eyeball + torch.einsum("fg,gchw->fchw", change, surface.gaze)
    return _posed(surface, points, target)[0]


def _posed(surface: PortraitSurface, points: Tensor, target: HeadMotion) -> tuple[Tensor, Tensor]:
    """Points (F, 3, s, s) in the portrait's pose changed as the head motion changed from the portrait's own."""
    head, own = surface.head, surface.own
    # The driven pose, then what the fitted pose has beyond the portrait's own: that one is seen along the line from the
    # camera to the neck, the extractor's along the camera's axis.
    beyond = rotation(own.angles.float()).transpose(-1, -2) @ head.rotation
    turn = rotation(target.angles.float()) @ beyond
    scale = head.scale * target.scale.float() / own.scale.float()  # (F, 1)
    shift = (target.translation - own.translation)[:, :2].float()
    side = surface.weight.shape[-1]
    flat = points.flatten(2).transpose(1, 2)  # (F, s * s, 3)
    weight = surface.weight.flatten()
    posed = project(flat, weight, turn, scale, head.translation + shift)
    posed = posed.view(-1, side, side, 3)
    lag = (1 - surface.weight)[..., None] * (1 - SHOULDER_SHARE) * shift[:, None, None]
    return posed[..., :2] - lag, posed[..., 2]
