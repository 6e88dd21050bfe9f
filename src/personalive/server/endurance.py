"""Whether the live server lasts: with more input than it can use, for long, and when viewers vanish (as in `bench`)."""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import websockets

from personalive.server.bench import CAMERA_RATE, Seen, film, load_clip, open_session, serving, view
from personalive.server.service import Service
from personalive.server.worker import Model

FREED_SECONDS = 5.0
"""Within them, everything of a viewer who has left is freed."""

AT_ONCE = 16
"""Viewers that come and vanish at the same time; each keeps its place for some seconds longer."""

MOST_SECONDS = 10.0
"""What a viewer stays at most."""


@dataclass(frozen=True)
class Overload:
    """Median delays (ms) of the first and the last minute (or third), of a viewer who sent `sent` frames a second."""

    sent: float
    sustained: float
    first: float
    last: float
    dropped: int


async def overload(model: Model, seconds: float) -> Overload:
    """One viewer who sends 60 frames a second: at least twice what a session is driven at (30 by default)."""
    clip = load_clip()
    part = min(60.0, seconds / 3)
    async with serving(model, 1) as (address, service):
        sustained, sent = service.sessions.rate, 2 * CAMERA_RATE
        began = time.monotonic()
        seen = await view(address, clip, seconds, sent)
    pairs = list(zip(seen.displayed, seen.delays, strict=True))
    first = [delay for moment, delay in pairs if moment - began <= part]
    last = [delay for moment, delay in pairs if began + seconds - moment <= part]
    return Overload(sent, sustained, _median(first), _median(last), seen.dropped)


def _median(delays: Sequence[float]) -> float:
    """In milliseconds; no number where nothing was seen."""
    return 1000 * statistics.median(delays) if delays else math.nan


async def memory(model: Model, seconds: float) -> list[float]:
    """Resident megabytes of this process after each tenth of a long stream of one viewer."""
    clip = load_clip()
    found = []
    async with serving(model, 1) as (address, service):
        # What was seen is not kept: it would be memory that grows.
        seen = Seen(deque(maxlen=1), deque(maxlen=1), deque(maxlen=1))
        viewing = asyncio.create_task(view(address, clip, seconds, seen=seen))
        try:
            for _ in range(10):
                await asyncio.sleep(seconds / 10)
                found.append(_resident(service))
            await viewing
        finally:
            viewing.cancel()
    return found


@dataclass(frozen=True)
class Left:
    """What there is, or is more than before: sessions, the worker's, tasks, threads, open files, resident megabytes.

    late_megabytes: how many of those came with the second half of the viewers. The most that was ever in use at once
    stays with the allocator, so the first half tells little; a leak goes on in the second.
    """

    sessions: int
    worker_sessions: int
    tasks: int
    threads: int
    files: int
    megabytes: float
    late_megabytes: float = 0.0


async def disconnects(model: Model, count: int) -> Left:
    """What is left 5 seconds after so many viewers have vanished without a word; those of a first round do not count.

    A third each: at the first message, a second later, with the first painted frame (or after MOST_SECONDS).
    """
    clip = load_clip()
    async with serving(model, 2 * AT_ONCE) as (address, service):
        await _come_and_vanish(address, clip, AT_ONCE)
        before = _there(service)
        await _come_and_vanish(address, clip, count - count // 2)
        half = _there(service)
        await _come_and_vanish(address, clip, count // 2)
        after = _there(service)
    return Left(
        after.sessions - before.sessions, after.worker_sessions - before.worker_sessions, after.tasks - before.tasks,
        after.threads - before.threads, after.files - before.files, after.megabytes - before.megabytes,
        after.megabytes - half.megabytes,
    )  # fmt: skip


async def _come_and_vanish(address: str, clip: Sequence[bytes], count: int) -> None:
    """At most AT_ONCE of them are there together; each has a place for FREED_SECONDS more."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            session = await open_session(address)
            socket = await websockets.connect(f"ws://{address}/api/sessions/{session}/frames", max_size=None)
            filming = asyncio.create_task(film(socket, clip, CAMERA_RATE))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_stay(socket, number), MOST_SECONDS)
            filming.cancel()
            socket.transport.abort()
            await asyncio.sleep(FREED_SECONDS)

    await asyncio.gather(*(one(number) for number in range(count)))


async def _stay(socket: websockets.ClientConnection, number: int) -> None:
    """Until the first message, a second later, or until the first painted frame: by the viewer's number."""
    async for message in socket:
        if number % 3 == 0 or isinstance(message, bytes):
            return
        if number % 3 == 1:
            await asyncio.sleep(1.0)
            return


def _there(service: Service) -> Left:
    """What there is now."""
    gc.collect()
    files = Path("/proc/self/fd")
    return Left(
        sessions=len(service.sessions),
        worker_sessions=len(service.sessions.worker),
        tasks=len(asyncio.all_tasks()),
        threads=threading.active_count(),
        files=len(list(files.iterdir())) if files.is_dir() else 0,
        megabytes=_resident(service),
    )


def _resident(service: Service) -> float:
    """Megabytes of this process; not known on systems without /proc."""
    value = service.metrics.registry.get_sample_value("process_resident_memory_bytes")
    return math.nan if value is None else value / 1e6
