"""The one owner of the model: steps all sessions that are ready together, in one batch, on one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from personalive.config import ModelConfig
from personalive.media.frames import Pixels
from personalive.motion.face_crop import FramedPortrait
from personalive.motion.keypoints import MotionGains
from personalive.server.metrics import Metrics
from personalive.server.session import Changes, Chunk, Clock, Driven, Painted, Session
from personalive.server.throughput import Throughput

logger = logging.getLogger(__name__)

FAILED = "This session could not be animated (the server's log says why); start again, or choose another portrait."


IDLE, BUSY = 0.6, 0.75
"""Shares of the time that sessions keep the model at work: below IDLE it begins to hurry, above BUSY it stops. To hurry
costs some 12 % more work for each chunk. Where the rate is all that the machine can do, that would slow the frames
down, and the window's delay with them, by more than it saves."""


class Model(Protocol):
    """What the worker needs of `pipeline.PersonaLive`."""

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants."""

    def start(self, portrait: Pixels | FramedPortrait, seed: int = 0, gains: MotionGains | None = None) -> Any:
        """A stream (`session.Streaming`)."""

    def step(self, streams: Sequence[Any]) -> list[Pixels]:
        """One chunk of each ready stream in one batch; none in its lead-in."""

    def look(self, streams: Sequence[Any]) -> None:
        """What can be done for the frames that wait in these streams before their chunks are full."""

    def paint(self, streams: Sequence[Any]) -> Iterator[list[Pixels]]:
        """`step`, but the first frames come before the others are decoded."""


class Worker:
    """Steps sessions. `run` is its thread; `step` can be called without one, which is how it is tested."""

    def __init__(
        self, model: Model, throughput: Throughput, metrics: Metrics, *, wait: float = 0.004, clock: Clock
    ) -> None:
        """`wait`: seconds that ready sessions wait for others, to share a batch."""
        self._model = model
        self._own_gains = MotionGains.of(model.config.stream)
        self._throughput = throughput
        self._metrics = metrics
        self._wait = wait
        self._clock = clock
        self.hurries = False
        """There is time to spare: it is used to show frames earlier."""

        self._sessions: list[Session] = []
        self._ahead = 0.0  # seconds of work done for chunks that were not full yet, since the last step
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Steps this session from now on."""
        with self._changed:
            self._sessions.append(session)

    def remove(self, session: Session) -> None:
        """Forgets a session; a step that is under way still ends."""
        with self._changed:
            if session in self._sessions:
                self._sessions.remove(session)

    def wake(self) -> None:
        """A frame has come."""
        with self._changed:
            self._changed.notify()

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self.run, name="personalive-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the step under way."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def run(self) -> None:
        """Steps whatever is ready, and looks ahead where nothing is, until `stop`."""
        while not self._closing:
            if batch := self._gather():
                self.step(batch)
            else:
                self.look(self._begun())

    def _gather(self) -> list[Session]:
        """Waits for a ready session, then at most `wait` for all others; suspects come one by one.

        Empty, when there is something to look at while no chunk is full.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._ready() or self._begun(), timeout=1.0)
            if self._wait and self._ready():
                self._changed.wait_for(
                    lambda: self._closing or len(self._ready()) == len(self._sessions), timeout=self._wait
                )
            return self._ready()

    def _begun(self) -> list[Session]:
        return [session for session in self._sessions if self.hurries and session.begun]

    def _ready(self) -> list[Session]:
        ready = [session for session in self._sessions if session.ready]
        suspects = [session for session in ready if session.suspect]
        return suspects[:1] or ready

    def look(self, batch: Sequence[Session]) -> None:
        """Lets the model see what has come of chunks that are not full yet: less is left to do when they are."""
        began = time.perf_counter()
        try:
            for session in batch:
                _fill(session, session.take_early())
            if batch:
                self._model.look([session.stream for session in batch])
        except Exception:
            self._failed(batch, "looking at frames of %d sessions failed")
        self._ahead += time.perf_counter() - began

    def step(self, batch: Sequence[Session]) -> None:
        """Takes each session a chunk further, in one batch, and delivers frames as they become visible."""
        began = time.perf_counter()
        fed, fresh = self._feed(batch)
        if not fed:
            return
        try:
            with self._metrics.stage("step"):
                place = 0
                streams = [session.stream for session in fed]
                for frames in self._model.paint(streams) if self.hurries else [self._model.step(streams)]:
                    for session, own in zip(fed, frames, strict=True):
                        _deliver(session, own, place)
                    place += max(len(own) for own in frames)
        except Exception:
            self._failed(fed, "a step of %d sessions failed")
            return
        if not fresh:  # opening a window, or painting one anew, is not what a chunk costs
            self._throughput.record(time.perf_counter() - began + self._ahead, len(fed))
        self._ahead = 0.0
        self._see_whether_to_hurry()
        self._metrics.batch.observe(len(fed))
        for session in fed:
            session.suspect = False

    def _see_whether_to_hurry(self) -> None:
        seconds = self._throughput.chunk_seconds
        if seconds is not None:
            chunks = sum(session.driving_rate for session in self._sessions) / self._model.config.stream.chunk_frames
            self.hurries = chunks * seconds < (BUSY if self.hurries else IDLE)

    def _failed(self, batch: Sequence[Session], what: str) -> None:
        """In an `except`: says so in the log, and begins these sessions anew."""
        logger.exception(what, len(batch))
        self._metrics.failures.inc()
        for session in batch:
            self._restart(session)

    def _feed(self, batch: Sequence[Session]) -> tuple[list[Session], bool]:
        """Brings each session's waiting chunk into its stream; those where that went well, and whether any is new."""
        fed, fresh = [], False
        for session in batch:
            taken = session.take()
            if taken is None:
                continue
            chunk, changes = taken
            try:
                fresh |= self._apply(session, changes)
                _fill(session, chunk)
            except Exception:
                logger.exception("a session's input could not be used")
                self._metrics.failures.inc()
                self._restart(session)
                continue
            fed.append(session)
        return fed, fresh

    def _apply(self, session: Session, changes: Changes) -> bool:
        """Portrait and controls; True where the stream's window has to be painted from the start."""
        gains = changes.controls.gains(self._own_gains)
        fresh = changes.portrait is not None
        if changes.portrait is not None:
            session.portrait = changes.portrait
            with self._metrics.stage("portrait"):
                if session.stream is not None:
                    session.stream.set_portrait(changes.portrait)
        if session.stream is None:
            session.stream = self._model.start(session.portrait, gains=gains)
            fresh = True
        session.stream.gains, session.stream.smoothing = gains, changes.controls.smoothing
        if changes.recalibrate:
            session.stream.recalibrate()
        return fresh

    def _restart(self, session: Session) -> None:
        """After a failure: a new stream at the next chunk, alone in its batch; a second failure in a row is final."""
        if session.suspect:
            session.failure = FAILED
            self.remove(session)
        session.suspect, session.stream = True, None
        session.inside.clear()
        session.forget_early()


def _fill(session: Session, chunk: Sequence[Driven | None]) -> None:
    assert session.stream is not None
    for driven in chunk:
        session.stream.feed(None if driven is None else driven.pixels)
        session.inside.append(driven)


def _deliver(session: Session, frames: Pixels, place: int) -> None:
    """A painted frame with the driving frame that it belongs to, which leaves the window; nothing in the lead-in."""
    assert session.stream is not None
    if len(frames):
        painted = [Painted(pixels, session.inside.popleft()) for pixels in frames]
        session.deliver(Chunk(painted, session.interval, place, session.stream.chunk_frames))
