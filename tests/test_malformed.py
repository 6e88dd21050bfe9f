"""2,000 malformed requests, messages and SDP offers against the running server, while somebody else streams.

By default a tenth of them, always the same; all of them, and others each time, with `-m slow`. No answer of the 5xx
kind but the documented "server full", no hang (every wait ends), nothing in the log that says that something broke, and
the other viewer's stream goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

pytest.importorskip("aiortc", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("fastapi", reason="the live server's extra is missing: pip install 'personalive[server]'")

from aiortc import RTCConfiguration, RTCPeerConnection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy, lists, sampled_from
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fake_live import FakeModel
from live_server import PATIENCE, Bystander, Running, bystander, running, until
from malformed import RAW, Asked, messages, offers, requests
from personalive import gallery
from personalive.server.sessions import Live

SHARES = [pytest.param(0.1, id="some"), pytest.param(1.0, id="all", marks=pytest.mark.slow)]
REQUESTS, RAW_REQUESTS, MESSAGES, OFFERS = 900, 200, 500, 400

HUNG_UP = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)

pytestmark = [
    pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation"),
    # The other viewer's connection draws masks from `random` meanwhile, on a thread of its own.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]


class Log(logging.Handler):
    """What the server logs as an error: nothing is expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Notes it, with the exception if there is one."""
        self.seen.append(logging.Formatter().format(record))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(FakeModel(), max_sessions=3, max_upload_mb=0.1) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as made:
        yield made


@pytest.fixture
def log() -> Iterator[Log]:
    handler, loggers = Log(), [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture
def other(server: Running, log: Log) -> Iterator[Bystander]:
    """The viewer who must not notice; at the end, nothing but their session is there, and nothing was logged."""
    with bystander(server) as viewer:
        yield viewer
        viewer.assert_undisturbed()
        service = server.service
        until(lambda: [live.session.identity for live in service.sessions] == [viewer.session])
        assert len(service.sessions.worker) == 1
    assert log.seen == []


@contextmanager
def target(server: Running, client: httpx.Client) -> Iterator[Live]:
    """A session to aim at. Somebody drives it all the while, so that it does not end between two examples."""
    session = client.post("/api/sessions", json={}).json()["session"]
    live = server.call(lambda: server.service.sessions.get(session))
    server.call(live.attach)
    yield live
    assert client.delete(f"/api/sessions/{session}").status_code == 204


def hold(check: Callable[[Any], None], examples: SearchStrategy[Any], count: int, share: float) -> None:
    """Checks so many examples; the few of every day are always the same ones."""

    @hypothesis_settings(
        max_examples=round(share * count), deadline=None, derandomize=share < 1, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(examples)
    def each(example: Any) -> None:
        check(example)

    each()


def check_answer(answer: httpx.Response) -> None:
    """No fault of the server's; a refusal says in one line what is wrong."""
    full = answer.status_code == 503 and "server full" in answer.text
    assert answer.status_code < 500 or full, answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("share", SHARES)
def test_malformed_requests(server: Running, client: httpx.Client, other: Bystander, share: float) -> None:
    def check(asked: Asked) -> None:
        headers = {"content-type": asked.kind}
        answer = client.request(asked.method, asked.path, params=asked.query, content=asked.body, headers=headers)
        check_answer(answer)
        if answer.status_code == 201:
            made = answer.headers.get("location", "").split("/")[-2:-1] or [answer.json()["session"]]
            assert client.delete(f"/api/sessions/{made[0]}").status_code == 204

    hold(check, requests(client.get("/openapi.json").json()), REQUESTS, share)


@pytest.mark.parametrize("share", SHARES)
def test_what_is_hardly_http(server: Running, other: Bystander, share: float) -> None:
    host, port = server.address.split(":")

    def check(data: bytes) -> None:
        opened = socket.create_connection((host, int(port)), PATIENCE)
        with (
            opened as connection,
            suppress(BrokenPipeError, ConnectionResetError),
        ):  # it hears what it wants
            connection.sendall(data)
            with suppress(OSError):  # the server may have closed it by now
                connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert not answer or 100 <= int(answer.split(b" ")[1]) < 500

    hold(check, RAW, RAW_REQUESTS, share)


@pytest.mark.parametrize("share", SHARES)
def test_malformed_messages(server: Running, client: httpx.Client, other: Bystander, share: float) -> None:
    place = io.BytesIO()
    Image.new("RGB", (32, 32), "orange").save(place, "JPEG")

    def check(said: list[bytes | str]) -> None:
        with connect(frames_of(server, live), open_timeout=PATIENCE) as connection:
            for message in said:
                connection.send(message)
            connection.send('{"type":"ping","time":7}')
            pong = {"type": "pong", "time": 7.0}
            while isinstance(heard := connection.recv(PATIENCE), bytes) or json.loads(heard) != pong:
                pass

    with target(server, client) as live:
        hold(check, lists(messages(place.getvalue()), max_size=8), MESSAGES, share)


def frames_of(server: Running, live: Live) -> str:
    """The address of a session's WebSocket."""
    return f"ws://{server.address}/api/sessions/{live.session.identity}/frames"


def test_who_only_talks_nonsense_is_hung_up_on(server: Running, client: httpx.Client, other: Bystander) -> None:
    with target(server, client) as live, connect(frames_of(server, live), open_timeout=PATIENCE) as connection:
        with suppress(ConnectionClosed):
            for _ in range(200):
                connection.send(b"no")
        heard = list(connection)  # until it is closed
    assert 40 < sum("a frame is 8 bytes" in str(message) for message in heard) < 100


def hang_up(live: Live) -> None:
    """Ends all its WebRTC connections."""
    for peer in list(live.connections.values()):
        peer.leave()


def good_offers() -> list[str]:
    """Offers that would do: of the page's kind, of one that only plays, and as ffmpeg writes them."""

    async def made(plays: bool) -> str:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        if not plays:
            peer.createDataChannel("control")
            peer.addTransceiver("audio")
        peer.addTransceiver("video", direction="recvonly" if plays else "sendrecv")
        await peer.setLocalDescription(await peer.createOffer())
        sdp = str(peer.localDescription.sdp)
        await peer.close()
        return sdp

    return [asyncio.run(made(plays)) for plays in (False, True)] + [FFMPEG]


FFMPEG = "\r\n".join(
    ["v=0", "o=FFmpeg 4489045141692799359 2 IN IP4 127.0.0.1", "s=FFmpegPublishSession", "t=0 0", "a=group:BUNDLE 1",
     "a=extmap-allow-mixed", "a=msid-semantic: WMS", "m=video 9 UDP/TLS/RTP/SAVPF 106 105", "c=IN IP4 0.0.0.0",
     "a=ice-ufrag:63ae38a0", "a=ice-pwd:6bd1acbb341ab53d70c3f9bc558405bc", "a=setup:active",
     "a=fingerprint:sha-256 " + ":".join(["19"] * 32), "a=mid:1", "a=sendonly", "a=msid:FFmpeg video", "a=rtcp-mux",
     "a=rtcp-rsize",
     "a=rtpmap:106 H264/90000", "a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42000d",
     "a=rtcp-fb:106 nack", "a=rtpmap:105 rtx/90000", "a=fmtp:105 apt=106", "a=ssrc-group:FID 2863265803 2863265804",
     "a=ssrc:2863265803 cname:FFmpeg", "a=ssrc:2863265803 msid:FFmpeg video", ""]
)  # fmt: skip


def test_a_bundle_led_by_nobody_is_refused(server: Running, client: httpx.Client, other: Bystander) -> None:
    """aiortc takes it, loses its data channel's transport by it, and cannot close what it has begun."""
    page, _, _ = good_offers()
    sdp = re.sub(r"a=group:BUNDLE (.*)", r"a=group:BUNDLE nobody \1", page)
    assert sdp != page
    with target(server, client) as live:
        answer = client.post(f"/whip/{live.session.identity}", content=sdp, headers={"content-type": "application/sdp"})
        assert answer.status_code == 400, answer.text
        assert "BUNDLE" in answer.json()["error"]
        assert not live.connections


@pytest.mark.parametrize("share", SHARES)
def test_malformed_offers(server: Running, client: httpx.Client, other: Bystander, share: float) -> None:
    taken = 0

    def check(example: list[Any]) -> None:
        nonlocal taken
        (sdp, way) = example
        if way.endswith("offer"):
            answer = client.post(way, content=json.dumps({"type": "offer", "sdp": sdp}).encode())
        else:
            body = sdp.encode("utf-8", "surrogatepass")
            answer = client.post(way, content=body, headers={"content-type": "application/sdp"})
        check_answer(answer)
        taken += answer.is_success
        server.call(lambda: hang_up(live))
        if way == "/whip/made-for-it" and answer.is_success:
            assert client.delete("/api/sessions/made-for-it").status_code == 204
        until(lambda: (live.drivers, live.connections, live.screen.watchers) == (1, {}, 0))

    good = good_offers()
    with target(server, client) as live:
        session = live.session.identity
        ways = [f"/api/sessions/{session}/offer", f"/whip/{session}", f"/whep/{session}", "/whip/made-for-it"]
        examples = offers(good).flatmap(lambda sdp: sampled_from(ways).map(lambda way: [sdp, way]))
        hold(check, examples, OFFERS, share)
        assert taken, "none came further than the parser"
        for sdp in good:
            answer = client.post(ways[0], json={"type": "offer", "sdp": sdp})
            assert answer.status_code == 200, answer.text
            server.call(lambda: hang_up(live))
            until(lambda: not live.connections)
