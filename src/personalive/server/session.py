"""One viewer: bounded, latest-wins places for frames on their way in, and what is known about them on the way out.

Nothing here waits or owns a thread. Frames come in on the event loop and the intake threads, the worker takes them on
its own; one lock a session, held for a few instructions, keeps that in order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from personalive.media.frames import Pixels
from personalive.motion.face_crop import FramedPortrait
from personalive.motion.keypoints import MotionGains
from personalive.server.messages import Controls
from personalive.server.pacing import Thinner, spacing

Clock = Callable[[], float]
"""Seconds, from any zero; never backwards."""

SILENCE = 1.0
"""Seconds without a driving frame after which the driver counts as gone, and what is in the window is let out."""

EASED, EASIEST, RECOVERED = 0.9, 0.5, 0.02
"""A driving rate at which frames come too late is multiplied by EASED, down to EASIEST of what throughput allows; it
comes back by RECOVERED of that at a time."""

DELAYS = 240
"""The latest frames of which the delay is remembered."""


class Streaming(Protocol):
    """What a session needs of `stream.Stream`."""

    chunk_frames: int
    delay_frames: int
    gains: MotionGains
    smoothing: float

    def feed(self, frame: Pixels | None) -> None:
        """One driving frame."""

    def set_portrait(self, portrait: Pixels | FramedPortrait) -> None:
        """Another portrait, from the next chunk on."""

    def recalibrate(self) -> None:
        """The next frame's pose becomes the neutral one."""


@dataclass(frozen=True)
class Driven:
    """A driving frame on its way. pixels (S, S, 3), None: no face, the motion is held.

    captured: milliseconds of the client's clock (None: unknown); came: the server's clock, seconds.
    """

    pixels: Pixels | None
    captured: float | None
    came: float


@dataclass(frozen=True)
class Painted:
    """An animated frame (S, S, 3), the driving frame it belongs to (None: made up to let the window out)."""

    pixels: Pixels
    driven: Driven | None


@dataclass(frozen=True)
class Chunk:
    """A chunk's frames, or those of them that are decoded by now, and the seconds between them.

    place: where in the chunk its first frame is; length: how many the whole chunk has (None: no more than these).
    """

    frames: list[Painted]
    interval: float
    place: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Changes:
    """What was asked of a session since its last step."""

    portrait: Pixels | FramedPortrait | None
    recalibrate: bool
    controls: Controls


class Session:
    """The mailbox between one viewer and the worker, and the viewer's figures."""

    def __init__(
        self, identity: str, portrait: Pixels | FramedPortrait, controls: Controls, chunk_frames: int, clock: Clock
    ) -> None:
        self.identity = identity
        self.controls = controls
        self.driving_rate = 10.0  # frames per second that are taken now; the owner of the throughput keeps it true
        self.face_found = True
        self.failure: str | None = None
        self.dropped = 0
        self.skipped = 0
        self.deliver: Callable[[Chunk], None] = _nowhere
        # The worker's own:
        self.portrait = portrait
        self.stream: Streaming | None = None
        self.inside: deque[Driven | None] = deque()  # in the model's window, oldest first
        self.suspect = False  # its last step failed: it is stepped alone
        self._clock = clock
        self._chunk_frames = chunk_frames
        self._lock = threading.Lock()
        self._thinner = Thinner()
        self._waiting: deque[Driven | None] = deque(maxlen=chunk_frames)
        self._early = 0  # frames of the next chunk that the worker has taken already
        self._came: deque[float] = deque(maxlen=2 * chunk_frames)
        self._heard: float | None = None  # when the last frame came, taken or not
        self._ease = 1.0
        self._dropped_before = 0
        self._held = 0
        self._portrait: Pixels | FramedPortrait | None = portrait
        self._recalibrate = False
        self._shown: deque[float] = deque(maxlen=DELAYS)
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self._reported: deque[float] = deque(maxlen=DELAYS)

    # On the way in

    def wants(self, now: float) -> bool:
        """Whether a frame that comes now is taken at the driving rate; called once for each, before it is decoded."""
        self._heard = now
        taken = self._thinner.accept(now, self.driving_rate)
        self.skipped += not taken
        return taken

    def put(self, driven: Driven) -> None:
        """A framed picture; the oldest waiting one is dropped where a chunk waits already."""
        with self._lock:
            if self.ready:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(driven)
            self._came.append(driven.came)
            self._held = 0
            self.face_found = driven.pixels is not None

    def adapt(self, rate: float) -> None:
        """Takes frames at this rate (per second) from now on; at less while frames come too late to be used."""
        late = self.dropped > self._dropped_before
        self._dropped_before = self.dropped
        self._ease = max(EASIEST, self._ease * EASED) if late else min(1.0, self._ease + RECOVERED)
        self.driving_rate = max(1.0, self._ease * rate)

    def drop(self) -> None:
        """Counts a frame that came too late to be used."""
        with self._lock:
            self.dropped += 1

    def hold_if_silent(self, now: float, window_frames: int) -> bool:
        """Where the driver has fallen silent: one chunk of held frames, until the window is let out. True: done so."""
        with self._lock:
            if not self._came or not self._silent(now) or self._held >= window_frames:
                return False
            if self.ready:
                return False
            missing = self._chunk_frames - self.depth
            self._waiting.extend([None] * missing)
            self._held += missing
            return True

    def _silent(self, now: float) -> bool:
        return self._heard is None or now - self._heard >= SILENCE

    def set_portrait(self, portrait: Pixels | FramedPortrait) -> None:
        """Another square picture, from the next chunk on."""
        with self._lock:
            self._portrait = portrait

    def recalibrate(self) -> None:
        """The next frame's pose becomes the neutral one."""
        with self._lock:
            self._recalibrate = True

    # The worker's side

    @property
    def depth(self) -> int:
        """Frames that wait for a step."""
        return self._early + len(self._waiting)

    @property
    def ready(self) -> bool:
        """A chunk waits."""
        return self.depth >= self._chunk_frames

    @property
    def begun(self) -> bool:
        """Only the last frame of a chunk is missing, the others are worth a look, and there is a stream to look."""
        return bool(self._waiting) and self.depth == self._chunk_frames - 1 and self.stream is not None

    def take_early(self) -> list[Driven | None]:
        """What has come of a chunk that is not full yet; `take` gives the rest of it."""
        with self._lock:
            if self.ready:
                return []
            frames = list(self._waiting)
            self._waiting.clear()
            self._early += len(frames)
            return frames

    def forget_early(self) -> None:
        """What was taken early is lost: the chunk begins anew."""
        with self._lock:
            self._early = 0

    def take(self) -> tuple[list[Driven | None], Changes] | None:
        """The waiting chunk (without what was taken early) and what has been asked for; None while it is not full."""
        with self._lock:
            if not self.ready:
                return None
            chunk = list(self._waiting)
            self._waiting.clear()
            self._early = 0
            changes = Changes(self._portrait, self._recalibrate, self.controls)
            self._portrait, self._recalibrate = None, False
            return chunk, changes

    @property
    def interval(self) -> float:
        """Seconds between the frames that came lately: the time in which they should be shown."""
        with self._lock:
            return spacing(list(self._came), 1.0 / self.driving_rate)

    # On the way out

    def note_shown(self, painted: Painted, now: float) -> float | None:
        """A frame went out to be shown; the seconds since its driving frame came, if it had one."""
        self._shown.append(now)
        if painted.driven is None:
            return None
        delay = now - painted.driven.came
        self._delays.append(delay)
        return delay

    def note_reported(self, delay: float) -> None:
        """The client's own figure: seconds from capture to display."""
        if 0 <= delay < 60:
            self._reported.append(delay)

    def state(self, now: float) -> tuple[str, str]:
        """In one word of the protocol, and in words for people."""
        if self.failure is not None:
            return "failed", self.failure
        if not self._came:
            return "waiting", "Waiting for the first picture of the camera."
        if self._silent(now):
            return "no driver", "No pictures come from the camera; the portrait rests until they do."
        if not self.face_found:
            return "no face", "No face is seen: look at the camera, or make more light."
        if not self._shown:
            return "waiting", "Filling the window: the first frames come in a moment."
        return "running", "Running."

    def statistics(self, now: float) -> dict[str, float | int | None]:
        """Figures for the viewer: frames per second of the last two seconds, delays in milliseconds, drops."""
        delays = sorted(self._reported or self._delays)
        recent = sum(now - moment <= 2.0 for moment in list(self._shown))
        return {
            "fps": round(recent / 2.0, 1),
            "delay_p50": _milliseconds(delays, 0.5),
            "delay_p95": _milliseconds(delays, 0.95),
            "dropped": self.dropped,
            "driving_rate": round(self.driving_rate, 1),
        }


def _milliseconds(delays: list[float], share: float) -> float | None:
    """The delay below which this share of them lies."""
    return round(1000 * delays[min(len(delays) - 1, int(share * len(delays)))]) if delays else None


def _nowhere(_chunk: Chunk) -> None:
    """For a session that nobody watches yet."""
