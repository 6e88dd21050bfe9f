"""The person's outline along the portrait's own edges."""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.warp.flow import identity_grid
from personalive.warp.matte import refine_figure

SIDE = 64


def disc(radius: float, right: float = 0.0) -> Tensor:
    """1 inside a disc, 0 outside: (s, s)."""
    grid = identity_grid(SIDE, torch.zeros(1))
    inside: Tensor = (grid - torch.tensor([right, 0.0])).norm(dim=-1) < radius
    return inside.float()


def picture(person: Tensor) -> Tensor:
    """A grainy red person before a grainy blue wall: (1, 3, s, s)."""
    torch.manual_seed(0)
    colours = torch.tensor([0.7, 0.3, 0.2])[:, None, None] * person + torch.tensor([0.2, 0.3, 0.7])[:, None, None] * (
        1 - person
    )
    return (colours + 0.03 * torch.randn(3, SIDE, SIDE)).clamp(0, 1)[None]


def test_the_border_goes_where_the_picture_has_one() -> None:
    person = disc(0.55)
    said = 0.9 * disc(0.5, right=0.12)  # a little beside it
    refined = refine_figure(picture(person), said, disc(0.3))
    assert float((refined - person).abs().mean()) < 0.25 * float((said - person).abs().mean())
    assert float((refined[disc(0.3) > 0]).min()) > 0.9  # the mesh is the person


def test_equal_pictures_give_equal_masks() -> None:
    person = disc(0.55)
    first = refine_figure(picture(person), 0.9 * disc(0.5), disc(0.3))
    refine_figure(picture(disc(0.2)), 0.9 * disc(0.25), disc(0.1))  # another one in between
    assert torch.equal(refine_figure(picture(person), 0.9 * disc(0.5), disc(0.3)), first)


def test_without_any_certain_background_the_network_has_the_last_word() -> None:
    said = torch.full((SIDE, SIDE), 0.6)
    assert torch.equal(refine_figure(picture(disc(0.55)), said, disc(0.3)), said)


def test_a_picture_of_one_colour_is_no_error() -> None:
    grey = torch.full((1, 3, SIDE, SIDE), 0.5)
    mask = refine_figure(grey, 0.9 * disc(0.5), disc(0.3))
    assert mask.shape == (SIDE, SIDE)
    assert float(mask.min()) >= 0
    assert float(mask.max()) <= 1
