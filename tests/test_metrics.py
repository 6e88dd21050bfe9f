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


def test_ms_ssim_of_equal_pictures_is_one_and_falls_with_noise() -> None:
    x = torch.nn.functional.avg_pool2d(pictures(side=64), 3, 1, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert metrics.ms_ssim(x, x).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    values = [metrics.ms_ssim((x + s * noise).clamp(0, 1), x).mean().item() for s in (0.02, 0.1, 0.3)]
    assert 1 > values[0] > values[1] > values[2] >= 0
    with pytest.raises(ValueError, match="smaller than the window"):
        metrics.ms_ssim(x[..., :10, :10], x[..., :10, :10])


@pytest.mark.parametrize("side", [176, 200])
def test_similarities_against_torchmetrics(side: int) -> None:
    reference = pytest.importorskip("torchmetrics.functional.image")
    x = torch.nn.functional.avg_pool2d(pictures(3, side), 5, 1, 2)
    y = (0.8 * x + 0.2 * torch.nn.functional.avg_pool2d(pictures(4, side), 3, 1, 1)).clamp(0, 1)
    _, whole = reference.structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    inside = whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # its mean takes reflected borders in; the paper's and ours do not
    assert metrics.ssim(x, y).tolist() == pytest.approx(inside.tolist(), abs=1e-5)
    theirs = reference.multiscale_structural_similarity_index_measure(x, y, data_range=1.0)
    assert metrics.ms_ssim(x, y).mean().item() == pytest.approx(theirs.item(), abs=5e-3)  # borders, at one scale
    theirs = reference.peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="none")
    assert metrics.psnr(x, y).tolist() == pytest.approx(theirs.tolist(), abs=1e-3)


def test_sharpness_is_zero_when_flat_known_for_a_dot_and_falls_with_blur() -> None:
    assert metrics.sharpness(torch.full((1, 3, 9, 9), 0.4)).item() == pytest.approx(0, abs=1e-9)
    dot = torch.zeros(1, 3, 9, 9)
    dot[..., 4, 4] = 1
    assert metrics.sharpness(dot).item() == pytest.approx((16 + 4) / 49, rel=1e-5)  # -4 once, 1 four times, mean 0
    x = pictures(side=64)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (metrics.sharpness(blurred) < 0.5 * metrics.sharpness(x)).all()


def test_pyramid_distance_knows_equal_shifted_and_fine_change() -> None:
    x = pictures(side=32) * 0.5
    assert metrics.pyramid_distance(x, x).tolist() == [0, 0]
    assert metrics.pyramid_distance(x + 0.1, x).tolist() == pytest.approx([0.1, 0.1], abs=1e-6)
    checks = torch.zeros(1, 1, 32, 32)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = 0.1
    fine = x[:1] + checks - 0.05
    assert metrics.pyramid_distance(fine, x[:1]).item() == pytest.approx(0.05 / 4, abs=1e-6)  # gone at coarser scales
