"""WebRTC with aiortc peers in this process: video both ways, messages, WHIP, WHEP, bad offers, what is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytest.importorskip("aiortc")

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from av.video.frame import VideoFrame

from grey_camera import Camera
from personalive import gallery
from personalive.motion.face_crop import square_of
from personalive.pipeline import PersonaLive
from personalive.server import webrtc
from personalive.server.app import create_app
from personalive.server.service import Service
from personalive.server.settings import Settings
from toy import toy_networks

PATIENCE = 60
pytestmark = pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation")


class Web:
    """A client of the app, and its service."""

    def __init__(self, client: httpx.AsyncClient, service: Service) -> None:
        self.client = client
        self.service = service

    async def session(self) -> str:
        answer = await self.client.post("/api/sessions", json={"portrait": "clara"})
        assert answer.status_code == 201
        return str(answer.json()["session"])


@asynccontextmanager
async def served() -> AsyncIterator[Web]:
    app = create_app(PersonaLive(toy_networks()), Settings(max_sessions=2, sessions_per_minute=10_000))
    service: Service = app.state.service
    service.start()
    await asyncio.wait_for(service.ready.wait(), PATIENCE)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Web(client, service)
    await service.stop()


def run(test: Callable[[Web], Awaitable[None]]) -> None:
    async def body() -> None:
        async with served() as web:
            await asyncio.wait_for(test(web), 2 * PATIENCE)

    asyncio.run(body())


def peer() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def offer_of(client: RTCPeerConnection) -> str:
    await client.setLocalDescription(await client.createOffer())
    return str(client.localDescription.sdp)


async def soon(condition: Callable[[], bool]) -> None:
    """Waits until it is so; a test that hangs is ended by its own limit."""
    while not condition():
        await asyncio.sleep(0.02)


def test_video_and_messages_go_both_ways() -> None:
    async def body(web: Web) -> None:
        session = await web.session()
        live = web.service.sessions.get(session)
        client, told = peer(), asyncio.Queue[dict[str, Any]]()
        channel = client.createDataChannel("control")
        channel.on("message", lambda text: told.put_nowait(json.loads(text)))
        client.addTrack(Camera())
        tracks: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
        client.on("track", tracks.put_nowait)
        answer = await web.client.post(
            f"/api/sessions/{session}/offer", json={"type": "offer", "sdp": await offer_of(client)}
        )
        assert answer.status_code == 200
        assert answer.json()["ai_generated"] is True
        await client.setRemoteDescription(RTCSessionDescription(answer.json()["sdp"], answer.json()["type"]))
        video = await tracks.get()
        first = await video.recv()
        assert isinstance(first, VideoFrame)
        assert (first.width, first.height) == (32, 32)
        difference = first.to_ndarray(format="rgb24").astype(float) - square_of(live.session.portrait)
        assert abs(difference).mean() < 40, "the portrait rests until the first frame is there, no black picture"
        await soon(lambda: channel.readyState == "open")
        channel.send('{"type":"ping","time":5000}')
        channel.send('{"type":"controls","smoothing":0.25}')
        channel.send('{"type":"nonsense"}')
        seen: dict[str, dict[str, Any]] = {}
        while not {"pong", "state", "statistics", "error", "frame"} <= set(seen):
            message = await told.get()
            seen[message["type"]] = message
        assert seen["pong"]["time"] == 5000
        assert live.session.controls.smoothing == 0.25
        assert seen["frame"]["captured"] > 4000, "in the client's own clock"
        assert (live.drivers, len(live.connections)) == (1, 1)
        await client.close()
        await soon(lambda: live.drivers == 0 and not live.connections)
        assert live.screen.watchers == 0
        await web.client.delete(f"/api/sessions/{session}")

    run(body)


def test_whip_feeds_and_whep_plays() -> None:
    async def body(web: Web) -> None:
        sender, watcher = peer(), peer()
        sender.addTransceiver(Camera(), direction="sendonly")
        sdp = {"content-type": "application/sdp"}
        made = await web.client.post("/whip/studio", content=await offer_of(sender), headers=sdp)
        assert made.status_code == 201
        assert made.headers["content-type"] == "application/sdp"
        assert made.headers["x-ai-generated"] == "true"
        assert "\r\ns=AI-generated by PersonaLive\r\n" in made.text
        await sender.setRemoteDescription(RTCSessionDescription(made.text, "answer"))
        live = web.service.sessions.get("studio")
        await soon(lambda: live.screen.current is not None)

        watcher.addTransceiver("video", direction="recvonly")
        tracks: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
        watcher.on("track", tracks.put_nowait)
        playing = await web.client.post("/whep/studio", content=await offer_of(watcher), headers=sdp)
        assert playing.status_code == 201
        await watcher.setRemoteDescription(RTCSessionDescription(playing.text, "answer"))
        frame = await (await tracks.get()).recv()
        assert isinstance(frame, VideoFrame)
        assert frame.width == 32
        assert live.drivers == 1, "who watches does not drive"

        assert (await web.client.delete(playing.headers["location"])).status_code == 204
        assert (await web.client.delete(playing.headers["location"])).status_code == 404
        assert (await web.client.delete(made.headers["location"])).status_code == 204
        await soon(lambda: live.drivers == 0)
        assert live.abandoned(web.service.clock() + 5)
        await sender.close()
        await watcher.close()

    run(body)


def test_bad_offers_are_refused_and_leave_nothing() -> None:
    async def body(web: Web) -> None:
        session = await web.session()
        live = web.service.sessions.get(session)
        tasks = len(asyncio.all_tasks())

        async def refused(sdp: str) -> None:
            answer = await web.client.post(f"/api/sessions/{session}/offer", json={"type": "offer", "sdp": sdp})
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]

        client = peer()
        client.addTransceiver("video")
        good = await offer_of(client)
        await client.close()
        for sdp in ("", "nonsense", "v=0\r\n", good[:150]):
            await refused(sdp)
        for kind, body in (("text/plain", good), ("application/sdp", "x" * 70_000), ("application/sdp", "nonsense")):
            answer = await web.client.post("/whip/nobody", content=body, headers={"content-type": kind})
            assert answer.status_code == 400
        assert [live.session.identity for live in web.service.sessions] == [session], "no session for a bad WHIP offer"
        assert (
            await web.client.post("/whep/nobody", content=good, headers={"content-type": "application/sdp"})
        ).status_code == 404
        await soon(lambda: len(asyncio.all_tasks()) <= tasks)
        assert (live.drivers, live.connections, live.screen.watchers) == (0, {}, 0)

    run(body)


def test_a_peer_that_never_gets_through_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "CONNECT_SECONDS", 0.1)

    async def body(web: Web) -> None:
        live = web.service.sessions.get(await web.session())
        client = peer()
        client.addTransceiver(Camera())
        offer = {"type": "offer", "sdp": await offer_of(client)}
        await client.close()
        assert (await web.client.post(f"/api/sessions/{live.session.identity}/offer", json=offer)).status_code == 200
        await soon(lambda: not live.connections)
        assert (live.drivers, live.screen.watchers) == (0, 0)

    run(body)


LINES = st.sampled_from(
    ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", "m=video 9 UDP/TLS/RTP/SAVPF 97", "m=", "a=", "\x00",
     "m=application 9 DTLS/SCTP 5000", "a=rtpmap:97 VP8/90000", "a=mid:0", "a=setup:actpass", "a=ice-ufrag:x",
     "a=ice-pwd:y", "a=sendrecv", "a=group:BUNDLE 0", "a=candidate:1 1 udp 1 127.0.0.1 9 typ host",
     "a=fingerprint:sha-256 00", "c=IN IP4 x", "a=fmtp:97 x"]
)  # fmt: skip


def test_malformed_offers_never_break_it() -> None:
    async def body(web: Web) -> None:
        session = await web.session()
        loop = asyncio.get_running_loop()

        @hypothesis_settings(max_examples=60, deadline=None, database=None)
        @given(lines=st.lists(LINES | st.text(max_size=20), max_size=14))
        def hold(lines: list[str]) -> None:
            sdp = "\r\n".join(lines) + "\r\n"
            request = web.client.post(f"/api/sessions/{session}/offer", json={"type": "offer", "sdp": sdp})
            answer = asyncio.run_coroutine_threadsafe(request, loop).result(PATIENCE)
            assert answer.status_code < 500

        await asyncio.to_thread(hold)

    run(body)
