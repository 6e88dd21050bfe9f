from __future__ import annotations

import math

import pytest
import torch

from personalive.evaluation import metrics


def pictures(seed: int = 0, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, side, side, generator=generator)


def test_equal_pictures_are_perfect() -> None:
    x = pictures()
    assert metrics.l1(x, x).tolist() == [0.0, 0.0]
    assert all(math.isinf(v) for v in metrics.psnr(x, x).tolist())
    assert metrics.ssim(x, x).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_constant_shift_has_known_values() -> None:
    x = pictures() * 0.5
    assert metrics.l1(x + 0.1, x).tolist() == pytest.approx([0.1, 0.1], abs=1e-6)
    assert metrics.psnr(x + 0.1, x).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert metrics.ssim(a, b).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_falls_as_noise_grows() -> None:
    x = torch.nn.functional.avg_pool2d(pictures(side=64), 3, 1, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    values = [metrics.ssim((x + s * noise).clamp(0, 1), x).mean().item() for s in (0.02, 0.1, 0.3)]
    assert 1 > values[0] > values[1] > values[2] > 0


def test_a_mask_counts_only_its_area() -> None:
    x = torch.zeros(1, 3, 8, 8)
    y = x.clone()
    y[..., :4] = 1.0
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    assert metrics.l1(y, x, left).item() == 1.0
    assert metrics.l1(y, x, 1 - left).item() == 0.0


def test_region_is_the_grown_box_of_its_landmarks() -> None:
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, 48:68, 0] = torch.linspace(-0.5, 0.5, 20)
    mask = metrics.region(landmarks, 48, 68, 16, margin=0.25)
    assert mask.sum().item() == 12 * 4  # x in (-0.75, 0.75), y in (-0.25, 0.25), pixels of 1/8
    assert mask[0, 0, 8, 8] == 1
    assert mask[0, 0, 0, 8] == 0
