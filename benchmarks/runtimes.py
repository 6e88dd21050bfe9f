"""What computes the built-in model's UNet quickest on this CPU, and how far its frames are from eager float32.

Run `python benchmarks/runtimes.py` on a quiet machine. A stream for each path takes the same driving frames, chunk by
chunk in turn, so that whatever else the machine does hits all alike; the processor's time is given beside the clock's.
"int8" is torch's dynamic quantisation of the UNet's linear layers.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import time
from itertools import islice

import numpy as np
import torch
from torch import nn

from personalive.acceleration.choice import AUTO, EAGER, GRAPHS, KINDS, RUNTIMES, choose_runtime
from personalive.contracts import Networks
from personalive.gallery import find_driving, find_portrait
from personalive.media.frames import Pixels, load_picture, resize_picture
from personalive.media.video import read_video
from personalive.pipeline import PersonaLive
from personalive.weights.find import home, open_model

INT8 = "int8"
ELSEWHERE = (AUTO, GRAPHS, *(name for name, kind in KINDS.items() if kind.where == "cuda"))
PATHS = [*(name for name in RUNTIMES if name not in ELSEWHERE), INT8]


def on_path(networks: Networks, path: str) -> Networks:
    """The networks with their UNet computed in one of the ways."""
    if path != INT8:
        return choose_runtime(networks, path, home() / "windows", print)
    quantise = torch.ao.quantization.quantize_dynamic
    unet = quantise(copy.deepcopy(networks.denoising_unet), {nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
    unet.time_embedding = networks.denoising_unet.time_embedding  # it asks its layers for their precision
    return dataclasses.replace(networks, denoising_unet=unet)


def driving_frames(count: int, side: int) -> Pixels:
    """The first frames of the built-in clip, square."""
    with read_video(find_driving("builtin")) as video:
        return np.stack([resize_picture(frame.pixels, side) for frame in islice(video, count)])


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description="runtimes of the window pass on a CPU")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--paths", nargs="+", default=PATHS, choices=PATHS)
    parser.add_argument("--chunks", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = open_model(given.model)
    side, chunk = networks.config.image_size, networks.config.stream.chunk_frames
    warm = networks.config.stream.levels
    frames = driving_frames(chunk * (given.chunks + warm), side)
    portrait = resize_picture(load_picture(find_portrait("ada")), networks.config.output_size)
    names = [EAGER, *(path for path in given.paths if path != EAGER)]
    streams = {name: PersonaLive(on_path(networks, name)).start(portrait) for name in names}
    painted: dict[str, list[Pixels]] = {name: [] for name in names}
    clock: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    for number, begin in enumerate(range(0, len(frames), chunk)):
        for name, stream in streams.items():
            started = time.perf_counter(), time.process_time()
            painted[name].append(stream.push(frames[begin : begin + chunk]))
            if number >= warm:
                clock[name].append(time.perf_counter() - started[0])
                work[name].append(time.process_time() - started[1])
    print(f"{given.model}, {given.threads} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, "
          f"{torch.backends.cpu.get_cpu_capability()}, median of {given.chunks} chunks\n")  # fmt: skip
    print("| path | processor ms per chunk | of eager | clock ms | mean difference /255 | largest |")
    print("|---|---|---|---|---|---|")
    eager = np.concatenate(painted[EAGER]).astype(int)
    for name in names:
        apart = np.abs(np.concatenate(painted[name]).astype(int) - eager)
        cost, base = statistics.median(work[name]), statistics.median(work[EAGER])
        print(f"| {name} | {1e3 * cost:.0f} | {cost / base:.2f} | {1e3 * statistics.median(clock[name]):.0f} "
              f"| {apart.mean():.4f} | {apart.max()} |")  # fmt: skip


if __name__ == "__main__":
    main()
