"""A stand-in for the live server that speaks its protocol without a model: the driver's frames come back, tinted.

It serves the real page, so that what the page does can be tried in a second. Each portrait tints differently, so that a
change of portrait can be seen. `FakeServer` runs it in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from aiortc import MediaStreamTrack, RTCDataChannel, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from av import VideoFrame
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image

import personalive
from personalive import gallery
from personalive.media.frames import Pixels

PAGE = Path(personalive.__file__).parent / "server" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SIZE = 128
RATE = 12.0
TINTS = {"ada": (1.0, 0.3, 0.3), "bruno": (0.3, 1.0, 0.3), "clara": (0.3, 0.3, 1.0)}


@dataclass
class Visit:
    """One session: what the page sent."""

    portrait: str
    controls: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    sockets: list[WebSocket] = field(default_factory=list)
    watchers: list[WebSocket] = field(default_factory=list)
    peers: list[RTCPeerConnection] = field(default_factory=list)


@dataclass
class Fake:
    """The server's state; a test sets how it behaves."""

    capacity: int = 2
    loading_polls: int = 0
    webrtc: bool = True
    deaf: bool = False
    unanswered: int = 0
    visits: dict[str, Visit] = field(default_factory=dict)
    ever: list[Visit] = field(default_factory=list)
    uploads: dict[str, Image.Image] = field(default_factory=dict)
    crops: dict[str, list[int]] = field(default_factory=dict)
    numbers: Any = field(default_factory=itertools.count)

    def look(self, pixels: Pixels, portrait: str) -> Pixels:
        """The middle square of a picture (H, W, 3), small and tinted: (128, 128, 3)."""
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        small = Image.fromarray(pixels[top : top + side, left : left + side]).resize((SIZE, SIZE))
        tinted = np.asarray(small, np.float32) * np.array(TINTS.get(portrait, (1, 1, 1)), np.float32)
        return np.asarray(tinted, np.uint8)

    def hear(self, visit: Visit, text: str) -> dict[str, Any] | None:
        """Take in a control message; gives the answer if there is one."""
        message: dict[str, Any] = json.loads(text)
        visit.messages.append(message)
        if message["type"] == "ping":
            return {"type": "pong", "time": message["time"]}
        if message["type"] == "portrait":
            visit.portrait = message["portrait"]
        if message["type"] == "controls":
            visit.controls = message
        return None


class EchoTrack(VideoStreamTrack):
    """The driver's video, tinted, with a word on each frame over the data channel."""

    def __init__(self, fake: Fake, visit: Visit, source: MediaStreamTrack) -> None:
        super().__init__()
        self._fake, self._visit, self._source = fake, visit, source
        self.channel: RTCDataChannel | None = None
        self._start = time.monotonic()

    async def recv(self) -> VideoFrame:
        """The next frame."""
        frame = await self._source.recv()
        assert isinstance(frame, VideoFrame)
        self._visit.frames += 1
        shown = VideoFrame.from_ndarray(
            self._fake.look(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), self._visit.portrait),
            format="rgb24",
        )
        shown.pts, shown.time_base = int((time.monotonic() - self._start) * 90000), Fraction(1, 90000)
        pings = [message["time"] for message in self._visit.messages if message["type"] == "ping"]
        if self.channel and self.channel.readyState == "open" and pings:
            self.channel.send(json.dumps({"type": "frame", "captured": pings[-1], "number": self._visit.frames}))
        return shown


def statistics(visit: Visit) -> str:
    """The server's statistics message."""
    return json.dumps({"type": "statistics", "fps": RATE, "dropped": visit.frames // 10, "driving_rate": RATE})


def picture(image: Image.Image) -> Response:
    """A JPEG answer."""
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG")
    return Response(content.getvalue(), media_type="image/jpeg")


def refuse(status: int, error: str, **more: Any) -> JSONResponse:
    """An answer that says no."""
    return JSONResponse({"error": error, **more}, status)


def create_app(fake: Fake) -> FastAPI:
    """The application."""
    app = FastAPI()

    @app.middleware("http")
    async def policy(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    app.mount("/assets", StaticFiles(directory=PAGE))

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/view/{session}")
    def view(session: str) -> FileResponse:
        return FileResponse(PAGE / "view.html")

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        loading = fake.loading_polls > 0
        fake.loading_polls -= loading
        return {
            "state": "loading" if loading else "ready", "progress": 0.42 if loading else 1.0, "model": "fake",
            "image_size": SIZE, "sessions": len(fake.visits), "capacity": fake.capacity, "rate": RATE, "badge": False,
        }  # fmt: skip

    add_portraits(app, fake)
    add_sessions(app, fake)
    return app


def add_portraits(app: FastAPI, fake: Fake) -> None:
    """The routes of portraits."""

    def described(name: str) -> dict[str, Any]:
        width, height = fake.uploads[name].size
        return {"id": name, "image": "", "width": width, "height": height, "crop": fake.crops[name], "face": True}

    @app.get("/api/portraits")
    def portraits() -> list[dict[str, str]]:
        return [{"id": name, "name": name.title(), "image": f"/api/portraits/{name}/image"} for name in TINTS]

    @app.post("/api/portraits")
    async def upload(request: Request) -> Any:
        try:
            image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        except OSError:
            return refuse(415, "That is not a picture: send a JPEG, PNG or WebP file.")
        name = f"own-{next(fake.numbers)}"
        fake.uploads[name] = image
        fake.crops[name] = [0, 0, min(image.size)]
        return described(name)

    @app.put("/api/portraits/{name}/crop")
    async def crop(name: str, request: Request) -> Any:
        fake.crops[name] = (await request.json())["crop"]
        return described(name)

    @app.get("/api/portraits/{name}/image")
    def image(name: str) -> Response:
        if name in fake.uploads:
            x, y, side = fake.crops[name]
            return picture(fake.uploads[name].crop((x, y, x + side, y + side)).resize((SIZE, SIZE)))
        if name not in TINTS:
            return refuse(404, f"No portrait {name}: choose another one.")
        return FileResponse(gallery.portraits()[name])

    @app.get("/api/portraits/{name}/original")
    def original(name: str) -> Response:
        return picture(fake.uploads[name])


def add_sessions(app: FastAPI, fake: Fake) -> None:
    """The routes of sessions."""

    @app.post("/api/sessions")
    async def open_session(request: Request) -> Any:
        if len(fake.visits) >= fake.capacity:
            full = f"Server full: {len(fake.visits)} of {fake.capacity} sessions are taken. Try again later."
            return refuse(503, full, capacity=fake.capacity)
        wanted = await request.json()
        name = f"session-{next(fake.numbers)}"
        fake.visits[name] = Visit(wanted["portrait"], wanted["controls"])
        fake.ever.append(fake.visits[name])
        return {"session": name}

    @app.delete("/api/sessions/{name}")
    async def close_session(name: str) -> Response:
        visit = fake.visits.pop(name, None)
        for peer in visit.peers if visit else []:
            await peer.close()
        return Response(status_code=204 if visit else 404)

    @app.post("/api/sessions/{name}/offer")
    async def offer(name: str, request: Request) -> Any:
        if name not in fake.visits:
            return refuse(404, f"No session {name}: start again.")
        if not fake.webrtc:
            return refuse(503, "WebRTC is switched off.")
        return await answer(fake, fake.visits[name], await request.json())

    @app.websocket("/api/sessions/{name}/frames")
    async def frames(socket: WebSocket, name: str, watch: bool = False) -> None:
        await socket.accept()
        if name not in fake.visits:
            return await socket.close(4404, "there is no such session")
        visit = fake.visits[name]
        if watch:
            visit.watchers.append(socket)
            await socket.receive()
            return None
        visit.sockets.append(socket)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the page left
            await echo(fake, visit, socket)
        return None


async def echo(fake: Fake, visit: Visit, socket: WebSocket) -> None:
    """Give a socket's frames back until it closes."""
    await socket.send_text(json.dumps({"type": "state", "state": "waiting", "text": "Waiting for the first picture"}))
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if fake.deaf:
            fake.unanswered += message.get("bytes") is not None
            continue
        if message.get("text"):
            answered = fake.hear(visit, message["text"])
            if answered:
                await socket.send_text(json.dumps(answered))
            continue
        content = message["bytes"]
        (captured,) = struct.unpack(">d", content[:8])
        visit.frames += 1
        pixels = np.asarray(Image.open(io.BytesIO(content[8:])).convert("RGB"))
        shown = picture(Image.fromarray(fake.look(pixels, visit.portrait))).body
        if visit.frames == 1:
            await socket.send_text(json.dumps({"type": "state", "state": "running", "text": "Running"}))
        for viewer in (socket, *visit.watchers):
            await viewer.send_bytes(struct.pack(">d", captured) + bytes(shown))
        if visit.frames % 10 == 0:
            await socket.send_text(statistics(visit))


async def answer(fake: Fake, visit: Visit, description: dict[str, str]) -> dict[str, str]:
    """Take a WebRTC offer."""
    peer = RTCPeerConnection()
    visit.peers.append(peer)
    tracks: list[EchoTrack] = []

    @peer.on("track")
    def on_track(source: MediaStreamTrack) -> None:
        tracks.append(EchoTrack(fake, visit, source))
        peer.addTrack(tracks[-1])

    @peer.on("datachannel")
    def on_channel(channel: RTCDataChannel) -> None:
        for track in tracks:
            track.channel = channel
        channel.send(json.dumps({"type": "state", "state": "running", "text": "Running"}))

        @channel.on("message")
        def on_message(text: str) -> None:
            answered = fake.hear(visit, text)
            if answered:
                channel.send(json.dumps(answered))
                channel.send(statistics(visit))

    await peer.setRemoteDescription(RTCSessionDescription(**description))
    await peer.setLocalDescription(await peer.createAnswer())
    return {"type": peer.localDescription.type, "sdp": peer.localDescription.sdp}


class ServerThread:
    """An app served in a thread of its own; `address` is where it listens."""

    def __init__(self, app: FastAPI) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        serving = asyncio.ensure_future(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._started.set()
        await serving

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    @property
    def address(self) -> str:
        """Where the page is."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    def __enter__(self) -> ServerThread:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)


class FakeServer(ServerThread):
    """The fake in a thread."""

    def __init__(self, fake: Fake) -> None:
        super().__init__(create_app(fake))

    def __enter__(self) -> FakeServer:
        super().__enter__()
        return self
