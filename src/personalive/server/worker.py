"""The one owner of the model: steps all sessions that are ready together, in one batch, on one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from personalive.config import ModelConfig
from personalive.media.frames import Pixels
from personalive.motion.keypoints import MotionGains
from personalive.server.metrics import Metrics
from personalive.server.session import Changes, Chunk, Clock, Driven, Painted, Session
from personalive.server.throughput import Throughput

logger = logging.getLogger(__name__)

FAILED = "This session could not be animated (the server's log says why); start again, or choose another portrait."


class Model(Protocol):
    """What the worker needs of `pipeline.PersonaLive`."""

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants."""

    def start(self, portrait: Pixels, seed: int = 0, gains: MotionGains | None = None) -> Any:
        """A stream (`session.Streaming`)."""

    def step(self, streams: Sequence[Any]) -> list[Pixels]:
        """One chunk of each ready stream in one batch; none in its lead-in."""


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
        self._sessions: list[Session] = []
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
        """A session has become ready."""
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
        """Steps whatever is ready, until `stop`."""
        while not self._closing:
            batch = self._gather()
            if batch:
                self.step(batch)

    def _gather(self) -> list[Session]:
        """Waits for a ready session, then at most `wait` for all others; suspects come one by one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._ready()), timeout=1.0)
            if self._wait and self._ready():
                self._changed.wait_for(
                    lambda: self._closing or len(self._ready()) == len(self._sessions), timeout=self._wait
                )
            return self._ready()

    def _ready(self) -> list[Session]:
        ready = [session for session in self._sessions if session.ready]
        suspects = [session for session in ready if session.suspect]
        return suspects[:1] or ready

    def step(self, batch: Sequence[Session]) -> None:
        """Takes each session a chunk further, in one batch, and delivers what became visible."""
        began = time.perf_counter()
        fed, fresh = self._feed(batch)
        if not fed:
            return
        try:
            with self._metrics.stage("step"):
                painted = self._model.step([session.stream for session in fed])
        except Exception:
            logger.exception("a step of %d sessions failed", len(fed))
            self._metrics.failures.inc()
            for session in fed:
                self._restart(session)
            return
        if not fresh:  # opening a window, or painting one anew, is not what a chunk costs
            self._throughput.record(time.perf_counter() - began, len(fed))
        self._metrics.batch.observe(len(fed))
        for session, frames in zip(fed, painted, strict=True):
            session.suspect = False
            if len(frames):
                session.deliver(_chunk(session, frames))

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


def _fill(session: Session, chunk: Sequence[Driven | None]) -> None:
    assert session.stream is not None
    for driven in chunk:
        session.stream.feed(None if driven is None else driven.pixels)
        session.inside.append(driven)


def _chunk(session: Session, frames: Pixels) -> Chunk:
    """The painted frames with the driving frames that they belong to, which leave the window."""
    return Chunk([Painted(pixels, session.inside.popleft()) for pixels in frames], session.interval)
