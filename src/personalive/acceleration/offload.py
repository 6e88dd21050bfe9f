"""What leaves the GPU when: policies as data, and hooks that carry them out. The denoising loop never notices.

A part that leaves is on the device only while it computes: its hooks bring it (and its inputs) there and take it away
again. That suits parts that compute rarely: once per portrait, or once per keyframe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personalive.contracts import Networks
from personalive.errors import ConfigError

PARTS = (
    "image_encoder",
    "autoencoder.encoder",
    "autoencoder.decoder",
    "reference_unet",
    "denoising_unet",
    "motion_extractor",
    "motion_encoder",
    "pose_guider",
    "reference_warp",
)
"""What a plan counts by itself; together all of a model's weights. Not every model has a reference warp."""


@dataclass(frozen=True)
class Policy:
    """The parts that leave the device while they do not compute, and whether a chunk is decoded beside the next one."""

    name: str
    leaves: tuple[str, ...] = ()
    beside: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.leaves) - set(PARTS)
        if unknown:
            raise ConfigError(f"offload policy {self.name}: there is no part {', '.join(sorted(unknown))}")


IN_PLACE = Policy("all in place")
"""For a CPU: there is nowhere to go."""

PRESETS = {
    "24GB": Policy("24GB", beside=True),
    # Both serve a portrait once, when it comes.
    "12GB": Policy("12GB", ("image_encoder", "autoencoder.encoder")),
    # The reference UNet serves a portrait once, and then at most once for each keyframe slot.
    "8GB": Policy("8GB", ("image_encoder", "autoencoder.encoder", "reference_unet")),
}
"""By the size of the card, from the quickest on; which one fits is for the memory plan to say."""

Move = Callable[[nn.Module, torch.device], object]


def _move(module: nn.Module, device: torch.device) -> None:
    module.to(device)


def apply(networks: Networks, policy: Policy, device: torch.device, rest: str = "cpu", move: Move = _move) -> None:
    """Send the leaving parts to `rest`, and make them come back to `device` whenever they compute.

    The networks are changed in place and serve as before. Not for several threads that compute with the same networks.
    """
    for part in policy.leaves:
        module = submodule(networks, part)
        resting = torch.device(rest)

        def come(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            move(module, device)
            return _inputs_to(args, device), {name: _inputs_to(value, device) for name, value in kwargs.items()}

        def leave(module: nn.Module, args: Any, output: Any, resting: torch.device = resting) -> None:
            del args, output  # the hook's signature
            move(module, resting)

        module.register_forward_pre_hook(come, with_kwargs=True)
        module.register_forward_hook(leave, always_call=True)
        move(module, resting)


def submodule(networks: Networks, part: str) -> nn.Module:
    """The module of one of `PARTS`."""
    network, _, inner = part.partition(".")
    module: nn.Module = getattr(networks, network)
    return module.get_submodule(f"model.{inner}") if inner else module


def _inputs_to(value: Any, device: torch.device) -> Any:
    """Tensors, and tuples of them, on the device; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_inputs_to(item, device) for item in value)
    return value
