"""The live server as it really runs, uvicorn and all, in a thread of a test; and a viewer who streams all the while."""

from __future__ import annotations

import asyncio
import io
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from personalive.server.app import create_app
from personalive.server.run import bind, make_server
from personalive.server.service import Service
from personalive.server.settings import Settings
from personalive.server.worker import Model

PATIENCE = 60.0
"""Seconds: for a machine that is busy with other things. What takes longer hangs."""

Result = TypeVar("Result")


@dataclass
class Running:
    """A server that is ready: where it listens (host:port), its service, and the event loop of both."""

    address: str
    service: Service
    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], Result]) -> Result:
        """The function's result, called on the server's event loop, to which its sessions belong."""

        async def work() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(PATIENCE)

    def client(self) -> httpx.Client:
        """An HTTP client of the server, which waits no longer than it should have to."""
        return httpx.Client(base_url=f"http://{self.address}", timeout=PATIENCE)


@contextmanager
def running(model: Model, **settings: Any) -> Iterator[Running]:
    """The server, until the block ends. Rates are not limited unless `settings` say so."""
    unlimited = dict.fromkeys(("requests_per_minute", "uploads_per_minute", "sessions_per_minute"), 10**6)
    wanted = Settings(**{"port": 0, "max_sessions": 4, **unlimited, **settings})
    app = create_app(model, wanted)
    listening, server = bind(wanted), make_server(wanted, app=app)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    service: Service = app.state.service
    thread.start()
    try:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        until(lambda: service.ready.is_set() or service.failure is not None)
        assert service.failure is None, service.failure
        yield Running(address, service, loops[0])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the server does not end"


def until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Waits until something holds; fails when it never does."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


@dataclass
class Bystander:
    """A viewer with a session of its own, who streams in a thread and notes what comes back."""

    server: Running
    session: str = ""
    frames: int = 0
    newest: float = -math.inf
    faults: list[str] = field(default_factory=list)

    def _stream(self, socket: ClientConnection, leave: threading.Event) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        place = io.BytesIO()
        Image.fromarray(pixels).save(place, "JPEG")
        try:
            while not leave.wait(0.05):
                socket.send(struct.pack(">d", 1000 * time.monotonic()) + place.getvalue())
        except Exception as error:
            self.faults.append(f"sending: {error!r}")

    def _watch(self, socket: ClientConnection, leave: threading.Event) -> None:
        try:
            for message in socket:
                if isinstance(message, bytes):
                    self._see(struct.unpack_from(">d", message)[0])
                elif (told := json.loads(message))["type"] == "error" or told.get("state") == "failed":
                    self.faults.append(message)
        except Exception as error:
            self.faults.append(f"watching: {error!r}")
        if not leave.is_set():
            self.faults.append("the connection was lost")

    def _see(self, captured: float) -> None:
        self.frames += 1
        if captured < self.newest:
            self.faults.append(f"a frame of {captured} after one of {self.newest}")
        if math.isfinite(captured):
            self.newest = max(self.newest, captured)

    def assert_undisturbed(self) -> None:
        """The stream goes on: a frame that is captured from now on comes back; and nothing went wrong till then."""
        now = 1000 * time.monotonic()
        until(lambda: self.newest > now or self.faults)
        assert self.faults == []


@contextmanager
def bystander(server: Running) -> Iterator[Bystander]:
    """A viewer who streams while the block runs, with the first frame back at its start."""
    with server.client() as client:
        viewer = Bystander(server, client.post("/api/sessions", json={}).json()["session"])
        leave = threading.Event()
        with connect(f"ws://{server.address}/api/sessions/{viewer.session}/frames", max_size=None) as socket:
            parts = [threading.Thread(target=part, args=(socket, leave)) for part in (viewer._stream, viewer._watch)]
            for part in parts:
                part.start()
            try:
                viewer.assert_undisturbed()
                yield viewer
            finally:
                leave.set()
                parts[0].join(PATIENCE)
                socket.close()
                parts[1].join(PATIENCE)
        client.delete(f"/api/sessions/{viewer.session}")
