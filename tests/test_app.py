"""The live server's routes with the toy model: portraits, sessions, WebSocket, who is let in, malformed requests."""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from personalive import gallery
from personalive.pipeline import PersonaLive
from personalive.server.app import create_app
from personalive.server.portraits import Portrait
from personalive.server.service import Service
from personalive.server.settings import Settings
from toy import toy_networks, warp_networks

HOST = "http://localhost"
GENEROUS: dict[str, Any] = dict.fromkeys(("requests_per_minute", "uploads_per_minute", "sessions_per_minute"), 100_000)

pytestmark = pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation")


def jpeg(width: int = 64, height: int = 64, seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    place = io.BytesIO()
    Image.fromarray(pixels).save(place, options.pop("format", "JPEG"), **options)
    return place.getvalue()


def serve(model: PersonaLive | None = None, **settings: Any) -> TestClient:
    app = create_app(
        model or PersonaLive(toy_networks()),
        Settings(**{**GENEROUS, "max_sessions": 2, "allowed_hosts": ["testserver"], **settings}),
    )
    return TestClient(app, base_url=HOST, client=("127.0.0.1", 5000))


def wait_until_ready(client: TestClient) -> Service:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    client.portal.call(service.ready.wait)  # type: ignore[union-attr]
    return service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serve() as made:
        wait_until_ready(made)
        yield made


@pytest.fixture
def session(client: TestClient) -> Iterator[str]:
    made = client.post("/api/sessions", json={"portrait": "clara", "controls": {}}).json()["session"]
    yield made
    client.delete(f"/api/sessions/{made}")


def error_of(answer: Any) -> str:
    text = answer.json()["error"]
    assert isinstance(text, str)
    assert "\n" not in text
    return text


def test_status_health_metrics_and_the_description_of_the_routes(client: TestClient) -> None:
    status = client.get("/api/status").json()
    assert (status["state"], status["progress"], status["image_size"], status["capacity"]) == ("ready", 1.0, 32, 2)
    assert client.get("/healthz").json() == {"ok": True}
    assert "personalive_sessions 0.0" in client.get("/metrics").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/status", "/api/portraits", "/api/sessions", "/api/sessions/{session}", "/healthz"} <= set(paths)


def test_a_portrait_is_cut_at_the_size_that_viewers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reference warp that is larger than what the networks compute at: its pixels are those that are shown."""
    sides: list[int] = []
    framed = Portrait.framed

    def note(portrait: Portrait, side: int) -> Any:
        sides.append(side)
        return framed(portrait, side)

    with serve(model=PersonaLive(warp_networks())) as client:
        wait_until_ready(client)
        monkeypatch.setattr(Portrait, "framed", note)
        assert client.get("/api/status").json()["image_size"] == 64
        made = client.post("/api/sessions", json={"portrait": "clara"}).json()["session"]
        service: Any = client.app.state.service
        live = service.sessions.get(made)
        client.portal.call(service.change_portrait, live, "ada")
        client.delete(f"/api/sessions/{made}")
    assert sides == [64, 64]


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    app = create_app(None, Settings(model=str(tmp_path / "nothing.safetensors")))
    with TestClient(app, base_url=HOST) as client:
        for thread in threading.enumerate():
            if thread.name == "personalive-loading":
                thread.join(60)
        status = client.get("/api/status").json()
        assert status["state"] == "failed"
        assert "nothing.safetensors" in status["error"]
        assert client.get("/healthz").status_code == 503
        refused = client.post("/api/sessions", json={})
        assert refused.status_code == 503
        assert "nothing.safetensors" in error_of(refused)


# Portraits


def test_built_in_portraits_are_listed_and_shown(client: TestClient) -> None:
    listed = client.get("/api/portraits").json()
    assert {"id": "clara", "name": "Clara", "image": "/api/portraits/clara/image"} in listed
    shown = client.get("/api/portraits/clara/image")
    assert shown.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(shown.content)) as picture:
        assert picture.width == picture.height


def test_an_upload_is_cropped_kept_without_exif_and_cropped_anew(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    exif[0x0112] = 6  # to be shown turned by a quarter
    made = client.post("/api/portraits?crop=4,8,40", content=jpeg(60, 80, exif=exif))
    assert made.status_code == 200
    details = made.json()
    assert (details["width"], details["height"], details["crop"]) == (80, 60, [4, 8, 40])
    original = client.get(f"/api/portraits/{details['id']}/original").content
    assert b"where I live" not in original
    with Image.open(io.BytesIO(original)) as picture:
        assert picture.size == (80, 60)
        assert len(picture.getexif()) == 0
    changed = client.put(f"/api/portraits/{details['id']}/crop", json={"crop": [0, 0, 50]}).json()
    assert changed["crop"] == [0, 0, 50]
    assert client.get(changed["image"]).status_code == 200


def test_without_a_face_the_middle_is_taken(client: TestClient) -> None:
    details = client.post("/api/portraits", content=jpeg(96, 64)).json()
    assert details["face"] is False
    assert details["crop"] == [16, 0, 64]


def test_a_large_upload_is_made_smaller_and_its_crop_with_it(client: TestClient) -> None:
    details = client.post("/api/portraits?crop=320,0,300", content=jpeg(3200, 320, quality=5)).json()
    assert (details["width"], details["height"], details["crop"]) == (1600, 160, [160, 0, 150])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture"),
        (jpeg()[:2000], "damaged"),
        (jpeg(16, 16), "at least 32"),
        (jpeg(8000, 5000, quality=1), "megapixels"),
        (jpeg(format="TIFF"), "not a picture"),
    ],
    ids=["empty", "svg", "eps", "cut", "small", "bomb", "tiff"],
)
def test_uploads_that_are_no_usable_picture_are_refused(client: TestClient, body: bytes, words: str) -> None:
    refused = client.post("/api/portraits", content=body)
    assert refused.status_code == 400
    assert words in error_of(refused)


@pytest.mark.parametrize("crop", ["1,2", "a,b,c", "nan,0,40", "0,0,1", "0,0,1e9", "-500,0,40", "0,500,40"])
def test_crops_that_make_no_sense_are_refused(client: TestClient, crop: str) -> None:
    assert client.post(f"/api/portraits?crop={crop}", content=jpeg()).status_code == 400


def test_uploads_are_bounded_and_the_least_used_goes(client: TestClient) -> None:
    with serve(max_portraits=2) as small:
        first, second = (small.post("/api/portraits", content=jpeg(seed=i)).json()["id"] for i in range(2))
        assert small.get(f"/api/portraits/{first}/image").status_code == 200
        small.post("/api/portraits", content=jpeg(seed=3))
        assert small.get(f"/api/portraits/{first}/image").status_code == 200
        assert "forgotten" in error_of(small.get(f"/api/portraits/{second}/image"))


def test_too_much_is_refused_before_it_is_read() -> None:
    with serve(max_upload_mb=0.1) as small:
        assert small.post("/api/portraits", content=b"x" * 200_000).status_code == 413
        streamed = small.post("/api/portraits", content=(b"x" * 10_000 for _ in range(30)))
        assert streamed.status_code == 413
        assert "larger than 0.1 MB" in error_of(streamed)


# Sessions and frames


def test_sessions_open_until_the_server_is_full(client: TestClient, session: str) -> None:
    second = client.post("/api/sessions", json={"portrait": "ada"})
    assert second.status_code == 201
    assert second.json()["view"] == f"/view/{second.json()['session']}"
    full = client.post("/api/sessions", json={"portrait": "ada"})
    assert (full.status_code, full.json()["capacity"]) == (503, 2)
    assert "server full: 2 of 2" in error_of(full)
    assert client.delete(f"/api/sessions/{second.json()['session']}").status_code == 204
    assert client.delete(f"/api/sessions/{second.json()['session']}").status_code == 404
    unknown = client.post("/api/sessions", json={"portrait": "nobody"})
    assert unknown.status_code == 404
    assert client.post("/api/sessions", json={"portrait": "../x"}).status_code == 422


def stamped(captured: float, picture: bytes) -> bytes:
    return struct.pack(">d", captured) + picture


def receive(socket: Any, kind: str) -> Any:
    """The next binary message, or the next text message of a kind."""
    while True:
        message = socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        if kind == "bytes" and message.get("bytes"):
            return message["bytes"]
        if message.get("text") and json.loads(message["text"])["type"] == kind:
            return json.loads(message["text"])


def test_frames_go_round_with_their_capture_time(client: TestClient, session: str) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    live = service.sessions.get(session)
    with client.websocket_connect(f"/api/sessions/{session}/frames") as socket:
        assert receive(socket, "state")["state"] == "waiting"
        assert live.drivers == 1
        for i in range(20):  # whatever the clock says, so many are enough to fill the window
            live.session._thinner.__init__()  # type: ignore[misc]
            while live.intake._busy or live.session.ready:
                socket.send_text('{"type":"ping","time":1}')
                receive(socket, "pong")
            socket.send_bytes(stamped(1000.0 + i, jpeg(48, 40, seed=i)))
        data = receive(socket, "bytes")
        captured = struct.unpack(">d", data[:8])[0]
        assert 1000 <= captured < 1020
        with Image.open(io.BytesIO(data[8:])) as picture:
            assert picture.size == (32, 32)
            assert b"AI-generated" in picture.info["comment"]
        socket.send_text(json.dumps({"type": "shown", "captured": 1000, "displayed": 1700}))
        socket.send_text('{"type":"ping","time":5}')
        assert receive(socket, "pong")["time"] == 5
        assert live.session.statistics(0.0)["delay_p50"] == 700
    assert live.drivers == 0


def test_messages_change_the_session_and_wrong_ones_are_answered(client: TestClient, session: str) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    live = service.sessions.get(session)
    with client.websocket_connect(f"/api/sessions/{session}/frames") as socket:
        socket.send_text('{"type":"controls","smoothing":0.5,"driving_rate":3}')
        socket.send_text('{"type":"controls","mirror":true}')
        socket.send_text('{"type":"portrait","portrait":"ada"}')
        socket.send_text('{"type":"recalibrate"}')
        socket.send_text('{"type":"ping","time":1}')
        receive(socket, "pong")
        controls = live.session.controls
        assert (controls.smoothing, controls.driving_rate, controls.mirror) == (0.5, 3, True)
        assert live.portrait_id == "ada"
        assert live.session.driving_rate <= 3
        for wrong in ('{"type":"portrait","portrait":"nobody"}', '{"type":"x"}', "not json"):
            socket.send_text(wrong)
            assert receive(socket, "error")["error"]
        for wrong_bytes in (b"", b"short", stamped(float("nan"), jpeg())):
            socket.send_bytes(wrong_bytes)
            assert receive(socket, "error")["error"]
        socket.send_bytes(stamped(1.0, b"no picture"))  # refused where it is decoded; the connection goes on
        socket.send_text('{"type":"ping","time":2}')
        assert receive(socket, "pong")["time"] == 2


def test_a_watcher_sees_frames_but_keeps_nothing_alive(client: TestClient, session: str) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    live = service.sessions.get(session)
    with client.websocket_connect(f"/api/sessions/{session}/frames?watch=true") as socket:
        assert receive(socket, "state")
        assert live.drivers == 0
        socket.send_bytes(stamped(1.0, jpeg()))
        assert "only watches" in receive(socket, "error")["error"]


def test_a_session_that_ends_closes_its_connections(client: TestClient) -> None:
    made = client.post("/api/sessions", json={"portrait": "clara"}).json()["session"]
    with client.websocket_connect(f"/api/sessions/{made}/frames") as socket:
        receive(socket, "state")
        client.delete(f"/api/sessions/{made}")
        with pytest.raises(WebSocketDisconnect) as ended:
            receive(socket, "bytes")
        assert ended.value.code == 1000
    with client.websocket_connect("/api/sessions/nobody/frames") as socket, pytest.raises(WebSocketDisconnect) as no:
        socket.receive_text()
    assert no.value.code == 4404


def test_abrupt_disconnects_leave_nothing_behind(client: TestClient) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    for _ in range(10):
        made = client.post("/api/sessions", json={"portrait": "clara"}).json()["session"]
        live = service.sessions.get(made)
        with client.websocket_connect(f"/api/sessions/{made}/frames") as socket:
            socket.send_bytes(stamped(1.0, jpeg()))
        assert (live.drivers, live.screen.watchers, live.leaving) == (0, 0, [])
        assert live.abandoned(service.clock() + 4.5)
        client.delete(f"/api/sessions/{made}")
    assert len(service.sessions) == 0
    assert service.sessions.worker._sessions == []


# Who is let in


def test_every_answer_is_strict(client: TestClient) -> None:
    for path in ("/api/status", "/nowhere", "/"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost:99"]
)
def test_other_origins_are_refused(client: TestClient, session: str, origin: str) -> None:
    headers = {"origin": origin}
    assert client.post("/api/sessions", json={}, headers=headers).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/api/sessions/{session}/frames", headers=headers),
    ):
        pass


def test_the_own_origin_and_allowed_ones_are_let_in(client: TestClient) -> None:
    assert client.post("/api/sessions", json={"portrait": "x"}, headers={"origin": HOST}).status_code == 404
    with serve(allowed_origins=["https://friend.example"]) as other:
        wait_until_ready(other)
        answer = other.post("/api/sessions", json={"portrait": "x"}, headers={"origin": "https://friend.example"})
        assert answer.status_code == 404
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"


def test_a_page_that_rebinds_its_name_is_refused(client: TestClient) -> None:
    assert client.get("/api/status", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/api/status", headers={"host": "127.0.0.1:8000"}).status_code == 200
    assert client.get("/api/status", headers={"host": "[::1]:8000"}).status_code == 200


def test_elsewhere_a_token_is_needed_by_link_cookie_or_bearer() -> None:
    token = "a-token-for-tests"
    app = create_app(PersonaLive(toy_networks()), Settings(host="0.0.0.0", token=token, **GENEROUS))
    with TestClient(app, base_url="http://machine", client=("10.0.0.1", 1)) as client:
        wait_until_ready(client)
        assert client.get("/api/status").status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/status?token=wrong-token").status_code == 401
        assert client.get("/api/status", headers={"authorization": "Bearer nonsense"}).status_code == 401
        assert client.get("/api/status", headers={"authorization": f"Bearer {token}"}).status_code == 200
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/sessions/x/frames"):
            pass
        first = client.get(f"/api/status?token={token}&a=1", follow_redirects=False)
        assert (first.status_code, first.headers["location"]) == (303, "/api/status?a=1")
        assert "HttpOnly" in first.headers["set-cookie"]
        assert client.get("/api/status").status_code == 200, "by the cookie"
        outside = client.get(f"//evil.example/x?token={token}", follow_redirects=False)
        assert outside.headers.get("location", "/").startswith("/")
        assert not outside.headers.get("location", "/").startswith("//")


def test_rates_are_limited_for_each_client() -> None:
    with serve(requests_per_minute=5) as small:
        answers = [small.get("/api/status").status_code for _ in range(8)]
        assert answers == [200] * 5 + [429] * 3
        assert "retry-after" in small.get("/api/status").headers


def test_it_can_be_mounted_in_another_app() -> None:
    live = create_app(PersonaLive(toy_networks()), Settings(**GENEROUS))
    outer = FastAPI()
    outer.mount("/live", live)
    with TestClient(outer, base_url=HOST) as client:
        client.get("/live/api/status")
        client.portal.call(live.state.service.ready.wait)
        assert client.get("/live/api/status").json()["state"] == "ready"
        assert client.post("/live/api/sessions", json={"portrait": "clara"}).status_code == 201
        client.portal.call(live.state.service.stop)


# Malformed requests: never a 5xx but the documented 503

PATHS = st.sampled_from(
    ["/api/sessions", "/api/sessions/a", "/api/sessions/a/offer", "/api/portraits", "/api/portraits/clara/crop",
     "/api/portraits/clara/image", "/api/portraits/%00/original", "/whip/a", "/whep/a", "/view/a", "/assets/../app.py",
     "/assets/%2e%2e/app.py", "/metrics", "/api/status", "/"]
)  # fmt: skip
KEYS = st.sampled_from(["portrait", "controls", "crop", "type", "sdp", "rotation_gain", "driving_rate", "x"])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
    path=PATHS,
    query=st.dictionaries(st.sampled_from(["crop", "token", "watch"]), st.text(max_size=12), max_size=2),
    body=st.binary(max_size=200) | JSONS.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", "application/sdp", "image/jpeg", "text/plain", ""]),
)
def test_malformed_requests_never_break_it(
    client: TestClient, method: str, path: str, query: dict[str, str], body: bytes, kind: str
) -> None:
    answer = client.request(method, path, params=query, content=body, headers={"content-type": kind})
    assert answer.status_code < 500 or (answer.status_code == 503 and "server full" in answer.text)
    if answer.status_code >= 400 and method != "HEAD":
        assert error_of(answer)
    if answer.status_code == 201 and path == "/api/sessions":
        client.delete(f"/api/sessions/{answer.json()['session']}")


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.binary(max_size=60) | st.text(max_size=60) | JSONS.map(json.dumps), max_size=12))
def test_malformed_messages_never_break_a_session(
    client: TestClient, session: str, messages: list[bytes | str]
) -> None:
    with client.websocket_connect(f"/api/sessions/{session}/frames") as socket:
        for message in messages:
            socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        socket.send_text('{"type":"ping","time":7}')
        assert receive(socket, "pong")["time"] == 7
