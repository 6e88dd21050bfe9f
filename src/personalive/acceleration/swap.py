"""One callable instead of the denoising UNet's window pass: every acceleration is one, and the loop never notices.

A pass takes a window in which all keyframes that count stand behind the reference as more of the same keys and values,
so that its shapes are fixed by their number alone and no mask is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from personalive.contracts import Keyframes, KeyValues, MotionSignals, Networks
from personalive.models.denoising_unet import DenoisingUNet
from personalive.streaming.state import map_tensors


class WindowPass(Protocol):
    """The UNet over one window, without a gradient."""

    def __call__(
        self, latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        """The prediction (B, F, C, h, w).

        latents (B, F, C, h, w); timesteps (B, F); image_token (B, 1, D); shared: keys and values of the reference and
        its K keyframes, (B, heads, (1 + K) * n, d) each.
        """
        ...


class SwappedUNet(nn.Module):
    """A denoising UNet whose window pass is another callable; parameters, `config` and `project` are its own.

    What the callable was not made for (sessions with different keyframes in one batch, chunk attention, no temporal
    modules) goes the UNet's own way.
    """

    def __init__(self, unet: DenoisingUNet, run: WindowPass | Mapping[int, WindowPass]) -> None:
        """run: one pass for any number of keyframes, or one for each of some numbers."""
        super().__init__()
        self.unet = unet
        self.config = unet.config
        self.project = unet.project
        self._run = run

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        image_token: Tensor,
        signals: MotionSignals,
        reference: KeyValues,
        keyframes: Keyframes | None = None,
        chunk_frames: int | None = None,
        temporal: bool = True,
    ) -> Tensor:
        """See `DenoisingUNet.forward`."""
        slots = slots_in_use(keyframes)
        run = None if slots is None else self._run.get(len(slots)) if isinstance(self._run, Mapping) else self._run
        if slots is None or run is None or chunk_frames is not None or not temporal or torch.is_grad_enabled():
            own: Tensor = self.unet(
                latents, timesteps, image_token, signals, reference, keyframes, chunk_frames, temporal
            )
            return own
        return run(latents, timesteps, image_token, signals, append(reference, keyframes, slots))


def swap(networks: Networks, run: WindowPass | Mapping[int, WindowPass]) -> Networks:
    """The networks with another window pass, or another for each of some numbers of keyframes. The rest is shared."""
    unet = own_unet(networks)
    return dataclasses.replace(networks, denoising_unet=cast(DenoisingUNet, SwappedUNet(unet, run)))


def each_session(one: WindowPass) -> WindowPass:
    """A pass for any number of sessions by one that takes a single one, of fixed shapes and strides."""

    def run(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        together = (latents, timesteps, image_token, signals, shared)
        alone = [map_tensors(lambda tensor, b=b: plain(tensor[b : b + 1]), together) for b in range(latents.shape[0])]
        return torch.cat([one(*arguments) for arguments in alone])

    return run


def plain(tensor: Tensor) -> Tensor:
    """The tensor with the strides of its shape; a copy only where the numbers lie in another order.

    Compiled code reads memory as the tensors lay that it was compiled with, often without a check. A session's own keys
    are a transposed view, those of one that was in a batch are not.
    """
    return tensor.contiguous().flatten().view(tensor.shape)


def own_unet(networks: Networks) -> DenoisingUNet:
    """The UNet itself, whatever was put in for it before."""
    unet: nn.Module = networks.denoising_unet
    return unet.unet if isinstance(unet, SwappedUNet) else cast(DenoisingUNet, unet)


def slots_in_use(keyframes: Keyframes | None) -> list[int] | None:
    """The slots that every session uses; None where the sessions differ."""
    if keyframes is None or keyframes.used.shape[1] == 0:
        return []
    table: list[list[bool]] = keyframes.used.tolist()
    if any(row != table[0] for row in table):
        return None
    return [slot for slot, used in enumerate(table[0]) if used]


def append(reference: KeyValues, keyframes: Keyframes | None, slots: list[int]) -> KeyValues:
    """The reference's keys and values followed by those of some keyframe slots: (B, heads, (1 + K) * n, d) each."""
    if keyframes is None or not slots:
        return reference

    def joined(own: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([first, *(rest[:, slot] for slot in slots)], dim=2) for first, rest in zip(own, more, strict=True)
        )

    key_values = keyframes.key_values
    return KeyValues(joined(reference.keys, key_values.keys), joined(reference.values, key_values.values))
