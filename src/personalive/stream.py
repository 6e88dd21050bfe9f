"""One session of a model: driving frames in, animated frames out, a chunk at a time; and many of them at once.

A stream collects frames (`feed`) until a chunk is full (`ready`); `step_together` then takes every ready stream one
chunk further, all in one batch. `Stream.push` is the same for one stream alone. Who is in a hurry lets the motion
networks see frames before their chunk is full (`look_ahead`), and takes painted frames one by one
(`paint_together`); who has something else to do than wait for a GPU takes them later (`begin_together`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from personalive.contracts import MotionSignals, Networks
from personalive.device import Arriving, fetch, send
from personalive.errors import InputError
from personalive.media.frames import Pixels, as_levels, from_levels, resize_tensor, to_levels
from personalive.motion import signals
from personalive.motion.face_crop import FramedPortrait, square_of
from personalive.motion.keypoints import MotionGains
from personalive.motion.signals import Observation
from personalive.motion.smoothing import Smoother
from personalive.streaming import engine
from personalive.streaming import state as states
from personalive.streaming.state import StreamState, map_tensors, tensors
from personalive.warp.compose import PortraitGuide, PortraitLayers, compose, guide_of, read_portrait, with_expression
from personalive.warp.drive import Warp
from personalive.warp.driver import DriverFace, SeenDriver, follow_known, see_driver


class Stream:
    """One portrait, driven frame by frame. Not for use by two threads at once.

    Frames come out in chunks of `chunk_frames`, in order, the i-th for the i-th of `frames_in` that went in, when at
    most `delay_frames` more have followed it. `gains` may be replaced at any time, and `smoothing` (0 none, 1 most: see
    `Smoother`); they count from the next chunk on.
    """

    def __init__(
        self,
        networks: Networks,
        portrait: Pixels | FramedPortrait,
        seed: int = 0,
        gains: MotionGains | None = None,
    ) -> None:
        self.gains = MotionGains.of(networks.config.stream) if gains is None else gains
        self.smoothing = 0.0
        self.chunk_frames = networks.config.stream.chunk_frames
        self.delay_frames = networks.config.stream.window_frames - 1
        self.frames_in = 0
        self.frames_out = 0
        self._networks = networks
        self._seed = seed
        self._state: StreamState | None = None
        self._driver: DriverFace | None = None  # as the reference warp met it in the first driving frame
        self._first: Observation | None = None  # the first driving frame: movement counts from there
        self._last: Tensor | None = None  # the latest driving frame, what `hold` repeats
        self._waiting: list[Tensor | None] = []  # at most a chunk; None: held before any frame came
        self._looked: list[SeenDriver | None] = []  # what was seen of the first of those ahead of their step
        self._inside: deque[Observation | None] = deque(maxlen=networks.config.stream.levels - 1)  # not yet clean
        self._layers: PortraitLayers | None = None  # the portrait as the reference warp moves it
        self._warps: deque[Warp] = deque(maxlen=networks.config.stream.levels)  # of the chunks inside, and the newest
        self._chunks = 0
        self._smoother = Smoother()
        self._flushed = False
        self.set_portrait(portrait)

    @property
    def ready(self) -> bool:
        """A chunk is full: the stream wants a step before it takes more frames."""
        return len(self._waiting) == self.chunk_frames

    @torch.inference_mode()
    def set_portrait(self, portrait: Pixels | FramedPortrait) -> None:
        """Animate another square picture (H, H, 3) from the next chunk on, without a gap in the stream.

        The frames still inside the window are then painted anew, so that chunk costs `levels` steps instead of one.
        """
        pixels = square_of(portrait)
        _require_square(pixels, "the portrait", dimensions=3)
        self._reference, seen = signals.encode_reference(self._networks, pixels)
        self._layers = read_portrait(self._networks, portrait, seen)
        self._portrait = with_expression(seen, self._layers)
        self._state = None

    def recalibrate(self) -> None:
        """The driver in the next frame is met anew, and the pose there becomes the one from which movement counts."""
        self._first = self._driver = None

    @torch.inference_mode()
    def feed(self, frame: Pixels | None) -> None:
        """One driving frame (H, H, 3), framed on the face, and no step yet. Raises InputError for other pixels.

        None is a frame without a face: the last motion goes on (before the first frame, the portrait rests).
        """
        if self._flushed:
            raise InputError("this stream was flushed and has ended; start another one")
        if self.ready:
            raise ValueError("a chunk is full: step before feeding more")
        if frame is not None:
            _require_square(frame, "a driving frame", dimensions=3)
            # Frame by frame and at one size, so that grouping cannot change a bit.
            levels = send(as_levels(frame), self._reference.latents.device)
            self._last = resize_tensor(from_levels(levels), self._networks.config.driver_size)
        self.frames_in += 1
        self._waiting.append(self._last)

    def push(self, frames: Pixels) -> Pixels:
        """Driving frames (F, H, H, 3), framed on the face, F >= 0 -> the animated frames (n, S, S, 3) ready by now.

        n is 0 or a multiple of `chunk_frames`. Raises InputError for pixels of another kind.
        """
        _require_square(frames, "a driving frame", dimensions=4)
        return self._take(frames)

    def hold(self, count: int = 1) -> Pixels:
        """`count` frames without a face: the last motion goes on (before the first frame, the portrait rests)."""
        return self._take([None] * count)

    def flush(self) -> Pixels:
        """The frames still missing, so that as many have come out as went in; the end of this stream."""
        frames_in, missing = self.frames_in, self.frames_in - self.frames_out
        padding = -len(self._waiting) % self.chunk_frames + self._networks.config.stream.lead_in_frames
        painted = self.hold(padding if missing else 0)[:missing]
        self.frames_in, self.frames_out, self._flushed = frames_in, frames_in, True
        return painted

    def _take(self, frames: Iterable[Pixels | None]) -> Pixels:
        side = self._networks.config.output_size
        painted = [np.zeros((0, side, side, 3), dtype=np.uint8)]
        for frame in frames:
            self.feed(frame)
            if self.ready:
                painted += step_together([self])
        return np.concatenate(painted)

    def _see(self, frames: SeenDriver | None) -> Observation:
        """What drives the waiting chunk, now taken: what was seen of it, or None, when no driving frame ever came."""
        self._waiting, self._looked = [], []
        seen = None if frames is None else self._smoother.smooth(self._follow(frames), self.smoothing)
        if seen is not None and self._first is None:
            self._first = seen[0:1]
        motion = self._motion_of(seen)
        if self._state is None:
            self._open_window(motion)
        self._inside.append(seen)
        self._chunks += 1
        return motion

    def _follow(self, frames: SeenDriver) -> Observation:
        """What the driver does there, whose face is met in the first frame."""
        seen, self._driver = follow_known(self._networks, self._driver, frames)
        return seen

    def _open_window(self, motion: Observation) -> None:
        """A new window, for this portrait; whatever was inside the old one (at first nothing) is painted again."""
        replayed = [self._motion_of(chunk) for chunk in self._inside]
        target = [*replayed, motion][0][0:1]
        lead_in = signals.lead_in(self._networks, self._portrait, self._origin, self.gains, target, self._guide())
        self._warps.clear()
        own = self._portrait.motion
        self._state = engine.start(self._networks, self._reference, lead_in, self._seed, reference_motion=own)
        for earlier in replayed:
            self._state, _ = engine.step(self._networks, self._state, self._signals(earlier))

    def _signals(self, motion: Observation) -> MotionSignals:
        guide = self._guide()
        driving = signals.drive(self._networks, self._portrait, self._origin, motion, self.gains, guide)
        if guide is not None and guide.moved is not None:
            self._warps.append(guide.moved)
        return driving

    def _guide(self) -> PortraitGuide | None:
        return guide_of(self._networks, self._layers)

    @property
    def _origin(self) -> Observation:
        """Where the driver's movement counts from."""
        return self._portrait if self._first is None else self._first

    def _motion_of(self, chunk: Observation | None) -> Observation:
        """A chunk in which nobody was ever seen is driven by the portrait itself."""
        return self._portrait.still(self.chunk_frames) if chunk is None else chunk


class Painting:
    """New frames of one stream, which a GPU may still be painting."""

    def __init__(self, arriving: Arriving, place: slice) -> None:
        """arriving: frames (F, S, S, 3) uint8 of a whole batch; place: which of them are this stream's."""
        self._arriving, self._place = arriving, place

    @property
    def ready(self) -> bool:
        """Nobody would have to wait for them; on a CPU always."""
        return self._arriving.ready

    def frames(self) -> Pixels:
        """The frames (n, S, S, 3), as soon as they are painted."""
        pixels: Pixels = self._arriving.wait().numpy()[self._place]
        return pixels


def step_together(streams: Sequence[Stream]) -> list[Pixels]:
    """Takes streams of one model, each `ready`, a chunk further in one batch -> each one's new frames (n, S, S, 3).

    n is `chunk_frames`, or 0 in a stream's lead-in. In a batch a stream's frames are what they would be alone, up to
    rounding. Raises ValueError for a stream that is not ready or of another model.
    """
    return [painting.frames() for painting in begin_together(streams)]


@torch.inference_mode()
def begin_together(streams: Sequence[Stream], beside: bool = False) -> list[Painting]:
    """`step_together` that leaves the waiting to whoever wants the frames: the streams can be fed, and begun, again.

    beside: a GPU decodes while it already computes the next chunk, in the memory of both (see `device.fetch`).
    """
    latents = _advance(streams)
    return _decode(streams, latents, slice(0, latents.shape[1]), beside)


@torch.inference_mode()
def paint_together(streams: Sequence[Stream]) -> Iterator[list[Pixels]]:
    """`step_together`, but the first frame of each stream comes as soon as it is decoded, the others after it.

    The streams are a chunk further before the first of them come. A stream in its lead-in gives (0, S, S, 3) each time.
    One by one the frames would cost more than together, and none but the first is waited for.
    """
    latents = _advance(streams)
    rest = slice(1, latents.shape[1])
    first = _decode(streams, latents, slice(0, 1))
    # A CPU is done: it goes on only when these frames are on their way. A GPU is told all there is first.
    told = None if all(painting.ready for painting in first) else _decode(streams, latents, rest)
    yield [painting.frames() for painting in first]
    if latents.shape[1] > 1:
        yield [painting.frames() for painting in told or _decode(streams, latents, rest)]


def _advance(streams: Sequence[Stream]) -> Tensor:
    """Takes each stream a step further: the clean latents (B, M, C, h, w)."""
    networks = streams[0]._networks
    if any(stream._networks is not networks or not stream.ready for stream in streams):
        raise ValueError("streams that step together are ready and of one model")
    motions = [stream._see(seen) for stream, seen in zip(streams, _observed(networks, streams), strict=True)]
    driving = map_tensors(_side_by_side, *(stream._signals(m) for stream, m in zip(streams, motions, strict=True)))
    state = map_tensors(_side_by_side, *(_window(stream) for stream in streams))
    state, latents = engine.step(networks, state, driving)
    for stream, own in zip(streams, states.split(state) if len(streams) > 1 else [state], strict=True):
        stream._state = own
    return latents


@torch.inference_mode()
def look_ahead(streams: Sequence[Stream]) -> None:
    """Lets the motion networks see the waiting frames of streams of one model, so that their step has less to do.

    What comes out is the same up to rounding: the networks see frames in smaller groups.
    """
    _look(streams[0]._networks, streams)


def _observed(networks: Networks, streams: Sequence[Stream]) -> list[SeenDriver | None]:
    """What the motion networks see in the waiting chunks; None for a stream that no driving frame ever reached."""
    _look(networks, streams)
    seen = []
    for stream in streams:
        earliest = next((frame for frame in stream._looked if frame is not None), None)
        parts = [] if earliest is None else [earliest if frame is None else frame for frame in stream._looked]
        seen.append(map_tensors(_side_by_side, *parts) if parts else None)
    return seen


def _look(networks: Networks, streams: Sequence[Stream]) -> None:
    """Brings `_looked` up to `_waiting`: one pass over all frames that nobody has looked at, each of them once."""
    fresh = [stream._waiting[len(stream._looked) :] for stream in streams]
    images = [frame for frames in fresh for frame in frames if frame is not None]
    if images:
        seen = see_driver(networks, torch.cat(images))  # (N, 3, H, H)
        each = iter([seen[place : place + 1] for place in range(len(images))])
        for stream, frames in zip(streams, fresh, strict=True):
            stream._looked += [None if frame is None else next(each) for frame in frames]


def _decode(streams: Sequence[Stream], latents: Tensor, frames: slice, beside: bool = False) -> list[Painting]:
    """The pictures of some frames of the latents (B, M, C, h, w), for the streams that are past their lead-in."""
    networks = streams[0]._networks
    side, count = networks.config.output_size, frames.stop - frames.start
    shown = [index for index, stream in enumerate(streams) if stream._chunks >= networks.config.stream.levels]
    paintings = [Painting(Arriving(torch.zeros(0, side, side, 3, dtype=torch.uint8)), slice(0))] * len(streams)
    if shown:
        # Cut out one by one: an index of several numbers would be sent to the device, and waited for.
        chosen = _side_by_side(*(latents[index : index + 1, frames] for index in shown))
        given = chosen.flatten(0, 1).to(streams[0]._reference.latents.dtype)  # (B * m, C, h, w)
        composed = [(streams[index]._layers, streams[index]._warps) for index in shown]
        warps = [(layers, moved[0][frames]) for layers, moved in composed if layers is not None]
        reads = [tensor for pair in warps for tensor in tensors(pair)]
        arriving = fetch(lambda latents: to_levels(_pictures(networks, warps, latents)), given, beside, reads)
        for place, index in enumerate(shown):
            paintings[index] = Painting(arriving, slice(place * count, (place + 1) * count))
            streams[index].frames_out += count
    return paintings


def _pictures(networks: Networks, warps: Sequence[tuple[PortraitLayers, Warp]], latents: Tensor) -> Tensor:
    """Clean latents (B * m, C, h, w) -> pictures (B * m, 3, H, H) in [0, 1], composed with each session's warp."""
    decoded = networks.autoencoder.decode(latents)
    warp = networks.reference_warp
    if warp is None:
        return decoded
    each = torch.split(decoded, len(decoded) // len(warps))
    return torch.cat([compose(warp, *moved, frames) for moved, frames in zip(warps, each, strict=True)])


def _window(stream: Stream) -> StreamState:
    assert stream._state is not None  # `_see` opened it
    return stream._state


def _side_by_side(*parts: Tensor) -> Tensor:
    """Tensors of sessions (or of frames) as one batch; a single one without a copy."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _require_square(pixels: Pixels, what: str, dimensions: int) -> None:
    """InputError unless the pixels are uint8 RGB pictures of equal sides, (H, H, 3) or (F, H, H, 3)."""
    shape = pixels.shape
    if pixels.dtype != np.uint8 or pixels.ndim != dimensions or shape[-1] != 3:
        raise InputError(f"{what} must be uint8 RGB, not {pixels.dtype} of shape {shape}")
    if shape[-3] != shape[-2] or shape[-2] == 0:
        raise InputError(f"{what} must be square and not empty, not {shape[-2]}x{shape[-3]}; crop it first")
