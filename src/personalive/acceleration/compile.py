"""torch.compile of the window pass: static shapes, so one graph for each number of keyframes."""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.acceleration.swap import own_unet, swap
from personalive.contracts import KeyValues, MotionSignals, Networks


def compile_window(networks: Networks, mode: str | None = None, backend: str = "inductor") -> Networks:
    """The networks with a compiled window pass; compiling happens at the first step of each number of keyframes.

    mode: torch.compile's, e.g. "max-autotune" or "reduce-overhead" (CUDA graphs). `dynamic` stays off: one graph for
    all sizes is known to be slower than none.
    """
    unet = own_unet(networks)

    def run(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        prediction: Tensor = unet(latents, timesteps, image_token, signals, shared)
        return prediction

    if backend != "inductor":  # no other backend knows modes
        return swap(networks, torch.compile(run, fullgraph=True, dynamic=False, backend=backend))
    return swap(networks, torch.compile(run, fullgraph=True, dynamic=False, mode=mode))
