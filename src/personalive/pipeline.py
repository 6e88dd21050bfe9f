"""Read this first: the way of a frame from the camera to the animated portrait.

    driving frames -> motion.signals.observe -> motion.signals.drive -> streaming.engine.step -> autoencoder -> frames

A `PersonaLive` holds the networks; a `Stream` (stream.py, read it next) one session: a portrait, the window's state and
the few frames that do not yet fill a chunk. Offline and live are the same calls: grouping of the frames does not change
what comes out, and many sessions step together in one batch.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from personalive.acceleration import offload
from personalive.acceleration.choice import EAGER, check_runtime, choose_runtime
from personalive.acceleration.decoder import swap_decoder
from personalive.acceleration.memory import fit
from personalive.animate import DEFAULT_OUTPUT, AnimatedVideo, AnimateOptions, animate, prepare
from personalive.choices import with_output_size, with_window
from personalive.config import ModelConfig
from personalive.contracts import Networks
from personalive.device import choose_device as choose_device
from personalive.media.frames import Pixels
from personalive.motion.face_crop import FramedPortrait
from personalive.motion.keypoints import MotionGains
from personalive.stream import Stream as Stream
from personalive.stream import look_ahead, paint_together, step_together
from personalive.weights.find import find, home
from personalive.weights.tiny import OWN, find_decoder, load_tiny_decoder

logger = logging.getLogger(__name__)


class PersonaLive:
    """The networks of one model, ready to start any number of streams."""

    def __init__(self, networks: Networks, beside: bool = True) -> None:
        """beside: `animate` lets a GPU decode a chunk while it computes the next one, in the memory of both."""
        self.networks = networks
        self.beside = beside

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "mini",
        device: str = "auto",
        dtype: torch.dtype | None = None,
        memory: str = "auto",
        decoder: str = OWN,
        runtime: str = EAGER,
        window: str | None = None,
        size: int | None = None,
        tell: Callable[[str], object] = logger.info,
    ) -> PersonaLive:
        """A model by any name that `weights.find` knows: built-in, "official", file, folder, hub id.

        device: "auto" (the first CUDA device, else the CPU) or a torch device name. dtype: the networks' precision; by
        default float32, and float16 for a large model on a GPU. memory: what may leave the GPU at times, of a large
        model ("24GB": nothing; "12GB", "8GB"; "auto": as little as fits); its plan goes to `tell` before it is loaded.
        decoder: "vae", the model's own; "taesd", the tiny one (`personalive download taesd`); or a file of its kind.
        runtime: what computes the denoising UNet: "eager", "compile" (with the decoder), "aoti" (compiled once, kept),
        on a CPU "onnxruntime", "openvino" or "openvino-bfloat16" (with the decoder, rounded), on a GPU "cuda-graphs"
        (compiled and recorded) or "tensorrt"; the path of a file, or a folder, of `personalive export`; or "auto", the
        default of the commands: `acceleration.choice.quickest`. The default here is "eager": it writes no files, and
        its frames are the same whatever is installed.
        window: LEVELSxFRAMES instead of the model's own ("4x4"): "2x2" shows a frame three driving frames later, not
        fifteen; "live" is what `serve` takes (`choices.with_window`).
        size: side of the pictures that come out, where the model has a reference warp (`choices.with_output_size`).
        Raises WeightsError for a checkpoint that cannot be used, and ConfigError for a device that is not there or has
        not enough memory.
        """
        check_runtime(runtime)
        place, model = choose_device(device), find(name_or_path)
        other = find_decoder(decoder, model.config.autoencoder, Path(name_or_path))
        config = model.config if window is None else with_window(model.config, window)
        config = config if size is None else with_output_size(config, size)
        fitted = fit(config, model.size, place, dtype, memory, tell)
        networks = dataclasses.replace(model.load(place, fitted.dtype), config=config)
        if place.type != "cpu":
            offload.apply(networks, fitted.policy, place)
        if other is not None:
            networks = swap_decoder(networks, load_tiny_decoder(other, place, fitted.dtype))
        return cls(choose_runtime(networks, runtime, home() / "windows", tell), fitted.policy.beside)

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self.networks.config

    def start(self, portrait: Pixels | FramedPortrait, seed: int = 0, gains: MotionGains | None = None) -> Stream:
        """A stream that animates a square picture (H, H, 3), already framed on the face; equal seeds, equal frames.

        With what lies around it (`motion.face_crop.frame_portrait`) that comes into view when the head moves.

        gains: how strongly the driver moves it, by default as the model was made for.
        """
        return Stream(self.networks, portrait, seed, gains)

    def step(self, streams: Sequence[Stream]) -> list[Pixels]:
        """One chunk of each of these streams, all of them ready, in one batch (see `stream.step_together`)."""
        return step_together(streams)

    def paint(self, streams: Sequence[Stream]) -> Iterator[list[Pixels]]:
        """`step`, but the frames of each stream come one by one, as they are decoded (see `stream.paint_together`)."""
        return paint_together(streams)

    def look(self, streams: Sequence[Stream]) -> None:
        """Lets the motion networks see what waits in these streams already (see `stream.look_ahead`)."""
        look_ahead(streams)

    def animate(
        self, portrait: str | Path, driving: str | Path, output: str | Path = DEFAULT_OUTPUT, **options: Any
    ) -> AnimatedVideo:
        """A picture moved by a video, written to `output`; `options` are the fields of `AnimateOptions`."""
        return animate(self, prepare(portrait, driving, output, AnimateOptions(**options)))
