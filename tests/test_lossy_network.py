"""WebRTC through a network that loses and delays packets: the stream goes on, no queue grows, the delay comes down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest

pytest.importorskip("aiortc", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("fastapi", reason="the live server's extra is missing: pip install 'personalive[server]'")

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av.video.frame import VideoFrame

from fake_live import FakeModel
from grey_camera import CIRCLE, Camera
from lossy_network import Network, network
from personalive import gallery
from personalive.server.app import create_app
from personalive.server.intake import Raw
from personalive.server.jitter import keep_current
from personalive.server.service import Service
from personalive.server.sessions import Live
from personalive.server.settings import Settings
from personalive.server.webrtc import MAX_BUFFERED, MAX_ORDERS, Peer

PATIENCE = 120.0

pytestmark = pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation")


@dataclass
class Watch:
    """What arrives where: at the server how far behind the camera a frame is, at the client when a frame was sent."""

    camera: Camera
    behind: list[int] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    deepest: dict[str, int] = field(default_factory=dict)
    _first: tuple[float, float] | None = None

    def note_driving(self, raw: Raw) -> None:
        """Frames between the camera's newest and this one."""
        self.behind.append((self.camera.sent - 1 - (round(float(raw.decode().mean())) - 40)) % CIRCLE)

    async def note_shown(self, track: MediaStreamTrack) -> None:
        """Seconds that a frame took to arrive, more than the first one, by its time stamp."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, VideoFrame)
            assert frame.time is not None
            now = time.monotonic()
            first_now, first_time = self._first = self._first or (now, frame.time)
            self.lags.append((now - first_now) - (frame.time - first_time))

    def note_depths(self, live: Live) -> None:
        """The most that ever waited in any place."""
        (peer,) = live.connections.values()
        assert isinstance(peer, Peer)
        channel = peer._channel
        found = {
            "frames for the model": live.session.depth,
            "messages": peer._orders.qsize(),
            "planned frames": len(live.screen._plan),
            "bytes to say": channel.bufferedAmount if channel is not None else 0,
        }
        self.deepest = {name: max(depth, self.deepest.get(name, 0)) for name, depth in found.items()}


@pytest.mark.parametrize(("loss", "delay", "jitter"), [(0.05, 0.04, 0.02), (0.15, 0.12, 0.08)], ids=["worse", "bad"])
def test_a_bad_network_is_got_over(loss: float, delay: float, jitter: float) -> None:
    async def body() -> None:
        app = create_app(FakeModel(), Settings())
        service: Service = app.state.service
        service.start()
        await service.ready.wait()
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web, network(seed=1) as wire:
            await get_over(web, service, wire, (loss, delay, jitter))
        await service.stop()

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


async def get_over(web: httpx.AsyncClient, service: Service, wire: Network, bad: tuple[float, float, float]) -> None:
    session = (await web.post("/api/sessions", json={})).json()["session"]
    live = service.sessions.get(session)
    camera = Camera()
    watch = Watch(camera)
    offer = live.intake.offer

    def noted(raw: Raw) -> None:
        watch.note_driving(raw)
        offer(raw)

    live.intake.offer = noted  # type: ignore[method-assign]
    client = await connect(web, session, wire, camera, watch)

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.02)
            assert live.drivers == len(live.connections) == 1, "the connection is the same all the while"
            watch.note_depths(live)

    await until(lambda: len(watch.lags) > 30 and live.screen.current is not None)
    tasks = len(asyncio.all_tasks())
    usual_lag, usual_behind = np.median(watch.lags[-20:]), np.median(watch.behind[-20:])

    wire.be(*bad)
    came, sent = len(watch.lags), camera.sent
    await until(lambda: camera.sent > sent + 120 and len(watch.lags) > came + 10)
    wire.be(1.0, 0.0, 0.0)  # nothing at all, for a second
    sent = camera.sent
    await until(lambda: camera.sent > sent + 30)
    assert wire.lost > 0

    wire.be(0.0, 0.0, 0.0)
    came, driven = len(watch.lags), len(watch.behind)
    await until(lambda: len(watch.lags) > came + 40 and len(watch.behind) > driven + 60)
    assert np.median(watch.lags[-10:]) < usual_lag + 0.5, "what comes now was sent now"
    assert np.median(watch.behind[-10:]) < usual_behind + 8, "what drives now was seen now"
    assert watch.deepest["frames for the model"] <= live.session._chunk_frames
    assert watch.deepest["messages"] <= MAX_ORDERS
    assert watch.deepest["planned frames"] <= 2 * live.session._chunk_frames
    assert watch.deepest["bytes to say"] <= MAX_BUFFERED + 1000
    assert len(asyncio.all_tasks()) <= tasks + 1
    await client.close()


async def connect(
    web: httpx.AsyncClient, session: str, wire: Network, camera: Camera, watch: Watch
) -> RTCPeerConnection:
    """A client of the page's kind, through the relay: camera, data channel with a ping now and then, the video back."""
    client = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = client.createDataChannel("control")

    async def ping() -> None:
        while channel.readyState == "open":
            channel.send(f'{{"type":"ping","time":{1000 * time.monotonic()}}}')
            await asyncio.sleep(0.2)

    kept: list[asyncio.Task[None]] = []  # the loop alone would forget them
    channel.on("open", lambda: kept.append(asyncio.create_task(ping())))
    client.on("track", lambda track: kept.append(asyncio.create_task(watch.note_shown(track))))
    client.addTrack(camera)
    keep_current(client.getReceivers()[0])  # as good as a browser's
    await client.setLocalDescription(await client.createOffer())
    offer = {"type": "offer", "sdp": wire.offer(client.localDescription.sdp)}
    answer = (await web.post(f"/api/sessions/{session}/offer", json=offer)).json()
    await client.setRemoteDescription(RTCSessionDescription(wire.answer(answer["sdp"]), "answer"))
    return client
