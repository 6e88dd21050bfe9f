"""The reference warp's networks in other runtimes: the same pictures, landmarks to a fraction of a pixel."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch

from personalive.acceleration.warp import warp_by_onnxruntime, warp_by_openvino
from personalive.contracts import Networks
from personalive.models.landmark_network import LandmarkNetwork
from toy import toy_networks, warp_networks

RUNTIMES: dict[str, tuple[str, Callable[[Networks], Networks], float]] = {
    "onnxruntime": ("onnxruntime", warp_by_onnxruntime, 1e-5),
    "openvino": ("openvino", partial(warp_by_openvino, precision="f32"), 1e-5),
    "openvino-bfloat16": ("openvino", partial(warp_by_openvino, precision="bf16"), 0.02),
}
"""The package, what puts the networks there, and the largest difference in the networks' own units."""


@torch.no_grad()
@pytest.mark.parametrize("name", RUNTIMES)
def test_every_frames_networks_compute_the_same_elsewhere(name: str) -> None:
    package, put, error = RUNTIMES[name]
    pytest.importorskip(package)
    toys = warp_networks()
    warp = copy.deepcopy(toys.reference_warp)  # the toys are shared by all tests
    assert warp is not None
    torch.manual_seed(0)
    warp.landmarks = LandmarkNetwork(warp.config.landmarks).eval()  # theirs tells fixed places
    networks = dataclasses.replace(toys, reference_warp=warp)
    other = put(networks).reference_warp
    assert other is not None
    side = warp.landmarks.config.image_size
    for count in (1, 3):
        torch.manual_seed(count)
        faces = torch.rand(count, 3, side, side) * 2 - 1
        for found, wanted in zip(other.landmarks(faces), warp.landmarks(faces), strict=True):
            assert found.shape == wanted.shape
            assert float((found - wanted).abs().max()) < error
        size, grid = networks.config.image_size, warp.config.grid
        shown = torch.rand(count, 6, size, size)
        assert float((other.guider(shown) - warp.guider(shown)).abs().mean()) < error
        shown = torch.rand(count, 14, grid, grid)
        assert float((other.compositor(shown) - warp.compositor(shown)).abs().mean()) < error
    assert other.surface is warp.surface  # once a portrait: stays
    assert other.landmarks.config == warp.landmarks.config


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_model_without_a_warp_stays_as_it_is(name: str) -> None:
    networks = toy_networks()
    assert RUNTIMES[name][1](networks) is networks
