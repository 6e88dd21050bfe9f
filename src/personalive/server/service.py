"""The server without its routes: the model while it loads and when it is there, sessions, portraits, figures."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from personalive.errors import PersonaLiveError
from personalive.server.messages import Controls
from personalive.server.metrics import Metrics
from personalive.server.portraits import Portraits
from personalive.server.session import Clock
from personalive.server.sessions import Live, Sessions
from personalive.server.settings import Settings
from personalive.server.throughput import Throughput
from personalive.server.virtual_camera import film, open_camera
from personalive.server.worker import Model

logger = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between looks at what time has brought."""

LOADING_PATIENCE = 10.0
"""Seconds that `stop` waits for a model that is still loading."""

INTAKE_THREADS = 2
FILMING = "personalive-virtual-camera"


class NotReadyError(PersonaLiveError):
    """The model is still loading, or could not be loaded."""


class Service:
    """One model and its viewers. `start` wants a running event loop; calling it again does nothing."""

    def __init__(
        self, load: Callable[[Callable[[float], None]], Model], settings: Settings, clock: Clock = time.monotonic
    ) -> None:
        """`load` makes the model, on a thread of its own, and tells its progress from 0 to 1."""
        self.settings = settings
        self.metrics = Metrics()
        self.portraits = Portraits(settings)
        self.clock = clock
        self.progress = 0.0
        self.failure: str | None = None
        self.threads = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="personalive-intake")
        self.model: Model | None = None
        self.ready = asyncio.Event()
        self.uploading = asyncio.Semaphore(2)  # pictures that are decoded at the same time
        self._load = load
        self._sessions: Sessions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loading: threading.Thread | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        """Begins to load the model, in the background."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loading = threading.Thread(target=self._load_model, name="personalive-loading", daemon=True)
            self._loading.start()

    async def stop(self) -> None:
        """Ends all sessions, connections and threads."""
        self._stopped = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._sessions is not None:
            self._sessions.close_all()
        for task in self._running:
            if task.get_name() == FILMING:
                task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._loading is not None:  # a process that ends while torch works would crash
            await asyncio.to_thread(self._loading.join, LOADING_PATIENCE)

    @property
    def sessions(self) -> Sessions:
        """The sessions. Raises NotReadyError while the model is loading."""
        if self._sessions is None:
            if self.failure is not None:
                raise NotReadyError(self.failure)
            raise NotReadyError(f"the model is loading ({self.progress:.0%}); try again in a moment")
        return self._sessions

    async def open(self, portrait_id: str | None, controls: Controls, identity: str | None = None) -> Live:
        """A new session of a portrait (None: the first built-in one). Raises as `Sessions.open`."""
        sessions = self.sessions
        name = portrait_id or next(iter(self.portraits.built_in), "")
        portrait = await asyncio.to_thread(self.portraits.get, name)
        pixels = await asyncio.to_thread(portrait.framed, self._model().config.output_size)
        live = sessions.open(pixels, controls, identity)
        live.portrait_id = portrait.identity
        return live

    async def change_portrait(self, live: Live, portrait_id: str) -> None:
        """Another portrait for a session, from its next chunk on. Raises UnknownError."""
        portrait = await asyncio.to_thread(self.portraits.get, portrait_id)
        live.session.set_portrait(await asyncio.to_thread(portrait.framed, self._model().config.output_size))
        live.portrait_id = portrait.identity

    def run(self, work: Coroutine[Any, Any, None], name: str = "personalive-closing") -> None:
        """Work that nobody waits for but `stop`, on the event loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _model(self) -> Model:
        assert self.model is not None  # `sessions` was asked before
        return self.model

    def _load_model(self) -> None:
        try:
            model = self._load(self._tell)
            throughput = warm_up(model, lambda: self._stopped)
        except PersonaLiveError as error:
            self.failure = str(error)
            logger.error("the model cannot be used: %s", error)
        except Exception:
            self.failure = "the model could not be loaded (the server's log says why)"
            logger.exception("loading the model failed")
        else:
            if self._loop is not None and not self._loop.is_closed() and not self._stopped:
                self._loop.call_soon_threadsafe(self._begin, model, throughput)

    def _tell(self, progress: float) -> None:
        self.progress = 0.9 * progress  # warming up is the rest

    def _begin(self, model: Model, throughput: Throughput) -> None:
        self.model = model
        self._sessions = Sessions(model, self.settings, self.metrics, self.threads, throughput, self.clock)
        self._sessions.worker.start()
        self.progress = 1.0
        self._ticker = asyncio.get_running_loop().create_task(self._tick(self._sessions), name="personalive-ticker")
        if self.settings.virtual_camera:
            self._begin_filming(self._sessions)
        self.ready.set()

    def _begin_filming(self, sessions: Sessions) -> None:
        """The virtual camera; where there is none, the server goes on without it and says so."""
        try:
            camera = open_camera()
        except PersonaLiveError as error:
            logger.error("%s", error)
        else:
            self.run(film(sessions, camera), FILMING)

    async def _tick(self, sessions: Sessions) -> None:
        while True:
            sessions.tick()
            await asyncio.sleep(TICK)


def warm_up(model: Model, stopped: Callable[[], bool]) -> Throughput:
    """Steps one stream through its window and a little further, so that throughput is known before anybody comes.

    Unless it is `stopped`: then nothing is known.
    """
    config = model.config
    throughput = Throughput(config.stream.chunk_frames)
    noise = np.random.default_rng(0)
    portrait, driving = (
        noise.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (config.output_size, config.driver_size)
    )
    stream = model.start(portrait)
    seconds = []
    for _ in range(config.stream.levels + 3):
        for _ in range(config.stream.chunk_frames):
            stream.feed(driving)
        began = time.perf_counter()
        model.step([stream])
        seconds.append(time.perf_counter() - began)
        if stopped():
            return throughput
    throughput.record(min(seconds[config.stream.levels :]), 1)
    return throughput
