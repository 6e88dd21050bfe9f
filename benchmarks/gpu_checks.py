"""What benchmarks/gpu.py checks beside the rows: waits, races, memory over a run, the golden's error, a warm start."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_rows import HALF, OTHER_NUMBERS, ROWS, Try, as_it_is, compiled, in_precision
from quantisation import golden_frames
from torch import Tensor, nn

from personalive.acceleration import offload
from personalive.acceleration.choice import COMPILE, EAGER
from personalive.config import ModelConfig, override
from personalive.contracts import Networks
from personalive.media.frames import Pixels
from personalive.stream import Painting, Stream, begin_together, paint_together
from personalive.weights.folder import is_model_folder, save_folder
from personalive.weights.load import build_networks, modules
from test_stream_parity import filled_networks

Check = Callable[[Networks, str, bool], dict[str, Any]]
"""Of float32 networks that are to be left as they are, the device's name, and whether dry."""

SMALL_CARD = 8e9
"""Bytes of the smallest card that the official model is meant for."""


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


def stream(networks: Networks, chunks: int, beside: bool, late: int | None, keyframes: int = 3) -> list[Pixels]:
    """So many chunks, each taken when `late` more have begun; None: the first frame first, as live can."""
    own, frames = started(networks, keyframes)
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


def races(base: Networks, device: str, dry: bool) -> dict[str, Any]:
    """Decoding beside the UNet gives the bytes that decoding after it gives."""
    networks, chunks = in_precision(base, device, HALF), 16 if dry else 60
    plain = np.concatenate(stream(networks, chunks, beside=False, late=0))
    beside = np.concatenate(stream(networks, chunks, beside=True, late=1))
    return {"frames": len(plain), "different_bytes": int((plain != beside).sum())}


def waits(base: Networks, device: str, dry: bool) -> dict[str, Any]:
    """A chunk is begun without a host wait, once the keyframe slots are full. Raises where torch finds one."""
    del dry
    own, frames = started(in_precision(base, device, HALF), keyframes=0)
    cuda = device.startswith("cuda")
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


def rates(fast: bool) -> Check:
    """Frames per second from numpy to numpy: decoded the first frame first, after or beside the UNet, soon or late.

    fast: compiled, without keyframes (each number of them would be compiled by itself); else eager, with three.
    """

    def check(base: Networks, device: str, dry: bool) -> dict[str, Any]:
        keyframes, chunks = 0 if fast else 3, 6 if dry else 20
        change, cuda = compiled() if fast else as_it_is, device.startswith("cuda")
        networks = change(in_precision(base, device, HALF), Try(keyframes, dry))
        found: dict[str, Any] = {"keyframes in use": keyframes}
        tried: dict[str, tuple[bool, int | None]] = {
            "the first frame first": (False, None),
            "at once": (False, 0),
            "one late": (False, 1),
            "one late, beside": (True, 1),
        }
        for name, (beside, late) in tried.items():
            stream(networks, 6, beside, late, keyframes)
            before = 0
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            began = time.perf_counter()
            own = sum(len(frames) for frames in stream(networks, chunks, beside, late, keyframes))
            found[name] = round(own / (time.perf_counter() - began), 2)
            if cuda:
                found[f"{name}, GB beyond the weights"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)
        return found

    return check


@contextmanager
def alone(base: Networks, device: str, limit: float) -> Iterator[None]:
    """Everything else leaves the device, on which torch may then have `limit` bytes and no more."""
    if not device.startswith("cuda"):
        yield
        return
    for module in modules(base).values():
        module.to("cpu")
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(device).total_memory)
        torch.cuda.reset_peak_memory_stats()
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        for module in modules(base).values():
            module.to(device)


def small_card(base: Networks, device: str, dry: bool) -> dict[str, Any]:
    """A long stream in fp16 with the 8 GB preset, where torch may have 8 GB: its peak, and whether it grows.

    From the portrait on, with three keyframes admitted and a new portrait midway. device_gb is all that the device has
    given away at the end, its own context too. grown_mb: what torch holds at the most after the first quarter of the
    chunks, beyond what it held then; host_grown_mb: this process's resident memory likewise. Raises torch's own error
    where 8 GB are not enough.
    """
    cuda, chunks = device.startswith("cuda"), 24 if dry else 300
    held: list[int] = []
    resident: list[int] = []
    with alone(base, device, SMALL_CARD):
        networks = in_precision(base, device, HALF)
        offload.apply(networks, offload.PRESETS["8GB"], torch.device(device), rest="cpu")
        own, frames = started(networks)
        for number in range(chunks):
            if number == chunks // 2:
                own.set_portrait(frames[1])
            for frame in np.roll(frames, number, axis=1):
                own.feed(frame)
            begin_together([own])[0].frames()
            held.append(torch.cuda.memory_allocated() if cuda else 0)
            resident.append(int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        found: dict[str, Any] = {"chunks": chunks, "keyframes": own._networks.config.stream.keyframes}
        for name, sizes in (("grown_mb", held), ("host_grown_mb", resident)):
            settled = sizes[chunks // 4 :]
            found[name] = round((max(settled) - settled[0]) / 1e6, 1)
        if cuda:
            free, total = torch.cuda.mem_get_info(device)
            found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            found["reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
            found["device_gb"] = round((total - free) / 1e9, 2)
        del networks, own
    return found


def golden_error(name: str) -> Check:
    """The mean difference of a fast path's frames from eager float32's, in 1/255, both on the device.

    The frames are the `stream_small` golden's, all 56; an exported file serves the steps before the first keyframe.
    Dry, a toy's, since the golden's 512 pixels are too many.
    """

    def check(base: Networks, device: str, dry: bool) -> dict[str, Any]:
        dtype, change = ROWS[name]
        float32 = base if dry else filled_networks()

        def frames(networks: Networks) -> Tensor:
            if dry:
                return torch.from_numpy(np.concatenate(stream(networks, 5, False, 0))).float()
            with torch.inference_mode():
                return golden_frames(networks, 14)

        exact = frames(in_precision(float32, device, torch.float32))
        given = Try(0, dry)
        with given.until:
            apart = (frames(change(in_precision(float32, device, dtype), given)) - exact).abs()
        return {"mean": round(apart.mean().item(), 4), "largest": round(apart.max().item(), 1)}

    return check


def warm_start(runtime: str) -> Check:
    """Seconds from asking for a process to its first frame, the first time and, with all that was kept, again.

    The model's folder and what is kept lie in the system's folder for temporary files; a later call finds them there.
    Without keyframe slots, of which a first frame needs none: else a package for each number would be made.
    """

    def check(base: Networks, device: str, dry: bool) -> dict[str, Any]:
        place = Path(tempfile.gettempdir()) / f"personalive-warm-start-{base.config.name}"
        place.mkdir(exist_ok=True)
        if not is_model_folder(place / "model"):
            copy = in_precision(base, device, HALF)
            config = override(copy.config, {"stream.keyframes": 0})
            save_folder(dataclasses.replace(copy, config=config), place / "model", HALF)
        script = [sys.executable, str(Path(__file__).with_name("warm_start.py")), str(place / "model")]
        kept = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}
        found: dict[str, Any] = {}
        for time_of_day in ("first",) if dry else ("first", "again"):
            asked = [*script, EAGER if dry else runtime, device, str(time.time())]
            done = subprocess.run(asked, env=kept, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{time_of_day}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            seconds = json.loads(done.stdout.splitlines()[-1])
            found |= {f"{time_of_day}_{what}_s": value for what, value in seconds.items()}
        return found

    return check


CHECKS: dict[str, Check] = {
    "no race": races,
    "no wait": waits,
    "8 GB card": small_card,
    "frames/s": rates(fast=False),
    "frames/s, compiled": rates(fast=True),
    **{f"warm start, {runtime}": warm_start(runtime) for runtime in (EAGER, COMPILE, "aoti")},
    **{f"golden, {name}": golden_error(name) for name in ROWS if name not in OTHER_NUMBERS},
}
"""What is looked at beside the rows, by name."""
