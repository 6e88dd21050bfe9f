"""Frames as JPEG over a WebSocket, both ways: 8 bytes of capture time (float64, big-endian, ms), then the picture."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import struct
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from personalive.errors import InputError
from personalive.media.frames import Pixels, decode_picture
from personalive.server.control import as_text, obey, tell_news
from personalive.server.intake import Raw
from personalive.server.service import Service
from personalive.server.sessions import Live

STAMP = struct.Struct(">d")
MAX_MESSAGE = 2_000_000
"""Bytes of a frame."""

MAX_PIXELS = 1920 * 1200
FORMATS = ("JPEG", "WEBP", "PNG")
MAX_FAULTS = 50
"""Messages that are not understood, after which the connection is closed."""

NO_PONG = 1011
"""The close code of a client that has not answered pings for seconds: it was waited for already."""

VANISHED_SECONDS = 0.5

GONE = (WebSocketDisconnect, RuntimeError, OSError)
"""What sending to a client that has gone raises, depending on how it went."""


class Socket:
    """One connection to a session. A watcher's sends no frames and does not keep the session alive."""

    def __init__(self, service: Service, live: Live, socket: WebSocket, watches: bool) -> None:
        self._service = service
        self._live = live
        self._socket = socket
        self._watches = watches
        self._sending = asyncio.Lock()
        self._faults = 0
        self._vanished = False

    async def run(self) -> None:
        """Serves the connection until either side ends it."""
        await self._socket.accept()
        if not self._watches:
            self._live.attach()
        try:
            async with anyio.create_task_group() as tasks:
                leave = tasks.cancel_scope.cancel
                self._live.leaving.append(leave)
                for part in (self._receive, self._send_frames, self._send_news):
                    tasks.start_soon(self._until_gone, part, leave)
        finally:
            self._live.leaving.remove(leave)
            if not self._watches:
                patience = VANISHED_SECONDS if self._vanished else self._service.settings.linger_seconds
                self._live.detach(self._service.clock(), patience)
        await self._goodbye()

    async def _until_gone(self, part: Any, leave: Any) -> None:
        """One direction; when it ends, so does the connection."""
        with contextlib.suppress(*GONE):
            await part()
        leave()

    async def _goodbye(self) -> None:
        with contextlib.suppress(*GONE):  # the client may have gone first
            await self._socket.close(1000, "the session has ended")

    async def _receive(self) -> None:
        while self._faults < MAX_FAULTS:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._vanished = message.get("code") == NO_PONG
                return
            data, text = message.get("bytes"), message.get("text")
            if text is not None:
                await obey(self._service, self._live, text, self._tell)
            elif data is not None:
                await self._take(data)

    async def _take(self, data: bytes) -> None:
        if self._watches:
            await self._complain("this connection only watches; connect without ?watch=1 to drive the session")
            return
        if not STAMP.size < len(data) <= MAX_MESSAGE:
            await self._complain(f"a frame is 8 bytes of time and a picture of at most {MAX_MESSAGE / 1e6:g} MB")
            return
        captured = STAMP.unpack_from(data)[0]
        if not math.isfinite(captured):
            await self._complain("the capture time is no number; send milliseconds")
            return
        decode = functools.partial(_decode, data[STAMP.size :])
        self._live.intake.offer(Raw(decode, captured, self._service.clock()))

    async def _complain(self, error: str) -> None:
        self._faults += 1
        await self._tell({"type": "error", "error": error})

    async def _send_frames(self) -> None:
        with self._live.screen.watch() as watcher:
            while True:
                frame = await watcher.next()
                assert frame is not None  # there is no patience to run out of
                with self._service.metrics.stage("encode"):
                    jpeg = self._live.encoder.encode(frame, self._live.session.controls.quality)
                driven = frame.driven
                captured = math.nan if driven is None or driven.captured is None else driven.captured
                async with self._sending:
                    await self._socket.send_bytes(STAMP.pack(captured) + jpeg)

    async def _send_news(self) -> None:
        await tell_news(self._service, self._live, self._tell)

    async def _tell(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._socket.send_text(as_text(message))


def _decode(data: bytes) -> Pixels:
    """A driving frame. Raises InputError for anything but a picture of bearable size."""
    if data[:2] != b"\xff\xd8" and data[:4] not in (b"RIFF", b"\x89PNG"):
        raise InputError("a frame is a JPEG, WebP or PNG picture")
    return decode_picture(data, "the frame", MAX_PIXELS, FORMATS)
