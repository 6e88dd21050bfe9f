"""Moving a portrait's surface as a driver moves: the flow, masks and warped picture of each driven frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.contracts import HeadMotion
from personalive.models.face_mesh import project
from personalive.motion.keypoints import rotation
from personalive.warp.flow import density, identity_grid, invert, invert_smooth, sample
from personalive.warp.portrait import BEHIND_LIDS, Edges, PortraitSurface

SHOULDER_SHARE = 0.3
"""How much of the head's shift the shoulders follow."""
CLOSED_CELLS, OPEN_CELLS = 0.5, 1.5
"""Lids so near to one another, in cells, count as closed; from the second on (or what the portrait's are) as open."""
PINHOLE, FIGURE_HOLE = 5, 13
"""Gaps of fewer cells count as stretched portrait, and wider ones as part of the person, which is generated there."""
FIGURE_FROM = 0.3
"""A cell of the portrait counts as part of the person from this figure value on."""


@dataclass(frozen=True)
class Warp:
    """Where F driven frames lie in their portrait, on a grid of s x s cells.

    flow, eyeballs (F, s, s, 2): positions in the portrait, of everything but the eyeballs, and theirs;
    figure (F, 1, s, s): the person, as far as the portrait shows it;
    seen (F, 1, s, s): 1 where the portrait shows what is there, 0 in gaps and where a line of it is stretched wide;
    eye (F, 1, s, s): the eyes' openings; gap (F, 1, s, s): between parted lips, where the portrait's were closed.
    """

    flow: Tensor
    eyeballs: Tensor
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
        parts = (self.flow, self.eyeballs, self.figure, self.seen, self.eye, self.gap)
        return Warp(*(part[frames] for part in parts))


def move_surface(surface: PortraitSurface, target: HeadMotion, expression: Tensor) -> Warp:
    """The portrait's surface under retargeted heads (F, ...) and expression coefficients (F, E) in [0, 1]."""
    moved, depth = forward_motion(surface, target, expression)
    flow, reached = invert(moved, depth + BEHIND_LIDS * surface.eye, surface.figure > FIGURE_FROM)
    eyeballs = invert_smooth(_eyeballs(surface, target, expression))

    def read(map_: Tensor, flow: Tensor) -> Tensor:
        return sample(map_[None, None].expand(len(flow), -1, -1, -1), flow)

    beyond = _beyond(flow, surface.reach)
    closed = torch.maximum(_closed(reached, PINHOLE), beyond)
    opening = (read(surface.eye, flow) - 0.35).div(0.3).clamp(0, 1) * closed * _open_lids(surface, target, expression)
    torn = (read(surface.lips, flow) * 2).clamp(max=1) * (1 - reached)
    gap = torch.maximum(torn, _parted_lips(surface, target, expression) * (1 - read(surface.mouth, flow)))
    figure = read(surface.figure, flow)
    inside = (figure > FIGURE_FROM).float()
    edges = F.avg_pool2d(closed * inside, 3, 1, 1) / F.avg_pool2d(inside, 3, 1, 1).clamp(min=1e-3)  # of tears: soft
    solid = torch.where(inside > 0, edges, closed) * (density(flow) * 6 - 0.5).clamp(0, 1) * (1 - gap)
    whole = _closed(F.max_pool2d(closed, 3, 1, 1), FIGURE_HOLE)
    return Warp(
        flow=flow,
        eyeballs=eyeballs,
        figure=torch.maximum(figure, _closed(figure, FIGURE_HOLE)) * F.avg_pool2d(whole, 3, 1, 1),
        seen=solid * (1 - opening * (1 - read(surface.eye, eyeballs))),
        eye=opening,
        gap=gap,
    )


def _beyond(flow: Tensor, reach: tuple[float, float, float, float]) -> Tensor:
    """Where a flow leaves the portrait for what its picture shows around: (F, 1, s, s)."""
    left, up, right, down = reach
    x, y = flow.unbind(-1)
    inside = (x > -left) & (x < right) & (y > -up) & (y < down)
    return (inside & (flow.abs().amax(-1) > 1)).float()[:, None]


def _closed(mask: Tensor, side: int) -> Tensor:
    """A mask (F, 1, s, s) without its holes of less than `side` (odd) cells."""
    padded = F.pad(mask, (side,) * 4)
    return -_grown(-_grown(padded, side), side)[..., side:-side, side:-side]


def _grown(mask: Tensor, side: int) -> Tensor:
    """The largest value within a square of `side` cells: along rows, then columns, which is the same and cheaper."""
    return F.max_pool2d(F.max_pool2d(mask, (1, side), 1, (0, side // 2)), (side, 1), 1, (side // 2, 0))


def forward_motion(surface: PortraitSurface, target: HeadMotion, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Where each cell of the portrait goes: (F, s, s, 2) picture coordinates, and its depth (F, s, s) cm."""
    points = surface.rest + torch.einsum("fe,echw->fchw", coefficients, surface.motion)
    return _posed(surface, points, target)


def _eyeballs(surface: PortraitSurface, target: HeadMotion, coefficients: Tensor) -> Tensor:
    """Where the eyeballs' cells go, (F, s, s, 2), as if no lid were there."""
    change = (coefficients - surface.head.expression)[:, surface.glances]
    points = surface.eyeball + torch.einsum("fg,gchw->fchw", change, surface.gaze)
    return _posed(surface, points, target)[0]


def _open_lids(surface: PortraitSurface, target: HeadMotion, expression: Tensor) -> Tensor:
    """Whether each cell's nearest eye is open, (F, 1, s, s) in [0, 1]: 0 where the lids touch.

    A flow on cells cannot say that they touch: the cells between would still show a line of all of the eye.
    """
    side = surface.weight.shape[-1]
    placed = _placed(surface, surface.lid_edges, expression, target)
    own = _placed(surface, surface.lid_edges, surface.head.expression[None], surface.own)
    gap, rest = (_apart(lids[:, :, 0], lids[:, :, 1])[..., 1:3].mean(-1) * side / 2 for lids in (placed, own))  # cells
    full = (0.9 * rest).clamp(max=OPEN_CELLS)
    share = ((gap - CLOSED_CELLS) / (full - CLOSED_CELLS).clamp(min=0.1)).clamp(0, 1)  # (F, 2)
    cells = identity_grid(side, placed).flatten(0, 1)
    left, right = (torch.cdist(cells, placed[:, eye].flatten(1, 2).mean(1, keepdim=True)) for eye in (0, 1))
    return torch.where(left < right, share[:, :1, None], share[:, 1:, None]).view(-1, 1, side, side)


def _parted_lips(surface: PortraitSurface, target: HeadMotion, expression: Tensor) -> Tensor:
    """How much of each cell lies between lips that are farther apart than the portrait's: (F, 1, s, s).

    The flow on cells tells only of gaps wider than a cell or two, and lips part less.
    """
    side = surface.weight.shape[-1]
    lips = _placed(surface, surface.lip_edges, expression, target)  # (F, 2, 5, 2)
    own = _placed(surface, surface.lip_edges, surface.head.expression[None], surface.own)
    upper, further = lips[:, 0], _apart(lips[:, 0], lips[:, 1]) - _apart(own[:, 0], own[:, 1])  # (F, 5)
    along, down = _axes(upper)
    start = upper[:, :1]
    cells = identity_grid(side, upper).flatten(0, 1) - start  # (F, s * s, 2)
    x, y = ((cells * axis[:, None]).sum(-1) * side / 2 for axis in (along, down))  # cells from the corner
    at, height = (((upper - start) * axis[:, None]).sum(-1) * side / 2 for axis in (along, down))
    top = _on_line(at, height, x)
    bottom = top + _on_line(at, further * side / 2, x)
    between = torch.minimum(y + 0.5, bottom) - torch.maximum(y - 0.5, top)
    inside = ((x > at[:, :1]) & (x < at[:, -1:])).float()
    return (between.clamp(0, 1) * inside).view(-1, 1, side, side)


def _on_line(at: Tensor, height: Tensor, x: Tensor) -> Tensor:
    """Heights (F, N) at x (F, N) on the line through points at (F, P), ascending, of heights (F, P)."""
    rise, run = height[:, 1:] - height[:, :-1], (at[:, 1:] - at[:, :-1]).clamp(min=1e-3)
    passed = ((x[:, :, None] - at[:, None, :-1]) / run[:, None]).clamp(0, 1)  # (F, N, P - 1)
    return height[:, :1] + (passed * rise[:, None]).sum(-1)


def _placed(surface: PortraitSurface, edges: Edges, expression: Tensor, target: HeadMotion) -> Tensor:
    """Where edges (...) are in the picture: (F, ..., 2)."""
    points = edges.rest + torch.einsum("fe,e...->f...", expression, edges.motion)
    placed = _project(surface, points.flatten(1, -2), edges.weight.flatten(), target)[..., :2]
    return placed.view(-1, *edges.rest.shape[:-1], 2)


def _apart(upper: Tensor, lower: Tensor) -> Tensor:
    """How far lines (..., P, 2) are apart, point by point, down from the upper one: (..., P), below 0 where crossed."""
    _, down = _axes(upper)
    return ((lower - upper) * down[..., None, :]).sum(-1)


def _axes(line: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (..., 2) from a line's (..., P, 2) first end to its last, and across, downwards in the picture."""
    across = line[..., -1, :] - line[..., 0, :]
    along = across / across.norm(dim=-1, keepdim=True).clamp(min=1e-4)
    down = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
    return along, down * torch.where(down[..., 1:] < 0, -1.0, 1.0)


def _posed(surface: PortraitSurface, points: Tensor, target: HeadMotion) -> tuple[Tensor, Tensor]:
    """Points (F, 3, s, s) moved with the head, and their depth (F, s, s)."""
    side = surface.weight.shape[-1]
    posed = _project(surface, points.flatten(2).transpose(1, 2), surface.weight.flatten(), target)
    return posed[..., :2].view(-1, side, side, 2), posed[..., 2].view(-1, side, side)


def _project(surface: PortraitSurface, points: Tensor, weight: Tensor, target: HeadMotion) -> Tensor:
    """Points (F, N, 3) in the portrait's pose changed as the head motion changed from the portrait's own: (F, N, 3).

    weight (N,): how rigidly each follows the head.
    """
    head, own = surface.head, surface.own
    # The driven pose, then what the fitted pose has beyond the portrait's own: that one is seen along the line from the
    # camera to the neck, the extractor's along the camera's axis.
    beyond = rotation(own.angles.float()).transpose(-1, -2) @ head.rotation
    turn = rotation(target.angles.float()) @ beyond
    scale = head.scale * target.scale.float() / own.scale.float()  # (F, 1)
    shift = (target.translation - own.translation)[:, :2].float()
    posed = project(points, weight, turn, scale, head.translation + shift)
    lag = (1 - weight)[:, None] * (1 - SHOULDER_SHARE) * shift[:, None]
    return torch.cat([posed[..., :2] - lag, posed[..., 2:]], dim=-1)
