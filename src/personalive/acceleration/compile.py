"""torch.compile of the window pass and of the decoder: static shapes, so one graph for each of a few sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from personalive.acceleration.decoder import InPieces, swap_decoder
from personalive.acceleration.swap import each_session, own_unet, swap
from personalive.contracts import KeyValues, MotionSignals, Networks

GRAPHS = 64
"""How many torch's compiler may make in one process; beyond its own limit of 8 it raises. A model takes one for each
number of keyframes, of which there are up to 9, and two for the decoder."""


def compile_window(networks: Networks, mode: str | None = None, backend: str = "inductor") -> Networks:
    """The networks with a compiled window pass; compiling happens at the first step of each number of keyframes.

    mode: torch.compile's, e.g. "max-autotune" or "reduce-overhead" (CUDA graphs: the kernels of a pass are recorded
    once and launched as one). Sessions of a batch go one by one: another graph for each number of viewers would stop
    all of them for the minute that it takes.
    """
    unet = own_unet(networks)

    def window(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        prediction: Tensor = unet(latents, timesteps, image_token, signals, shared)
        return prediction

    compiled = _compile(window, mode, backend)

    def run(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        prediction: Tensor = compiled(latents, timesteps, image_token, signals, shared)
        return prediction.clone() if mode else prediction  # a recorded pass writes over what it gave before

    return swap(networks, each_session(run))


def compile_decoder(networks: Networks, backend: str = "inductor") -> Networks:
    """The networks with a compiled decoder, whichever they have; compiled when the first frames are decoded.

    Without CUDA graphs in any case: those of one process share their memory, and the decoder may run beside the window.
    """
    own = networks.autoencoder
    run = _compile(own.decode, None, backend)
    return swap_decoder(networks, InPieces(own, run, networks.config.stream.chunk_frames))


def _compile(function: Any, mode: str | None, backend: str) -> Any:
    """`dynamic` stays off: one graph for all sizes is known to be slower than none."""
    options: dict[str, Any] = {"mode": mode} if backend == "inductor" else {"backend": backend}  # others know no modes
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    return torch.compile(function, fullgraph=True, dynamic=False, **options)
