"""`create_app`: the routes of the live server (docs/live.md), to be served alone or mounted in another FastAPI app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from personalive.errors import InputError, PersonaLiveError
from personalive.motion.keypoints import MotionGains
from personalive.server import portraits as pictures
from personalive.server.messages import Controls, Identity
from personalive.server.portraits import Portrait
from personalive.server.security import Guard
from personalive.server.served import Served
from personalive.server.service import NotReadyError, Service
from personalive.server.sessions import ServerFullError, UnknownError
from personalive.server.settings import Settings
from personalive.server.signalling import router as signalling
from personalive.server.websocket import Socket
from personalive.server.worker import Model

PAGE = Path(__file__).parent / "page"

Side = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class Problem(BaseModel):
    """What was wrong, and what to do."""

    error: str
    capacity: int | None = None


class Status(BaseModel):
    """How the server is; `image_size`: side of the pictures that viewers see."""

    state: str
    progress: float
    model: str
    image_size: int | None
    sessions: int
    capacity: int | None
    rate: float | None
    badge: bool
    expression: bool = True
    gains: dict[str, float] | None = None
    error: str | None = None


class PortraitName(BaseModel):
    """A portrait that comes with the package."""

    id: str
    name: str
    image: str


class PortraitDetails(BaseModel):
    """An upload: its size, the square that is animated (left, top, side in its pixels), whether a face is seen."""

    id: str
    image: str
    width: int
    height: int
    crop: tuple[float, float, float]
    face: bool


class CropRequest(BaseModel):
    """Another square of an upload."""

    crop: tuple[Side, Side, Side]


class SessionRequest(BaseModel):
    """Who is to be animated, and how."""

    portrait: Identity | None = None
    controls: Controls = Controls()


class SessionDetails(BaseModel):
    """Where a session is to be found."""

    session: str
    frames: str
    offer: str
    view: str
    ai_generated: bool = True


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 413, 422, 429, 503)
}


def create_app(pipeline: Model | None = None, settings: Settings | None = None) -> FastAPI:
    """The live server of a model that is there already, or (None) of the one that the settings name, once it is loaded.

    It can be mounted in another app: it starts with its first request then; `await app.state.service.stop()` ends it.
    """
    settings = settings or Settings()
    service = Service(_loader(pipeline, settings), settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="PersonaLive",
        description="A portrait that moves as you move, live. Frames are made by AI.",
        lifespan=lifespan,
        docs_url=None,  # their pages would load scripts from elsewhere
        redoc_url=None,
        responses=_PROBLEMS,
    )
    app.state.service = service
    _add_errors(app)
    _add_pages(app)
    _add_status(app)
    _add_portraits(app)
    _add_sessions(app)
    app.include_router(signalling)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Guard, settings=settings, clock=time.monotonic)
    app.add_middleware(_Starter, service=service)
    return app


class _Starter:
    """Starts the service with the first request where nobody ran the lifespan: a mounted app's is not run."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._service.start()
        await self._app(scope, receive, send)


def _loader(pipeline: Model | None, settings: Settings) -> Callable[[Callable[[float], None]], Model]:
    def load(tell: Callable[[float], None]) -> Model:
        if pipeline is not None:
            return pipeline
        tell(0.05)
        from personalive.pipeline import PersonaLive  # brings torch with it

        tell(0.4)
        return PersonaLive.from_pretrained(
            settings.model,
            settings.device,
            decoder=settings.decoder,
            runtime=settings.runtime,
            window=settings.window,
            size=settings.size,
        )

    return load


def _add_errors(app: FastAPI) -> None:
    statuses: dict[type[PersonaLiveError], int] = {UnknownError: 404, NotReadyError: 503, ServerFullError: 503}

    @app.exception_handler(PersonaLiveError)
    async def mendable(_request: Request, error: PersonaLiveError) -> JSONResponse:
        content: dict[str, Any] = {"error": str(error)}
        if isinstance(error, ServerFullError):
            content["capacity"] = error.capacity
        return JSONResponse(content, statuses.get(type(error), 400))

    @app.exception_handler(RequestValidationError)
    async def not_understood(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"the request is not understood: {where}: {first['msg']}"}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def other(_request: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return _page("index.html")

    @app.get("/view/{session}", include_in_schema=False)
    async def view(session: str) -> Response:  # noqa: ARG001 - the page reads it from its address
        return _page("view.html")

    if PAGE.is_dir():
        app.mount("/assets", _Assets(directory=PAGE), name="assets")


class _Assets(StaticFiles):
    """The page's files; browsers ask each time whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def _page(name: str) -> Response:
    file = PAGE / name
    if not file.is_file():
        raise HTTPException(
            404, "the page is not in this installation: install it again, or use the API, /openapi.json"
        )
    return FileResponse(file, headers={"cache-control": "no-cache"})


def _add_status(app: FastAPI) -> None:
    @app.get("/api/status")
    async def status(service: Served) -> Status:
        """How the server is: loading (and how far), ready, or failed (and why)."""
        ready = service.model is not None
        state = "ready" if ready else "failed" if service.failure else "loading"
        return Status(
            state=state,
            progress=round(service.progress, 2),
            model=service.settings.model,
            image_size=service.model.config.output_size if service.model else None,
            sessions=len(service.sessions) if ready else 0,
            capacity=service.sessions.capacity if ready else None,
            rate=round(service.sessions.rate, 1) if ready else None,
            badge=service.settings.badge,
            gains=asdict(MotionGains.of(service.model.config.stream)) if service.model else None,
            error=service.failure,
        )

    @app.get("/healthz")
    async def healthz(service: Served) -> Response:
        """200 while the server can serve or will soon; 503 when its model could not be loaded."""
        return JSONResponse({"ok": service.failure is None}, 503 if service.failure else 200)

    @app.get("/metrics", response_class=Response)
    async def metrics(service: Served) -> Response:
        """Figures in Prometheus' text format."""
        service.metrics.note_gpu_memory()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_portraits(app: FastAPI) -> None:
    @app.get("/api/portraits")
    async def built_in(service: Served) -> list[PortraitName]:
        """The portraits that come with the package."""
        names = service.portraits.built_in
        return [PortraitName(id=name, name=name.capitalize(), image=_image(name)) for name in names]

    @app.post("/api/portraits", openapi_extra={"requestBody": _binary("image/*")})
    async def upload(
        request: Request, service: Served, crop: Annotated[str, Query(max_length=64)] = "auto"
    ) -> PortraitDetails:
        """A picture file as the body. `crop`: auto, or left,top,side in pixels of the picture as displayed."""
        wanted = None if crop == "auto" else _numbers(crop)
        data = await request.body()
        async with service.uploading:
            return _details(await asyncio.to_thread(service.portraits.upload, data, wanted))

    @app.put("/api/portraits/{portrait}/crop")
    async def change_crop(portrait: Identity, wanted: CropRequest, service: Served) -> PortraitDetails:
        """Another square of an upload."""
        return _details(await asyncio.to_thread(service.portraits.crop, portrait, wanted.crop))

    @app.get("/api/portraits/{portrait}/image", response_class=Response)
    async def image(portrait: Identity, service: Served) -> Response:
        """The square that is animated, as a JPEG."""
        found = await asyncio.to_thread(service.portraits.get, portrait)
        return _jpeg(await asyncio.to_thread(pictures.shown, found))

    @app.get("/api/portraits/{portrait}/original", response_class=Response)
    async def original(portrait: Identity, service: Served) -> Response:
        """An upload as a whole, as a JPEG."""
        found = await asyncio.to_thread(service.portraits.get, portrait)
        return _jpeg(await asyncio.to_thread(pictures.original, found))


def _add_sessions(app: FastAPI) -> None:
    @app.post("/api/sessions", status_code=201)
    async def open_session(wanted: SessionRequest, service: Served) -> SessionDetails:
        """A session for one viewer; 503 with the capacity when the server is full."""
        live = await service.open(wanted.portrait, wanted.controls)
        name = live.session.identity
        own = f"/api/sessions/{name}"
        return SessionDetails(session=name, frames=f"{own}/frames", offer=f"{own}/offer", view=f"/view/{name}")

    @app.delete("/api/sessions/{session}", status_code=204)
    async def close_session(session: Identity, service: Served) -> None:
        """Ends a session at once."""
        service.sessions.get(session)
        service.sessions.close(session)

    @app.websocket("/api/sessions/{session}/frames")
    async def frames(socket: WebSocket, session: str, watch: bool = False) -> None:
        service: Service = socket.app.state.service
        try:
            live = service.sessions.get(session)
        except PersonaLiveError as error:
            await socket.accept()  # a browser learns the reason only of an open connection
            await socket.close(4404, str(error)[:120])
            return
        await Socket(service, live, socket, watch).run()


def _image(identity: str) -> str:
    return f"/api/portraits/{identity}/image"


def _details(portrait: Portrait) -> PortraitDetails:
    height, width = portrait.pixels.shape[:2]
    return PortraitDetails(
        id=portrait.identity,
        image=_image(portrait.identity),
        width=width,
        height=height,
        crop=portrait.crop,
        face=portrait.face,
    )


def _numbers(crop: str) -> tuple[float, float, float]:
    try:
        x, y, side = (float(part) for part in crop.split(","))
    except ValueError:
        raise InputError("crop is auto, or three numbers: left,top,side in pixels of the picture") from None
    return x, y, side


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"cache-control": "no-store"})


def _binary(kind: str) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": {"type": "string", "format": "binary"}}}}
