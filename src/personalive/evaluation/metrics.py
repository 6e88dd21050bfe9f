"""Image metrics on pictures in [0, 1]; each is documented with its formula, range and direction."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LUMA = (0.299, 0.587, 0.114)


def l1(output: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference per picture, 0..1, lower is better: (N, 3, H, W) twice -> (N,).

    mask (N, 1, H, W) with weights in [0, 1]: the mean is over its area; NaN where the area is empty.
    """
    error = (output - truth).abs().mean(1, keepdim=True)  # (N, 1, H, W)
    if mask is None:
        return error.mean((1, 2, 3))
    return (error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))


def psnr(output: Tensor, truth: Tensor) -> Tensor:
    """-10 log10(mean squared error) per picture, dB, higher is better, infinite for equal pictures: -> (N,)."""
    return -10 * torch.log10((output - truth).square().mean((1, 2, 3)))


def ssim(output: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity per picture, at most 1 (equal), higher is better: (N, 3, H, W) twice -> (N,).

    Wang et al. 2004: Gaussian window 11x11 of standard deviation 1.5, K1 = 0.01, K2 = 0.03, data range 1, valid
    windows only, mean over positions and channels.
    """
    return _similarity(output, truth)[0]


def ms_ssim(output: Tensor, truth: Tensor) -> Tensor:
    """Multi-scale structural similarity per picture, 0..1 (equal), higher is better: (N, 3, H, W) twice -> (N,).

    Wang, Simoncelli and Bovik 2003: the product over scales of contrast-structure terms, and of the whole similarity
    at the coarsest, each (negative ones as 0) to the power of MS_WEIGHTS; 2x2 averages between scales. Five scales
    need a side of 161; of smaller pictures the first scales that fit an 11x11 window count (four at 128), with their
    weights brought to a sum of 1. Such figures compare with each other only. Raises ValueError below 11 pixels.
    """
    side = min(output.shape[-2:])
    scales = next((n for n in range(5, 0, -1) if (side - 1) >> (n - 1) >= SSIM_WINDOW - 1), 0)
    if not scales:
        raise ValueError(f"pictures of {side} pixels are smaller than the window of {SSIM_WINDOW}")
    weights = torch.tensor(MS_WEIGHTS[:scales], dtype=output.dtype)
    terms = []
    for scale in range(scales):
        whole, structure = _similarity(output, truth)
        terms.append(whole if scale == scales - 1 else structure)
        output, truth = functional.avg_pool2d(output, 2), functional.avg_pool2d(truth, 2)
    powers = (weights / weights.sum())[:, None]
    return (torch.stack(terms).clamp(min=0) ** powers).prod(0)


def _similarity(output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean similarity and mean contrast-structure term of each picture: (N,), (N,)."""
    channels = output.shape[1]
    place = torch.arange(SSIM_WINDOW, dtype=output.dtype) - SSIM_WINDOW // 2
    line = torch.exp(-place.square() / (2 * SSIM_SIGMA**2))
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(channels, 1, -1, -1).contiguous()

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(image, kernel, groups=channels)

    mean_x, mean_y = blur(output), blur(truth)
    var_x = blur(output.square()) - mean_x.square()
    var_y = blur(truth.square()) - mean_y.square()
    covariance = blur(output * truth) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * structure).mean((1, 2, 3)), structure.mean((1, 2, 3))


def sharpness(pictures: Tensor) -> Tensor:
    """Variance of the Laplacian of luma per picture, 0 (flat) upwards, of no unit: (N, 3, H, W) -> (N,).

    Luma 0.299 R + 0.587 G + 0.114 B; the four-neighbour Laplacian, valid positions. Noise raises it as detail does.
    """
    luma = (pictures * torch.tensor(LUMA, dtype=pictures.dtype)[:, None, None]).sum(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=pictures.dtype)
    return functional.conv2d(luma, kernel[None, None]).var((1, 2, 3), unbiased=False)


def pyramid_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean L1 over a picture and its averages over 2, 4 and 8 pixels, 0 (equal)..1: (N, 3, H, W) twice -> (N,).

    The stand-in where LPIPS is not installed: fine change and coarse change count alike, as they do not in plain L1.
    """
    difference = first - second
    scales = [difference if size == 1 else functional.avg_pool2d(difference, size) for size in (1, 2, 4, 8)]
    return torch.stack([scale.abs().mean((1, 2, 3)) for scale in scales]).mean(0)


def region(landmarks: Tensor, first: int, last: int, side: int, margin: float) -> Tensor:
    """Masks (N, 1, side, side) of the boxes around landmarks first..last-1 of (N, 68, 2) in [-1, 1], grown a bit."""
    points = landmarks[:, first:last]
    low, high = points.amin(1) - margin, points.amax(1) + margin  # (N, 2) x, y
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    across = (centres > low[:, :1]) & (centres < high[:, :1])  # (N, side)
    down = (centres > low[:, 1:]) & (centres < high[:, 1:])
    return (down[:, :, None] & across[:, None])[:, None].float()
