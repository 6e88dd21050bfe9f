"""Measures the live server as a viewer sees it: a real server in this process, WebSocket clients that play a clip.

Capture to display: a frame's time is taken before its JPEG is made, and again when its painted frame has come back and
was decoded. The floor is what the model's window asks for: `window_frames` driving frames at the rate driven.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import signal
import statistics
import struct
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import uvicorn
import websockets
from PIL import Image

from personalive import gallery
from personalive.media.frames import Pixels
from personalive.media.video import read_video
from personalive.server.app import create_app
from personalive.server.run import bind, make_server
from personalive.server.service import Service
from personalive.server.settings import Settings
from personalive.server.worker import Model

CAMERA_RATE = 30.0
Result = TypeVar("Result")
STAMP = struct.Struct(">d")

_ASKING = ThreadPoolExecutor(32, thread_name_prefix="personalive-bench")
"""For the viewers' requests: on the loop's own threads they would wait for the server, which needs those to answer."""


@dataclass
class Seen:
    """What one viewer saw: moments of display (seconds), delays (seconds) and the driving rates it was told."""

    displayed: deque[float] = field(default_factory=deque)
    delays: deque[float] = field(default_factory=deque)
    rates: deque[float] = field(default_factory=deque)
    dropped: int = 0


@dataclass(frozen=True)
class Figures:
    """Of all viewers of a run together; milliseconds, but `rate` (driven frames per second) and `shown` (of one)."""

    sessions: int
    rate: float
    shown: float
    p50: float
    p95: float
    floor: float
    step: float
    dropped: int

    @property
    def above(self) -> float:
        """Milliseconds of the 95th percentile above the floor."""
        return self.p95 - self.floor


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What it gives. A signal ends first the viewers, then their server; then it is KeyboardInterrupt."""
    numbers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def until_stopped() -> Result:
        task = asyncio.current_task()
        assert task is not None
        for number in numbers:
            with suppress(NotImplementedError):  # on Windows the loop takes no signals; Ctrl-C ends it anyway
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(until_stopped())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in numbers.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """Leaves signals to `run`, which ends the whole bench, not only its server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@asynccontextmanager
async def serving(model: Model, sessions: int) -> AsyncIterator[tuple[str, Service]]:
    """A server on a free port of this machine: its address (host:port) and its service, ready."""
    settings = Settings(
        port=0, max_sessions=sessions, requests_per_minute=10**6, sessions_per_minute=10**6, uploads_per_minute=10**6
    )
    app = create_app(model, settings)
    server, listening = _Server(make_server(settings, app=app).config), bind(settings)
    running = asyncio.create_task(server.serve([listening]))
    service: Service = app.state.service
    try:
        await service.ready.wait()
        yield f"127.0.0.1:{listening.getsockname()[1]}", service
    finally:
        server.should_exit = True
        await running
        listening.close()


async def measure(model: Model, sessions: int, seconds: float, settle: float) -> Figures:
    """So many viewers for so long; what they saw after the first `settle` seconds."""
    clip = load_clip()
    async with serving(model, sessions) as (address, service):
        began = time.monotonic()
        seen = await asyncio.gather(*(view(address, clip, settle + seconds) for _ in range(sessions)))
        step = 1000 * (service.sessions.throughput.chunk_seconds or math.nan)
        window = model.config.stream.window_frames
    return summarise(seen, began + settle, window, step)


async def view(
    address: str, clip: Sequence[bytes], seconds: float, rate: float = CAMERA_RATE, seen: Seen | None = None
) -> Seen:
    """One viewer whose camera plays the clip at `rate`, whatever the server drives at, for so long."""
    session = await open_session(address)
    seen = seen or Seen()
    async with websockets.connect(f"ws://{address}/api/sessions/{session}/frames", max_size=None) as socket:
        camera = asyncio.create_task(film(socket, clip, rate))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_watch(socket, seen), seconds)
        camera.cancel()
    await close_session(address, session)
    return seen


async def film(socket: websockets.ClientConnection, clip: Sequence[bytes], rate: float) -> None:
    """Sends the clip over and over, so many frames a second; until cancelled."""
    began, number = time.monotonic(), 0
    with suppress(websockets.ConnectionClosed):
        while True:
            await socket.send(STAMP.pack(1000 * time.monotonic()) + clip[number % len(clip)])
            number += 1
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))


async def _watch(socket: websockets.ClientConnection, seen: Seen) -> None:
    async for message in socket:
        if isinstance(message, str):
            told = json.loads(message)
            if told["type"] == "statistics":
                seen.rates.append(told["driving_rate"])
                seen.dropped = told["dropped"]
            continue
        captured = STAMP.unpack_from(message)[0]
        with Image.open(io.BytesIO(message[STAMP.size :])) as picture:
            picture.load()
        now = time.monotonic()
        if math.isfinite(captured):
            seen.displayed.append(now)
            seen.delays.append(now - captured / 1000)


def summarise(seen: Sequence[Seen], since: float, window_frames: int, step: float) -> Figures:
    """The figures of what was displayed after `since`; `step` milliseconds of work for a session's chunk."""
    delays = [d for one in seen for t, d in zip(one.displayed, one.delays, strict=True) if t >= since]
    moments = [[t for t in one.displayed if t >= since] for one in seen]
    shown = [(len(times) - 1) / (times[-1] - times[0]) for times in moments if len(times) > 1]
    rates = [rate for one in seen for rate in list(one.rates)[len(one.rates) // 3 :]]
    rate = statistics.median(rates) if rates else math.nan
    p50, p95 = np.percentile(delays, [50, 95]) if delays else (math.nan, math.nan)
    return Figures(
        len(seen), rate, statistics.mean(shown) if shown else math.nan, 1000 * float(p50), 1000 * float(p95),
        1000 * window_frames / rate, step, sum(one.dropped for one in seen),
    )  # fmt: skip


def load_clip(frames: int = 90, side: int = 480) -> list[bytes]:
    """The built-in driving clip as JPEGs, of about a camera's size."""
    with read_video(gallery.find_driving(gallery.DRIVING), frames) as video:
        return [_jpeg(frame.pixels, side) for frame in video]


def _jpeg(pixels: Pixels, side: int) -> bytes:
    place = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(place, "JPEG", quality=80)
    return place.getvalue()


async def open_session(address: str) -> str:
    """A session of the first built-in portrait."""
    return str((await _asked("POST", f"http://{address}/api/sessions", b"{}"))["session"])


async def close_session(address: str, session: str) -> None:
    """Ends it; it may have ended by itself."""
    with suppress(urllib.error.HTTPError):
        await _asked("DELETE", f"http://{address}/api/sessions/{session}")


async def _asked(method: str, address: str, body: bytes | None = None) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(_ASKING, _ask, method, address, body)


def _ask(method: str, address: str, body: bytes | None = None) -> dict[str, Any]:
    asked = urllib.request.Request(address, body, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        text = answer.read()
    return dict(json.loads(text)) if text else {}
