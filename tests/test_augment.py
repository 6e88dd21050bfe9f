"""Augmentation of driving pictures: ranges, what it changes and what it must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from personalive.training import augment

SIDE = 48


def face(count: int = 6) -> Tensor:
    """Smooth pictures with two dark eyes and a mouth."""
    centre = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    picture = torch.full((3, SIDE, SIDE), 0.7)
    for x, y in ((-0.35, -0.3), (0.35, -0.3), (0.0, 0.45)):
        spot = torch.exp(-((centre[None] - x) ** 2 + (centre[:, None] - y) ** 2) / 0.02)
        picture = picture - 0.5 * spot
    return picture.clamp(0, 1).expand(count, -1, -1, -1).clone()


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": augment.colour,
    "degrade": augment.degrade,
    "occlude": lambda x: augment.occlude(x, share=1.0),
    "blur": lambda x: augment.blur(x, share=1.0),
    "compress": lambda x: augment.compress(x, share=1.0),
    "paint_flat": lambda x: augment.paint_flat(x, share=1.0),
    "camera_look": lambda x: augment.camera_look(x, share=1.0),
    "warp": augment.warp,
    "driving_crop": augment.driving_crop,
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_change_pictures_and_stay_in_range(name: str) -> None:
    torch.manual_seed(0)
    before = face()
    kept = before.clone()
    after = STEPS[name](before)
    assert after.shape == before.shape
    assert torch.equal(before, kept)  # never in place
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert not torch.equal(after[0], after[1])  # each picture on its own


@pytest.mark.parametrize("name", STEPS)
def test_steps_repeat_with_the_seed(name: str) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(STEPS[name](face()))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "step", [augment.occlude, augment.blur, augment.compress, augment.paint_flat, augment.camera_look]
)
def test_a_share_of_none_changes_nothing(step: Callable[..., Tensor]) -> None:
    assert torch.equal(step(face(), share=0.0), face())


def roughness(images: Tensor) -> Tensor:
    across, down = images.diff(dim=-1), images.diff(dim=-2)
    return across.square().mean((1, 2, 3)) + down.square().mean((1, 2, 3))


def test_blur_takes_detail_and_keeps_brightness() -> None:
    torch.manual_seed(1)
    noisy = (face() + 0.1 * torch.randn(6, 3, SIDE, SIDE)).clamp(0, 1)
    soft = augment.blur(noisy, share=1.0)
    assert (roughness(soft) < 0.9 * roughness(noisy)).all()
    assert (soft.mean((1, 2, 3)) - noisy.mean((1, 2, 3))).abs().max() < 0.01
    flat = torch.full((2, 3, SIDE, SIDE), 0.3)
    assert torch.allclose(augment.blur(flat, share=1.0), flat, atol=1e-5)


def test_compression_makes_blocks_of_eight() -> None:
    torch.manual_seed(2)
    noisy = (face() + 0.05 * torch.randn(6, 3, SIDE, SIDE)).clamp(0, 1)
    packed = augment.compress(noisy, share=1.0, quality=(12, 12))
    steps = (packed[..., 1:] - packed[..., :-1]).abs().mean((0, 1, 2))  # (SIDE - 1,) across each column border
    border = torch.zeros(SIDE - 1, dtype=torch.bool)
    border[7::8] = True
    assert steps[border].mean() > 1.2 * steps[~border].mean()
    assert (packed - noisy).abs().mean() < 0.1


def test_occlusion_covers_a_part() -> None:
    torch.manual_seed(3)
    changed = (augment.occlude(face(40), share=1.0) != face(40)).any(1).float().mean((1, 2))
    assert float(changed.min()) > 0.003
    assert float(changed.max()) < 0.1


def test_a_warp_moves_features_a_little() -> None:
    torch.manual_seed(4)
    moved = augment.warp(face(20))
    darkness = (1 - moved.mean(1))[:, : SIDE // 2, : SIDE // 2]  # the quarter of the right eye
    peak = darkness.flatten(1).argmax(1)
    x, y = (peak % (SIDE // 2) + 0.5) / SIDE * 2 - 1, (peak // (SIDE // 2) + 0.5) / SIDE * 2 - 1
    off = torch.stack([x + 0.35, y + 0.3], -1).norm(dim=-1)
    assert 0.01 < float(off.mean()) < 0.15
    assert torch.allclose(augment.warp(face(), bend=0.0, stretch=0.0), face(), atol=1e-4)


def test_a_painted_picture_is_even_and_keeps_its_edges() -> None:
    torch.manual_seed(5)
    step = (torch.arange(SIDE) >= SIDE // 2).float().expand(4, 3, SIDE, SIDE) * 0.6 + 0.2
    flat = augment.paint_flat((step + 0.05 * torch.randn(4, 3, SIDE, SIDE)).clamp(0, 1), share=1.0, radius=0.06)
    noise = (flat - step)[..., : SIDE // 2 - 4].std()
    assert float(noise) < 0.04
    edge = flat[..., SIDE // 2 + 1] - flat[..., SIDE // 2 - 2]
    assert float(edge.mean()) > 0.45
