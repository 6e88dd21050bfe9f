"""The networks of the reference warp, together one module of a model; how they are used: `personalive.warp`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import WarpConfig
from personalive.models.compact_unet import CompactUNet
from personalive.models.face_mesh import FaceMesh
from personalive.models.landmark_network import LandmarkNetwork
from personalive.models.pose_guider import PoseGuider

SURFACE_INPUTS, SURFACE_OUTPUTS = 7, 3
COMPOSE_INPUTS, COMPOSE_OUTPUTS = 14, 6
GUIDE_INPUTS = 6


class ExpressionReader(nn.Module):
    """Motion tokens -> the head mesh's expression coefficients: a linear map and, beside it, a hidden layer."""

    def __init__(self, tokens: int, hidden: int, expressions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tokens))
        self.register_buffer("deviation", torch.ones(tokens))
        self.linear = nn.Linear(tokens, expressions)
        self.first = nn.Linear(tokens, hidden)
        self.second = nn.Linear(hidden, expressions)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    mean: Tensor
    deviation: Tensor

    def forward(self, motion: Tensor) -> Tensor:
        """(N, T, D) -> (N, E), about [0, 1], not clamped."""
        linear, hidden = self.parts(self.standardise(motion))
        return linear + hidden

    def standardise(self, motion: Tensor) -> Tensor:
        """Tokens (N, T, D) in deviations from their mean: (N, T * D)."""
        return (motion.flatten(1) - self.mean) / self.deviation

    def parts(self, standardised: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear map and what the hidden layer add to the coefficients, from (N, T * D): two of (N, E)."""
        return self.linear(standardised), self.second(F.silu(self.first(standardised)))


def warp_guider(config: WarpConfig) -> PoseGuider:
    """A fresh guider, whose features are 0 at first."""
    guider = PoseGuider(config.guider)
    for parameter in guider.conv_out_modify.parameters():
        nn.init.zeros_(parameter)
    return guider


class ReferenceWarp(nn.Module):
    """What carries a portrait's own pixels to where a driven frame shows them.

    mesh: the morphable head. landmarks: where it lies in a portrait. expression: what the motion tokens say that it
    does. surface: which pixels of the portrait are the figure, how deep they lie, how rigidly they follow the head.
    guider: the warped portrait as features for the denoising UNet, added to those of the pose. compositor: how warped
    pixels, background and decoded picture make one.
    """

    def __init__(self, config: WarpConfig, tokens: int, features: int) -> None:
        """tokens: numbers of a frame's motion tokens; features: the UNet's first width."""
        super().__init__()
        self.mesh = FaceMesh(config.mesh)
        self.landmarks = LandmarkNetwork(config.landmarks)
        self.expression = ExpressionReader(tokens, config.expression_hidden, config.mesh.expressions)
        self.surface = CompactUNet(SURFACE_INPUTS, SURFACE_OUTPUTS, config.surface_channels)
        self.guider = warp_guider(config)
        self.compositor = CompactUNet(COMPOSE_INPUTS, COMPOSE_OUTPUTS, config.compositor_channels)
        self.config = config
        assert config.guider.out_channels == features

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the networks take and give numbers."""
        return self.expression.linear.weight.dtype
