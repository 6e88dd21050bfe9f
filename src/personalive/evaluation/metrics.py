"""Image metrics on pictures in [0, 1]; each is documented with its formula, range and direction."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


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
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (top / bottom).mean((1, 2, 3))


def region(landmarks: Tensor, first: int, last: int, side: int, margin: float) -> Tensor:
    """Masks (N, 1, side, side) of the boxes around landmarks first..last-1 of (N, 68, 2) in [-1, 1], grown a bit."""
    points = landmarks[:, first:last]
    low, high = points.amin(1) - margin, points.amax(1) + margin  # (N, 2) x, y
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    across = (centres > low[:, :1]) & (centres < high[:, :1])  # (N, side)
    down = (centres > low[:, 1:]) & (centres < high[:, 1:])
    return (down[:, :, None] & across[:, None])[:, None].float()
