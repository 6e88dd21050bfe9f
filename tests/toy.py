"""Toy networks with fixed random weights and random signals for them: fixtures of behaviour tests, no tests here."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalive.config import TOY, ModelConfig, override
from personalive.contracts import MotionSignals, Networks, ReferenceFeatures
from personalive.media.frames import Pixels
from personalive.models.landmark_network import LandmarkNetwork
from personalive.motion import signals
from personalive.motion.signals import Observation
from personalive.streaming import engine
from personalive.streaming.state import StreamState
from personalive.weights.load import build_networks, modules
from toy_mesh import WARP, toy_mesh


@functools.cache
def networks_of(assignments: tuple[tuple[str, Any], ...]) -> Networks:
    """`toy_networks`, by pairs of names and values."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        networks = build_networks(override(TOY, dict(assignments)))
        for module in modules(networks).values():
            for parameter in module.parameters():
                # Residual branches may start at zero, so that fresh networks ignore the signals; here nothing does.
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
        # Heads inside the picture, otherwise there would be nothing to draw.
        detector = networks.motion_extractor.detector
        for layer in (detector.fc_kp, detector.fc_t, detector.fc_scale):
            layer.weight.mul_(0.05)
        detector.fc_kp.bias.normal_(std=0.3)
    return networks


class PlacedLandmarks(LandmarkNetwork):
    """A landmark network that sees the toy mesh's face in the middle of a crop, moved a little by what is there."""

    places: Tensor

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        points, spread = super().forward(faces)
        return self.places + 0.02 * points, spread


@functools.cache
def warp_networks_of(assignments: tuple[tuple[str, Any], ...]) -> Networks:
    """`warp_networks`, by pairs of names and values."""
    plain = networks_of(())
    config = override(dataclasses.replace(TOY, warp=WARP), dict(assignments))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        networks = build_networks(config)
        for name, module in modules(plain).items():
            modules(networks)[name].load_state_dict(module.state_dict())
        warp = networks.reference_warp
        assert warp is not None
        warp.mesh.load_state_dict(toy_mesh().state_dict())
        # Fresh ones tell nothing: what is drawn, moved and mixed would not depend on the pictures.
        for layer in (warp.guider.conv_out_modify, warp.surface.last, warp.compositor.last, warp.expression.second):
            layer.weight.normal_(std=0.3 * layer.weight[0].numel() ** -0.5)
        warp.expression.linear.bias.fill_(0.4)
        placed = PlacedLandmarks(config.warp.landmarks)
        placed.load_state_dict(warp.landmarks.state_dict())
        marks = warp.mesh.mean[warp.mesh.landmarks.long(), :2]
        placed.places = (marks - marks.mean(0)) / 16
        warp.landmarks = placed.eval()
    return networks


def warp_networks(**assignments: Any) -> Networks:
    """`toy_networks` with a reference warp: pictures of 64 px from networks that compute at 32."""
    return warp_networks_of(tuple((name.replace("__", "."), value) for name, value in assignments.items()))


def toy_networks(**assignments: Any) -> Networks:
    """Networks at TOY's sizes, shared: do not change. Keywords replace fields, `__` for the dot: stream__tau=0.1."""
    return networks_of(tuple((name.replace("__", "."), value) for name, value in assignments.items()))


def picture(seed: int, side: int = TOY.image_size) -> Pixels:
    """A random square picture (side, side, 3), smooth enough to differ from frame to frame like pictures do."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(rough, np.ones((side // 4, side // 4, 1), dtype=np.uint8)))


def pictures(count: int, seed: int = 100) -> Pixels:
    """`count` different frames (count, side, side, 3)."""
    return np.stack([picture(seed + i) for i in range(count)]) if count else np.zeros((0, 32, 32, 3), dtype=np.uint8)


def reference(networks: Networks, seed: int = 0) -> tuple[ReferenceFeatures, Observation]:
    """A random reference, encoded without gradient."""
    with torch.no_grad():
        return signals.encode_reference(networks, picture(seed))


def random_signals(config: ModelConfig, frames: int, seed: int, sessions: int = 1) -> MotionSignals:
    """Signals (sessions, frames, ...) of order 1."""
    generator = torch.Generator().manual_seed(seed)
    unet, side = config.unet, config.latent_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(sessions, frames, *shape, generator=generator)

    return MotionSignals(normal(unet.motion_tokens, unet.motion_dim), normal(unet.channels[0], side, side))


def started(networks: Networks, seed: int = 0) -> StreamState:
    """A stream of one session: reference, lead-in and noise all depend on the seed."""
    features, observation = reference(networks, seed)
    with torch.no_grad():
        lead_in = random_signals(networks.config, networks.config.stream.lead_in_frames, 1000 + seed)
        return engine.start(networks, features, lead_in, seed, reference_motion=observation.motion)
