"""The reference warp's networks in other runtimes: those that every frame needs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from personalive.acceleration.export import without_chatter
from personalive.acceleration.runtimes import Elsewhere, in_openvino, open_session
from personalive.contracts import Networks
from personalive.models.compact_unet import CompactUNet
from personalive.models.landmark_network import LandmarkNetwork, LandmarksElsewhere
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_warp import COMPOSE_INPUTS, GUIDE_INPUTS


def warp_by_openvino(networks: Networks, precision: str) -> Networks:
    """The networks with what the reference warp computes for every frame in OpenVINO, for any number of frames."""
    return _swap_warp(networks, lambda network, shape: in_openvino(network, shape, precision))


def warp_by_onnxruntime(networks: Networks) -> Networks:
    """The networks with what the reference warp computes for every frame in onnxruntime, for any number of frames."""
    return _swap_warp(networks, _in_onnxruntime)


def _swap_warp(networks: Networks, swap: Callable[[nn.Module, tuple[int, ...]], nn.Module]) -> Networks:
    """The networks with what each frame needs of the reference warp's networks computed elsewhere.

    swap: such a network and the shape of its input -> another that gives the same. What is computed once a portrait
    stays in torch, and the geometry, which rounding would cost pixels. Without a reference warp nothing changes.
    """
    warp = networks.reference_warp
    if warp is None:
        return networks
    swapped = copy.copy(warp)  # shares all networks but those that are replaced
    swapped._modules = dict(warp._modules)
    size, grid = networks.config.image_size, warp.config.grid
    side = warp.landmarks.config.image_size
    evidence = swap(_Evidence(warp.landmarks).eval(), (3, side, side))
    swapped.landmarks = cast(LandmarkNetwork, LandmarksElsewhere(warp.landmarks, evidence))
    swapped.guider = cast(PoseGuider, swap(warp.guider, (GUIDE_INPUTS, size, size)))
    swapped.compositor = cast(CompactUNet, swap(warp.compositor, (COMPOSE_INPUTS, grid, grid)))
    return dataclasses.replace(networks, reference_warp=swapped)


class _Evidence(nn.Module):
    """The landmark network without its last, exact step."""

    def __init__(self, network: LandmarkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        return self.network.evidence(faces)


def _in_onnxruntime(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A network of one input (N, *shape), any N, and one output, computed by onnxruntime."""
    with without_chatter():
        program = torch.onnx.export(
            network, (torch.zeros(2, *shape),), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("n")},)
        )
    assert program is not None
    return Elsewhere(open_session(program.model_proto.SerializeToString()))
