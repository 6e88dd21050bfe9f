"""WebRTC by aiortc: a camera in, the animated video out, control messages on a data channel; WHIP and WHEP alike."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import functools
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription
from av.video.frame import VideoFrame

from personalive.errors import InputError
from personalive.media.frames import Pixels
from personalive.server.control import as_text, obey, tell_news
from personalive.server.dtls import accept_rsa
from personalive.server.intake import Raw
from personalive.server.jitter import keep_current
from personalive.server.messages import MAX_MESSAGE
from personalive.server.screen import Screen, Watcher
from personalive.server.service import Service
from personalive.server.session import Painted
from personalive.server.sessions import Live

logger = logging.getLogger(__name__)

CLOCK_RATE = 90_000
REPEAT_SECONDS = 1.0
"""A still picture is sent again so often, so that a viewer who has lost it has it again."""

CONNECT_SECONDS = 10.0
DRIVER_SILENCE = 2.5
"""Seconds without a single packet after which a driver is gone: a live one reports at least every second or two."""

WATCHER_SILENCE = 15.0
"""Of one that only watches: its reports may be rare."""

LOOK_SECONDS = 0.5
MAX_ORDERS = 32
"""Messages of one client that wait to be obeyed."""

MAX_PEERS = 4
"""Of one session: a driver and some who watch."""

MAX_SDP = 64_000
MAX_PIXELS = 1920 * 1200
MAX_BUFFERED = 64_000
"""Bytes that may wait in a data channel; beyond, messages are not sent."""


class ScreenTrack(MediaStreamTrack):
    """What a session's screen shows, as a video track: frames when they are shown, the last again while it rests."""

    kind = "video"

    def __init__(self, screen: Screen, resting: Pixels, peer: Peer) -> None:
        """`resting`: what is sent until the first frame is there."""
        super().__init__()
        self._peer = peer
        self._resting = Painted(resting, None)
        self._watching = contextlib.ExitStack()
        self._watcher: Watcher = self._watching.enter_context(screen.watch())
        self._latest: Painted | None = None
        self._began: float | None = None
        self._pts = -1

    async def recv(self) -> VideoFrame:
        """The next frame to encode."""
        if self.readyState != "live":
            raise MediaStreamError
        patience = 0.0 if self._latest is None else REPEAT_SECONDS
        painted = await self._watcher.next(patience)
        if painted is not None:
            self._latest = painted
            self._peer.tell_frame(painted)
        shown = self._latest = self._latest or self._resting
        now = self._peer.service.clock()
        self._began = self._began if self._began is not None else now
        self._pts = max(self._pts + 1, round((now - self._began) * CLOCK_RATE))
        frame = VideoFrame.from_ndarray(shown.pixels, format="rgb24")
        frame.pts, frame.time_base = self._pts, fractions.Fraction(1, CLOCK_RATE)
        return frame

    def stop(self) -> None:
        """No more frames."""
        self._watching.close()
        super().stop()


class Peer:
    """One peer connection of a session. Those that send video or have a data channel drive it, others only watch."""

    def __init__(self, service: Service, live: Live) -> None:
        self.service = service
        self.name = secrets.token_urlsafe(9)
        self._live = live
        servers = [RTCIceServer(urls=address) for address in service.settings.ice_servers]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))  # an empty list: nobody else is asked
        accept_rsa(self._peer)
        self._channel: RTCDataChannel | None = None
        self._orders: asyncio.Queue[str] = asyncio.Queue(MAX_ORDERS)
        self._screen: ScreenTrack | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._drives = False
        self._closed = False
        self._connected = False
        self._heard = service.clock()
        self._packets = 0
        self._offset: float | None = None  # the server's clock minus the client's, the smallest seen: seconds
        self._frames = 0

    async def answer(self, sdp: str) -> str:
        """Takes an offer and gives the answer, with all candidates in it. Raises InputError for a bad offer."""
        if len(self._live.connections) >= MAX_PEERS:
            raise InputError(f"this session has {MAX_PEERS} WebRTC connections already; close one of them")
        self._live.connections[self.name] = self
        self._peer.on("track", self._on_track)
        self._peer.on("datachannel", self._on_channel)
        self._peer.on("connectionstatechange", self._on_state)
        try:
            _check_fingerprints(sdp)
            await self._peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            self._choose_video()
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except Exception as error:  # the parser of a foreign SDP raises nearly anything
            await self.close()
            raise InputError(f"the WebRTC offer cannot be used ({_line(error)}); send a complete SDP offer") from None
        if self._peer.sctp is not None:
            self._drive()
        self._run(self._watch_over())
        return str(self._peer.localDescription.sdp)

    def _choose_video(self) -> None:
        """The screen's video goes out on the first video line; sound, and whatever else is offered, is declined."""
        lines = self._peer.getTransceivers()
        videos = [line for line in lines if line.kind == "video"]
        if not videos and self._peer.sctp is None:
            raise ValueError("it has neither video nor a data channel")
        for line in lines:
            if line not in videos[:1]:
                line.direction = "inactive"
        if videos:
            keep_current(videos[0].receiver)
            self._screen = ScreenTrack(self._live.screen, self._live.session.portrait, self)
            self._peer.addTrack(self._screen)

    def _drive(self) -> None:
        if not self._drives and not self._closed:
            self._drives = True
            self._live.attach()

    # What comes

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "video" and not self._drives_video():
            self._drive()
            self._run(self._take_video(track), "video")

    def _drives_video(self) -> bool:
        return any(task.get_name() == "video" for task in self._tasks)

    async def _take_video(self, track: MediaStreamTrack) -> None:
        """Empties the track as fast as it fills; the intake keeps the newest."""
        while True:
            frame = await track.recv()
            if not isinstance(frame, VideoFrame) or frame.width * frame.height > MAX_PIXELS:
                continue
            now = self.service.clock()
            captured = None if self._offset is None else 1000 * (now - self._offset)
            self._live.intake.offer(Raw(functools.partial(_pixels, frame), captured, now))

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            return
        self._channel = channel
        channel.on("message", self._on_message)
        self._run(self._obey())
        self._run(tell_news(self.service, self._live, self._tell))

    def _on_message(self, message: str | bytes) -> None:
        self._heard = self.service.clock()
        if isinstance(message, str) and len(message) <= MAX_MESSAGE:
            with contextlib.suppress(asyncio.QueueFull):  # who floods is not heard
                self._orders.put_nowait(message)

    async def _obey(self) -> None:
        while True:
            ping = await obey(self.service, self._live, await self._orders.get(), self._tell)
            if ping is not None:
                offset = self.service.clock() - ping.time / 1000
                self._offset = offset if self._offset is None else min(self._offset, offset)

    # What goes

    async def _tell(self, message: dict[str, Any]) -> None:
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        channel = self._channel
        if channel is not None and channel.readyState == "open" and channel.bufferedAmount < MAX_BUFFERED:
            channel.send(as_text(message))

    def tell_frame(self, painted: Painted) -> None:
        """Says which capture time the frame has that goes to the encoder now."""
        self._frames += 1
        captured = None if painted.driven is None else painted.driven.captured
        if captured is not None:
            self._send({"type": "frame", "captured": captured, "number": self._frames})

    # How it ends

    def _on_state(self) -> None:
        state = self._peer.connectionState
        self._connected |= state == "connected"
        if state in ("failed", "closed"):
            self.leave()

    async def _watch_over(self) -> None:
        """Ends a peer that does not get through, or that has fallen silent."""
        began = self._heard
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self.service.clock()
            packets = await self._packets_received()
            if packets != self._packets:
                self._packets, self._heard = packets, now
            patience = DRIVER_SILENCE if self._drives else WATCHER_SILENCE
            if now - self._heard > (patience if self._connected else CONNECT_SECONDS):
                logger.info("a WebRTC peer has gone after %.0f s", now - began)
                self.leave()

    async def _packets_received(self) -> int:
        report = await self._peer.getStats()
        return max((stats.packetsReceived for stats in report.values() if stats.type == "transport"), default=0)

    def leave(self) -> None:
        """Begins to close, from outside a coroutine."""
        if not self._closed:
            self.service.run(self.close())

    async def close(self) -> None:
        """Ends the connection and frees everything of it; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._live.connections.pop(self.name, None)
        for task in self._tasks:
            task.cancel()
        if self._screen is not None:
            self._screen.stop()
        if self._drives:
            now = self.service.clock()
            # The silence before counts: what a client leaves is gone a few seconds after it.
            self._live.detach(now, max(0.0, self.service.settings.linger_seconds - (now - self._heard)))
        await self._peer.close()

    def _run(self, work: Coroutine[Any, Any, None], name: str = "peer") -> None:
        """A task of this peer; its end by the peer's end is no error."""
        task = asyncio.get_running_loop().create_task(_until_over(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _until_over(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(MediaStreamError, ConnectionError):
        await work


def _check_fingerprints(sdp: str) -> None:
    """Raises ValueError where one is missing: aiortc would notice only after the answer, and tell nobody."""
    for line in SessionDescription.parse(sdp).media:
        if line.dtls is None or not line.dtls.fingerprints:
            raise ValueError("a DTLS fingerprint is missing")


def _pixels(frame: VideoFrame) -> Pixels:
    """(H, W, 3) RGB."""
    return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def _line(error: Exception) -> str:
    """The first line of what went wrong, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
