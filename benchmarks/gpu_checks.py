"""What benchmarks/gpu.py checks beside speed: that nothing waits, that nothing races, and the error on the golden."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from quantisation import golden_frames
from torch import nn

from personalive.config import ModelConfig, override
from personalive.contracts import Networks
from personalive.media.frames import Pixels
from personalive.stream import Painting, Stream, begin_together, paint_together
from personalive.weights.load import build_networks, modules
from test_stream_parity import filled_networks


def filled(config: ModelConfig, device: str) -> Networks:
    """Random float32 networks, made on the device: no signal is ignored, as fresh ones would."""
    networks = build_networks(config, "meta")
    for module in modules(networks).values():
        for part in module.modules():
            for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                value = tensor.to(device) if not tensor.is_meta else torch.zeros_like(tensor, device=device)
                if tensor.is_meta and tensor.ndim > 1:
                    value.normal_(std=tensor[0].numel() ** -0.5)
                elif tensor.is_meta and name in ("weight", "running_var"):
                    value.fill_(1)
                if isinstance(tensor, nn.Parameter):
                    setattr(part, name, nn.Parameter(value, requires_grad=False))
                else:
                    part._buffers[name] = value
    return networks


def started(networks: Networks, keyframes: int = 3) -> tuple[Stream, Pixels]:
    """A stream whose slots fill as soon as they may, and random driving frames for one chunk."""
    config = override(networks.config, {"stream.tau": 0.0, "stream.keyframes": keyframes})
    generator = np.random.default_rng(0)
    side, chunk = config.image_size, config.stream.chunk_frames
    frames: Pixels = generator.integers(0, 256, (chunk, side, side, 3), dtype=np.uint8)
    return Stream(dataclasses.replace(networks, config=config), frames[0]), frames


def stream(networks: Networks, chunks: int, beside: bool, late: int | None) -> list[Pixels]:
    """So many chunks, each taken when `late` more have begun; None: the first frame first, as live can."""
    own, frames = started(networks)
    painted: list[Pixels] = []
    begun: deque[Painting] = deque()
    for number in range(chunks):
        for frame in np.roll(frames, number, axis=1):
            own.feed(frame)
        if late is None:
            painted += [frames for (frames,) in paint_together([own])]
            continue
        begun += begin_together([own], beside)
        while len(begun) > late:
            painted.append(begun.popleft().frames())
    return painted + [painting.frames() for painting in begun]


def races(networks: Networks, dry: bool) -> dict[str, Any]:
    """Decoding beside the UNet gives the bytes that decoding after it gives."""
    chunks = 16 if dry else 60
    plain = np.concatenate(stream(networks, chunks, beside=False, late=0))
    beside = np.concatenate(stream(networks, chunks, beside=True, late=1))
    return {"frames": len(plain), "different_bytes": int((plain != beside).sum())}


def waits(networks: Networks, dry: bool) -> dict[str, Any]:
    """A chunk is begun without a host wait, once the keyframe slots are full. Raises where torch finds one."""
    del dry
    own, frames = started(networks, keyframes=0)
    cuda = next(networks.denoising_unet.parameters()).is_cuda
    for number in range(8):
        if cuda:
            torch.cuda.set_sync_debug_mode("error" if number > 4 else "default")
        try:
            for frame in frames:
                own.feed(frame)
            (painting,) = begin_together([own], beside=True)
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
        painting.frames()
    return {"waits": 0}


def rates(networks: Networks, dry: bool) -> dict[str, Any]:
    """Frames per second from numpy to numpy: decoded the first frame first, after or beside the UNet, soon or late."""
    chunks, cuda = 6 if dry else 20, next(networks.denoising_unet.parameters()).is_cuda
    found: dict[str, Any] = {}
    tried: dict[str, tuple[bool, int | None]] = {
        "the first frame first": (False, None),
        "at once": (False, 0),
        "one late": (False, 1),
        "one late, beside": (True, 1),
    }
    for name, (beside, late) in tried.items():
        stream(networks, 6, beside, late)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        own = sum(len(frames) for frames in stream(networks, chunks, beside, late))
        found[name] = round(own / (time.perf_counter() - began), 2)
        if cuda:
            found[f"{name}, GB"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return found


def golden_error(dtype: torch.dtype) -> Callable[[Networks, bool], dict[str, Any]]:
    """The mean difference of the golden's frames from float32's, in 1/255, both on the device."""

    def check(networks: Networks, dry: bool) -> dict[str, Any]:
        if dry:
            return {"skipped": "512 pixels are too many for a dry run"}
        device = next(networks.denoising_unet.parameters()).device
        whole = filled_networks()
        for module in modules(whole).values():
            module.to(device)
        with torch.inference_mode():
            exact = golden_frames(whole, 14)
            for module in modules(whole).values():
                module.to(dtype)
            apart = (golden_frames(whole, 14) - exact).abs()
        filled_networks.cache_clear()
        return {"mean": round(apart.mean().item(), 4), "largest": round(apart.max().item(), 1)}

    return check


CHECKS: dict[str, Callable[[Networks, bool], dict[str, Any]]] = {
    "no race": races,
    "no wait": waits,
    "frames/s": rates,
    "golden fp16": golden_error(torch.float16),
    "golden bf16": golden_error(torch.bfloat16),
}
"""What is looked at before the rows, by name."""
