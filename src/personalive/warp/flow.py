"""From a moved portrait to a flow: where each cell of the animated frame lies in the portrait.

Positions are picture coordinates: [-1, 1] spans the square, x right, y down. The portrait's cells are moved forward,
the nearest to the camera wins each cell of the frame, and a few small steps make the flow exact between the cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

REFINEMENTS = 2
STEP_LIMIT = 0.5
"""A refinement moves a position by at most so many cells."""
DEPTH_LEVELS = 1 << 20
"""Depths are compared in steps of their range over this number."""


def identity_grid(side: int, like: Tensor) -> Tensor:
    """Centres of the cells of a side x side grid: (side, side, 2) float32."""
    line = (torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def sample(maps: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Maps (N, C, H, W) read at places (N, h, w, 2): (N, C, h, w); beyond the border the border goes on."""
    return F.grid_sample(maps, places, mode=mode, padding_mode="border", align_corners=False)


def nearest_points(points: Tensor, depth: Tensor, side: int, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Which point each cell shows: the nearest to the camera of those whose four surrounding cells it belongs to.

    points (F, P, 2); depth (F, P), away from the camera; known (P,) bool: the points that count, by default all.
    Returns numbers (F, side * side) int64, 0 where there is none, and reached (F, 1, side, side): 1 where there is one.
    """
    frames, count = depth.shape
    low = depth.amin()
    level = ((depth - low) / (depth.amax() - low).clamp(min=1e-6) * DEPTH_LEVELS).long()
    none = 2 * DEPTH_LEVELS * count
    key = level * count + torch.arange(count, device=depth.device)  # (F, P): depth first, then the number
    if known is not None:
        key = torch.where(known, key, torch.full_like(key, none))
    corner = ((points + 1) / 2 * side - 0.5).floor().long()  # (F, P, 2)
    best = key.new_full((frames, side * side), none)
    for down in (0, 1):
        for right in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
            place = torch.where(inside, y * side + x, torch.zeros_like(x))
            best = best.scatter_reduce(1, place, torch.where(inside, key, torch.full_like(key, none)), "amin")
    found = best < none
    return torch.where(found, best % count, torch.zeros_like(best)), found.view(frames, 1, side, side).float()


def invert(moved: Tensor, depth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The flow that undoes a forward motion: positions in the portrait (F, s, s, 2), and which cells were reached.

    moved (F, s, s, 2): where each of the portrait's cells went; depth (F, s, s): how far from the camera it is there;
    known (s, s) bool: the cells that count. Reached (F, 1, s, s): 1 where a cell landed, 0 where the motion opened a
    gap; there the flow is that of the surroundings.
    """
    side = moved.shape[1]
    here = identity_grid(side, moved)
    winner, reached = nearest_points(moved.flatten(1, 2), depth.flatten(1), side, known.flatten())
    own = moved - here  # (F, s, s, 2): where a cell went, less where it was
    start = own.flatten(1, 2).gather(1, winner[..., None].expand(-1, -1, 2)).view_as(own).movedim(-1, 1)
    shifts = fill(start * reached, reached)  # gaps take the motion around them
    maps, limit = own.movedim(-1, 1), 2 * STEP_LIMIT / side
    for _ in range(REFINEMENTS):  # towards what the cells between do, but not across a tear in the surface
        found = sample(maps, here - shifts.movedim(1, -1))
        shifts = shifts + reached * (found - shifts).clamp(-limit, limit)
    return here - shifts.movedim(1, -1), reached


def invert_smooth(moved: Tensor, rounds: int = 4) -> Tensor:
    """The flow (F, s, s, 2) that undoes a smooth forward motion (F, s, s, 2) without folds, by fixed-point steps."""
    here = identity_grid(moved.shape[1], moved)
    maps = (moved - here).movedim(-1, 1)
    flow = here - maps.movedim(1, -1)
    for _ in range(rounds - 1):
        flow = here - sample(maps, flow).movedim(1, -1)
    return flow


def density(flow: Tensor) -> Tensor:
    """How much of the portrait's area a cell shows: (F, 1, s, s), 1 where nothing is stretched, 0 where a cell shows
    a line of the portrait or less. From a flow (F, s, s, 2).
    """
    side, maps = flow.shape[1], flow.movedim(-1, 1)
    across = _slopes(maps) * side / 2  # (F, 2, s, s): cells per cell
    down = _slopes(maps.transpose(-1, -2)).transpose(-1, -2) * side / 2
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    return F.avg_pool2d(area[:, None].clamp(0, 2), 3, 1, 1, count_include_pad=False)


def _slopes(maps: Tensor) -> Tensor:
    """Change of maps (..., s) per cell along the last axis: central differences, one-sided at the ends."""
    steps = maps[..., 1:] - maps[..., :-1]
    return torch.cat([steps[..., :1], (steps[..., 1:] + steps[..., :-1]) / 2, steps[..., -1:]], dim=-1)


def fill(values: Tensor, weight: Tensor) -> Tensor:
    """Values (N, C, s, s), already times weight (N, 1, s, s) in [0, 1], carried smoothly to where the weight is 0.

    Push and pull over halved sides: what is known stays as it is.
    """
    pyramid = []
    while values.shape[-1] > 1:
        pyramid.append((values, weight))
        values, weight = F.avg_pool2d(values, 2), F.avg_pool2d(weight, 2)
        grown = (4 * weight).clamp(max=1)
        values, weight = values / weight.clamp(min=1e-6) * grown, grown
    filled = values / weight.clamp(min=1e-6)
    for values, weight in reversed(pyramid):
        wider = F.interpolate(filled, size=values.shape[-2:], mode="bilinear", align_corners=False)
        filled = values + (1 - weight) * wider
    return filled
