"""The first frame of a process that has just been started: python benchmarks/warm_start.py FOLDER RUNTIME DEVICE BEGAN.

benchmarks/gpu.py runs this twice for each runtime; the second time everything that can be kept is there. BEGAN is the
time (of time.time) at which the process was asked for. FOLDER is a model's folder, as `personalive convert` writes it.
Prints the seconds since BEGAN at which each thing was done, as JSON. Imports nothing that reads videos or pictures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from personalive.acceleration.choice import choose_runtime
from personalive.stream import Stream, step_together
from personalive.weights.find import find


def first_frame(folder: Path, runtime: str, device: str, since: Callable[[], float]) -> dict[str, float]:
    """Seconds by `since` at which the model was loaded, the runtime ready, and the first frame at hand."""
    done = {"imported": since()}
    networks = find(folder).load(device, torch.float16 if device.startswith("cuda") else torch.float32)
    done["loaded"] = since()
    networks = choose_runtime(networks, runtime, folder.with_name("windows"))
    done["runtime"] = since()
    side = networks.config.image_size
    frames = np.random.default_rng(0).integers(0, 256, (networks.config.stream.window_frames, side, side, 3), np.uint8)
    stream, painted = Stream(networks, frames[0]), 0
    done["portrait"] = since()
    for frame in frames:  # as many as the window holds: then the first ones come out of it
        stream.feed(frame)
        if stream.ready:
            painted += sum(len(new) for new in step_together([stream]))
    assert painted == networks.config.stream.chunk_frames
    done["first_frame"] = since()
    return {name: round(seconds, 2) for name, seconds in done.items()}


if __name__ == "__main__":
    began = float(sys.argv[4])
    print(json.dumps(first_frame(Path(sys.argv[1]), sys.argv[2], sys.argv[3], lambda: time.time() - began)))
