"""Tells true pictures from made ones, for the adversarial term: StyleGAN2's residual discriminator, small."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Down(nn.Module):
    """Two convolutions, half the side, residual."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, out, 3, padding=1)
        self.skip = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.leaky_relu(self.conv1(x), 0.2)
        h = functional.avg_pool2d(functional.leaky_relu(self.conv2(h), 0.2), 2)
        result: Tensor = (h + self.skip(functional.avg_pool2d(x, 2))) * 2**-0.5
        return result


class Discriminator(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1], S a multiple of 16 -> scores (N, S/16, S/16), high for true ones.

    As in StyleGAN2 the last map sees how much the pictures of the batch differ (their standard deviation).
    """

    def __init__(self, width: int, levels: int = 4) -> None:
        super().__init__()
        widths = [min(width * 2**level, 8 * width) for level in range(levels + 1)]
        self.first = nn.Conv2d(3, width, 1)
        self.blocks = nn.Sequential(*(_Down(a, b) for a, b in itertools.pairwise(widths)))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Conv2d(widths[-1], 1, 1)
        for layer in self.modules():  # torch's own start shrinks the signal layer by layer until nothing is learned
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, 0.2)

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        x = self.blocks(functional.leaky_relu(self.first(pictures), 0.2))
        spread = x.float().var(0, unbiased=False).add(1e-8).sqrt().mean()
        x = torch.cat([x, spread.to(x.dtype).expand(len(x), 1, *x.shape[2:])], 1)
        scores: Tensor = self.score(functional.leaky_relu(self.last(x), 0.2))
        return scores[:, 0].float()
