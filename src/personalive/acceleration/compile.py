"""torch.compile of the window pass: static shapes, so one graph for each number of keyframes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from personalive.acceleration.swap import each_session, own_unet, swap
from personalive.contracts import KeyValues, MotionSignals, Networks

GRAPHS = 64
"""How many torch's compiler may make in one process; beyond its own limit of 8 it raises. A model takes one for each
number of keyframes, of which there are up to 9."""


def compile_window(networks: Networks, mode: str | None = None, backend: str = "inductor") -> Networks:
    """The networks with a compiled window pass; compiling happens at the first step of each number of keyframes.

    mode: torch.compile's, e.g. "max-autotune" or "reduce-overhead" (CUDA graphs). `dynamic` stays off: one graph for
    all sizes is known to be slower than none. Sessions of a batch go one by one: another graph for each number of
    viewers would stop all of them for the minute that it takes.
    """
    unet = own_unet(networks)

    def run(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        prediction: Tensor = unet(latents, timesteps, image_token, signals, shared)
        return prediction

    # No other backend knows modes.
    options: dict[str, Any] = {"mode": mode} if backend == "inductor" else {"backend": backend}
    compiled = torch.compile(run, fullgraph=True, dynamic=False, **options)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    return swap(networks, each_session(compiled))
