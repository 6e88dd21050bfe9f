"""All sessions of a server: who may come in, who is gone, and what each of them may ask of the machine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Protocol

from personalive.errors import PersonaLiveError
from personalive.media.frames import Pixels
from personalive.motion.face_crop import FramedPortrait
from personalive.server.encoding import FrameEncoder, badged
from personalive.server.intake import Intake
from personalive.server.messages import Controls
from personalive.server.metrics import Metrics
from personalive.server.screen import Screen
from personalive.server.session import Chunk, Clock, Painted, Session
from personalive.server.settings import Settings
from personalive.server.throughput import Throughput
from personalive.server.worker import Model, Worker

CONNECT_SECONDS = 15.0
"""How long a new session waits for its first connection."""


class ServerFullError(PersonaLiveError):
    """No session more can be had at the promised rate. `capacity` says how many can."""

    def __init__(self, sessions: int, capacity: int) -> None:
        super().__init__(f"server full: {sessions} of {capacity} sessions are in use; try again when one has ended")
        self.capacity = capacity


class UnknownError(PersonaLiveError):
    """A session or a portrait that is not there, or no longer."""


class Connection(Protocol):
    """A WebRTC peer, as its session knows it."""

    def leave(self) -> None:
        """Begins to close."""

    async def close(self) -> None:
        """Closes."""


class Live:
    """A session with its ways in and out, and the connections that keep it alive."""

    def __init__(self, session: Session, intake: Intake, screen: Screen, now: float) -> None:
        self.session = session
        self.intake = intake
        self.screen = screen
        self.since = now
        self.encoder = FrameEncoder()
        self.portrait_id = ""
        self.connections: dict[str, Connection] = {}
        """WebRTC peers by their names."""

        self.leaving: list[Callable[[], None]] = []
        """Called once when the session ends; connections put their own end here."""

        self._drivers = 0
        self._alone_since: float | None = now
        self._patience = CONNECT_SECONDS

    @property
    def drivers(self) -> int:
        """Connections that drive it."""
        return self._drivers

    def attach(self) -> None:
        """A client has connected that drives this session."""
        self._drivers += 1
        self._alone_since = None

    def detach(self, now: float, patience: float) -> None:
        """It has gone; the session waits so many seconds for it to come back."""
        self._drivers -= 1
        if self._drivers == 0:
            self._alone_since, self._patience = now, patience

    def abandoned(self, now: float) -> bool:
        """Nobody has driven it for longer than it waits."""
        return self._alone_since is not None and now - self._alone_since > self._patience


class Sessions:
    """The sessions by their names. For one event loop; `tick` wants to be called a few times a second."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        metrics: Metrics,
        threads: Executor,
        throughput: Throughput,
        clock: Clock,
    ) -> None:
        self.throughput = throughput
        self.worker = Worker(model, self.throughput, metrics, wait=settings.batch_wait_ms / 1000, clock=clock)
        self._config = model.config
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._clock = clock
        self._live: dict[str, Live] = {}
        self._players: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    @property
    def capacity(self) -> int | None:
        """How many sessions can be had: as set, else as measured; None while nothing was measured."""
        return self._settings.max_sessions or self.throughput.capacity(self._settings.rate)

    @property
    def rate(self) -> float:
        """Frames per second that one session more, or each of those that are there, gets."""
        return self.throughput.rate(max(1, len(self)), self._settings.max_rate)

    def open(self, portrait: Pixels | FramedPortrait, controls: Controls, identity: str | None = None) -> Live:
        """A new session for a square picture. Raises ServerFullError."""
        capacity = self.capacity
        if capacity is not None and len(self) >= capacity:
            raise ServerFullError(len(self), capacity)
        identity = identity or secrets.token_urlsafe(12)
        session = Session(identity, portrait, controls, self._config.stream.chunk_frames, self._clock)
        screen = Screen(self._clock, lambda frame, now: self._note_shown(session, frame, now))
        intake = Intake(session, self._config.driver_size, self._threads.submit, self.worker.wake, self._metrics)
        live = Live(session, intake, screen, self._clock())
        loop = asyncio.get_running_loop()
        mark = badged if self._settings.badge else _as_it_is
        session.deliver = lambda chunk: _hand_over(loop, screen, mark(chunk))
        self._live[identity] = live
        self._players[identity] = loop.create_task(screen.play(), name=f"player {identity}")
        self.worker.add(session)
        self.share()
        return live

    def get(self, identity: str) -> Live:
        """A session by its name. Raises UnknownError."""
        live = self._live.get(identity)
        if live is None:
            raise UnknownError("there is no such session, or it has ended; start a new one")
        return live

    def close(self, identity: str) -> None:
        """Ends a session and frees everything of it; one that is not there is no error."""
        live = self._live.pop(identity, None)
        if live is None:
            return
        self.worker.remove(live.session)
        self._players.pop(identity).cancel()
        for leave in [*live.leaving, *(peer.leave for peer in live.connections.values())]:
            leave()
        self.share()

    def close_all(self) -> None:
        """Ends every session, and the worker."""
        for identity in list(self._live):
            self.close(identity)
        self.worker.stop()

    def tick(self) -> None:
        """What time brings: abandoned sessions end, silent ones are let out if watched, rates follow the throughput."""
        now, window = self._clock(), self._config.stream.window_frames
        for identity, live in list(self._live.items()):
            if live.abandoned(now):
                self.close(identity)
            elif live.screen.watchers and live.session.hold_if_silent(now, window):
                self.worker.wake()
        self.share()

    def share(self) -> None:
        """Gives every session its driving rate, and the metrics their gauges."""
        automatic = self.rate
        for live in self._live.values():
            asked = live.session.controls.driving_rate
            live.session.adapt(automatic if asked == "auto" else min(asked, automatic))
        self._metrics.sessions.set(len(self))
        self._metrics.capacity.set(self.capacity or 0)
        self._metrics.depth.set(sum(live.session.depth for live in self._live.values()))

    def _note_shown(self, session: Session, frame: Painted, now: float) -> None:
        delay = session.note_shown(frame, now)
        self._metrics.frames.labels("shown").inc()
        if delay is not None:
            self._metrics.delay.observe(delay)


def _as_it_is(chunk: Chunk) -> Chunk:
    return chunk


def _hand_over(loop: asyncio.AbstractEventLoop, screen: Screen, chunk: Chunk) -> None:
    """From the worker's thread to the event loop; a loop that has ended has nobody to show anything to."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(screen.plan, chunk)
