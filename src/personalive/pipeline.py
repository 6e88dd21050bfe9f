"""Read this first: the way of a frame from the camera to the animated portrait.

    driving frames -> motion.signals.observe -> motion.signals.drive -> streaming.engine.step -> autoencoder -> frames

A `PersonaLive` holds the networks; a `Stream` one session: a portrait, the window's state and the few frames that do
not yet fill a chunk. Offline and live are the same calls: grouping of the frames does not change what comes out.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalive.animate import DEFAULT_OUTPUT, AnimatedVideo, AnimateOptions, animate, prepare
from personalive.config import ModelConfig
from personalive.contracts import Networks
from personalive.device import choose_device as choose_device
from personalive.errors import InputError
from personalive.media.frames import Pixels, resize_tensor, to_uint8, to_unit
from personalive.motion import signals
from personalive.motion.keypoints import MotionGains
from personalive.motion.signals import Observation
from personalive.streaming import engine
from personalive.streaming.state import StreamState
from personalive.weights.load import find_model, load_networks


class PersonaLive:
    """The networks of one model, ready to start any number of streams."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = "mini", device: str = "auto", dtype: torch.dtype = torch.float32
    ) -> PersonaLive:
        """A built-in model by name, or a checkpoint file of this project by path.

        device: "auto" (the first CUDA device, else the CPU) or a torch device name; dtype: the networks' precision.
        Raises WeightsError for a checkpoint that cannot be used and ConfigError for a device that is not there.
        """
        return cls(load_networks(find_model(name_or_path), choose_device(device), dtype))

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self.networks.config

    def start(self, portrait: Pixels, seed: int = 0, gains: MotionGains | None = None) -> Stream:
        """A stream that animates a square picture (H, H, 3), already framed on the face; equal seeds, equal frames.

        gains: how strongly the driver moves it, by default as the model was made for.
        """
        return Stream(self.networks, portrait, seed, gains)

    def animate(
        self, portrait: str | Path, driving: str | Path, output: str | Path = DEFAULT_OUTPUT, **options: Any
    ) -> AnimatedVideo:
        """A picture moved by a video, written to `output`; `options` are the fields of `AnimateOptions`."""
        return animate(self, prepare(portrait, driving, output, AnimateOptions(**options)))


class Stream:
    """One portrait, driven frame by frame. Not for use by two threads at once.

    Frames come out in chunks of `chunk_frames`, in order, the i-th for the i-th of `frames_in` that went in, when at
    most `delay_frames` more have followed it. `gains` may be replaced at any time and counts from the next chunk on.
    """

    def __init__(self, networks: Networks, portrait: Pixels, seed: int = 0, gains: MotionGains | None = None) -> None:
        self.gains = MotionGains.of(networks.config.stream) if gains is None else gains
        self.chunk_frames = networks.config.stream.chunk_frames
        self.delay_frames = networks.config.stream.window_frames - 1
        self.frames_in = 0
        self.frames_out = 0
        self._networks = networks
        self._seed = seed
        self._state: StreamState | None = None
        self._first: Observation | None = None  # the first driving frame: movement counts from there
        self._last: Tensor | None = None  # the latest driving frame, what `hold` repeats
        self._waiting: list[Tensor | None] = []  # less than a chunk; None: held before any frame came
        self._inside: deque[Observation | None] = deque(maxlen=networks.config.stream.levels - 1)  # not yet clean
        self._chunks = 0
        self._flushed = False
        self.set_portrait(portrait)

    @torch.inference_mode()
    def set_portrait(self, portrait: Pixels) -> None:
        """Animate another square picture (H, H, 3) from the next chunk on, without a gap in the stream.

        The frames still inside the window are then painted anew, so that chunk costs `levels` steps instead of one.
        """
        _require_square(portrait, "the portrait", dimensions=3)
        self._reference, self._portrait = signals.encode_reference(self._networks, portrait)
        self._state = None

    @torch.inference_mode()
    def push(self, frames: Pixels) -> Pixels:
        """Driving frames (F, H, H, 3), framed on the face, F >= 0 -> the animated frames (n, S, S, 3) ready by now.

        n is 0 or a multiple of `chunk_frames`. Raises InputError for pixels of another kind.
        """
        _require_square(frames, "a driving frame", dimensions=4)
        painted = []
        for frame in frames:
            # Frame by frame and at the model's size, so that grouping cannot change a bit.
            self._last = resize_tensor(to_unit(frame), self._networks.config.image_size)
            painted += self._accept(self._last)
        return self._joined(painted)

    @torch.inference_mode()
    def hold(self, count: int = 1) -> Pixels:
        """`count` frames without a face: the last motion goes on (before the first frame, the portrait rests)."""
        painted = []
        for _ in range(count):
            painted += self._accept(self._last)
        return self._joined(painted)

    def flush(self) -> Pixels:
        """The frames still missing, so that as many have come out as went in; the end of this stream."""
        frames_in, missing = self.frames_in, self.frames_in - self.frames_out
        padding = -len(self._waiting) % self.chunk_frames + self._networks.config.stream.lead_in_frames
        painted = self.hold(padding if missing else 0)[:missing]
        self.frames_in, self.frames_out, self._flushed = frames_in, frames_in, True
        return painted

    def _accept(self, frame: Tensor | None) -> list[Pixels]:
        """One frame more; runs a step when a chunk is full."""
        if self._flushed:
            raise InputError("this stream was flushed and has ended; start another one")
        self.frames_in += 1
        self._waiting.append(frame)
        if len(self._waiting) < self.chunk_frames:
            return []
        chunk = self._observe()
        latents = self._advance(chunk)
        self._inside.append(chunk)
        self._chunks += 1
        if self._chunks < self._networks.config.stream.levels:
            return []  # the lead-in
        self.frames_out += self.chunk_frames
        return [to_uint8(self._networks.autoencoder.decode(latents))]

    def _observe(self) -> Observation | None:
        """What the motion networks see in the waiting chunk, now taken; None when no driving frame ever came."""
        chunk, self._waiting = self._waiting, []
        earliest = next((frame for frame in chunk if frame is not None), None)
        if earliest is None:
            return None
        images = torch.cat([earliest if frame is None else frame for frame in chunk])  # (M, 3, S, S)
        seen = signals.observe(self._networks, images)
        if self._first is None:
            self._first = seen[0:1]
        return seen

    def _advance(self, chunk: Observation | None) -> Tensor:
        """One step with this chunk, and before it what a new window has to go through: latents (M, C, h, w)."""
        if self._state is None:
            # Whatever is inside the window (at a stream's start nothing) is painted again, for this portrait.
            replayed = list(self._inside)
            target = self._motion_of([*replayed, chunk][0])[0:1]
            lead_in = signals.lead_in(self._networks, self._portrait, self._origin, self.gains, target)
            own = self._portrait.motion
            self._state = engine.start(self._networks, self._reference, lead_in, self._seed, reference_motion=own)
            for earlier in replayed:
                self._advance(earlier)
        motion = self._motion_of(chunk)
        driving = signals.drive(self._networks, self._portrait, self._origin, motion, self.gains)
        self._state, latents = engine.step(self._networks, self._state, driving)
        return latents[0].to(self._reference.latents.dtype)

    @property
    def _origin(self) -> Observation:
        """Where the driver's movement counts from."""
        return self._portrait if self._first is None else self._first

    def _motion_of(self, chunk: Observation | None) -> Observation:
        """A chunk in which nobody was ever seen is driven by the portrait itself."""
        return self._portrait.still(self.chunk_frames) if chunk is None else chunk

    def _joined(self, painted: list[Pixels]) -> Pixels:
        side = self._networks.config.image_size
        return np.concatenate(painted) if painted else np.zeros((0, side, side, 3), dtype=np.uint8)


def _require_square(pixels: Pixels, what: str, dimensions: int) -> None:
    """InputError unless the pixels are uint8 RGB pictures of equal sides, (H, H, 3) or (F, H, H, 3)."""
    shape = pixels.shape
    if pixels.dtype != np.uint8 or pixels.ndim != dimensions or shape[-1] != 3:
        raise InputError(f"{what} must be uint8 RGB, not {pixels.dtype} of shape {shape}")
    if shape[-3] != shape[-2] or shape[-2] == 0:
        raise InputError(f"{what} must be square and not empty, not {shape[-2]}x{shape[-3]}; crop it first")
