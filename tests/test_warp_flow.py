"""From where a portrait's cells go to where a frame's cells come from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from personalive.warp.flow import density, fill, identity_grid, invert, invert_smooth, nearest_points, sample

SIDE = 64
CELL = 2 / SIDE


def grid(side: int = SIDE) -> Tensor:
    return identity_grid(side, torch.zeros(()))


def wave(points: Tensor) -> Tensor:
    """A known smooth motion of points (..., 2)."""
    x, y = points.unbind(-1)
    return points + 0.06 * torch.stack([torch.sin(3 * y + 1), torch.cos(2.5 * x)], dim=-1)


def everywhere(side: int = SIDE) -> Tensor:
    return torch.ones(side, side, dtype=torch.bool)


def middle(values: Tensor, margin: int = 8) -> Tensor:
    return values[:, margin:-margin, margin:-margin]


def test_the_grid_has_the_cells_centres() -> None:
    assert grid(2).tolist() == [[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]]
    maps = torch.rand(1, 3, SIDE, SIDE)
    assert torch.allclose(sample(maps, grid()[None]), maps, atol=1e-5)


def test_the_nearer_point_is_taken() -> None:
    places = grid(4)[1, 2].expand(1, 3, 2)  # three points on one cell
    depth = torch.tensor([[5.0, -1.0, 2.0]])
    winner, reached = nearest_points(places, depth, 4)
    assert int(winner[0, 1 * 4 + 2]) == 1
    assert float(reached[0, 0, 1, 2]) == 1
    winner, _ = nearest_points(places, depth, 4, torch.tensor([True, False, True]))
    assert int(winner[0, 1 * 4 + 2]) == 2  # of those that count
    _, nobody = nearest_points(places, depth, 4, torch.zeros(3, dtype=torch.bool))
    assert float(nobody.sum()) == 0


def test_points_beyond_the_picture_reach_no_cell() -> None:
    _, reached = nearest_points(torch.tensor([[[3.0, 0.0], [0.0, -2.0]]]), torch.zeros(1, 2), 8)
    assert float(reached.sum()) == 0


def test_a_smooth_motion_is_undone_to_a_fraction_of_a_cell() -> None:
    moved = wave(grid())[None]
    flow, reached = invert(moved, torch.zeros(1, SIDE, SIDE), everywhere())
    assert float(middle(reached[:, 0]).min()) == 1
    off = (wave(flow) - grid()).norm(dim=-1)
    assert float(middle(off).max()) < 0.05 * CELL
    smooth = (wave(invert_smooth(moved)) - grid()).norm(dim=-1)
    assert float(middle(smooth).max()) < 0.05 * CELL


def test_frames_are_inverted_apart() -> None:
    moved = torch.stack([grid(), wave(grid()), grid() + 0.1])
    flow, _ = invert(moved, torch.zeros(3, SIDE, SIDE), everywhere())
    alone, _ = invert(moved[1:2], torch.zeros(1, SIDE, SIDE), everywhere())
    assert torch.allclose(flow[1], alone[0], atol=1e-6)
    assert torch.allclose(middle(flow[2:]), middle(grid()[None] - 0.1), atol=1e-5)


def test_a_tear_opens_a_gap() -> None:
    left = (grid()[..., :1] < 0).float()
    moved = grid() + torch.cat([0.25 * (1 - 2 * left), torch.zeros(SIDE, SIDE, 1)], dim=-1)
    flow, reached = invert(moved[None], torch.zeros(1, SIDE, SIDE), everywhere())
    x = grid()[..., 0]
    assert float(reached[0, 0][x.abs() < 0.25 - CELL].max()) == 0
    inside = (x.abs() > 0.25 + CELL) & (x.abs() < 0.9)
    assert float(reached[0, 0][inside].min()) == 1
    expected = x - 0.25 * x.sign()
    assert torch.allclose(flow[0, ..., 0][inside], expected[inside], atol=0.05 * CELL)


def test_what_is_in_front_covers_what_is_behind() -> None:
    """The right half moves over the left one."""
    right = grid()[..., 0] > 0
    moved = grid() - torch.stack([0.5 * right, torch.zeros(SIDE, SIDE)], dim=-1)
    depth = torch.where(right, -1.0, 1.0)
    for nearer, source in ((depth, 0.25), (-depth, -0.25)):
        flow, _ = invert(moved[None], nearer[None], everywhere())
        assert float(flow[0, SIDE // 2, 3 * SIDE // 8, 0]) == pytest.approx(source, abs=2 * CELL)


def test_fill_keeps_what_is_known() -> None:
    values = torch.rand(2, 3, SIDE, SIDE)
    known = (torch.rand(2, 1, SIDE, SIDE) < 0.3).float()
    filled = fill(values * known, known)
    assert torch.equal(filled * known, values * known)
    assert float(filled.min()) >= 0
    assert float(filled.max()) <= 1
    even = fill(0.7 * known, known)
    assert torch.allclose(even, torch.full_like(even, 0.7), atol=1e-5)
    alone = torch.zeros(1, 1, SIDE, SIDE)
    alone[0, 0, 5, 9] = 1
    assert torch.allclose(fill(0.4 * alone, alone), torch.full_like(alone, 0.4), atol=1e-5)


@pytest.mark.parametrize("zoom", [1.0, 2.0, 4.0])
def test_the_density_of_a_zoom(zoom: float) -> None:
    found = density(grid()[None] / zoom)
    assert torch.allclose(found, torch.full((1, 1, SIDE, SIDE), 1 / zoom**2), atol=1e-4)  # at the border, too


def test_density_of_a_turn_and_of_a_line() -> None:
    turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    assert torch.allclose(density(grid()[None] @ turn), torch.ones(()), atol=1e-4)
    flat = grid()[None] * torch.tensor([1.0, 0.0])
    assert torch.equal(density(flat), torch.zeros(1, 1, SIDE, SIDE))
    assert torch.equal(density(-grid()[None] * torch.tensor([1.0, -1.0])), torch.zeros(1, 1, SIDE, SIDE))  # mirrored
