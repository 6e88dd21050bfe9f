"""The routes that connect WebRTC peers: the page's offers, WHIP (others feed a session), WHEP (others play it)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from personalive.errors import InputError
from personalive.server.messages import Controls, Identity
from personalive.server.served import Served
from personalive.server.service import Service
from personalive.server.sessions import Live, UnknownError

MAX_SDP = 64_000
SDP = "application/sdp"

_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {SDP: {"schema": {"type": "string", "maxLength": MAX_SDP}}}}
}

router = APIRouter()


class Offer(BaseModel):
    """A complete SDP offer: all candidates in it."""

    type: Literal["offer"]
    sdp: Annotated[str, Field(max_length=MAX_SDP)]


class Answer(BaseModel):
    """The SDP answer."""

    type: Literal["answer"] = "answer"
    sdp: str
    ai_generated: bool = True


@router.post("/api/sessions/{session}/offer")
async def connect(session: Identity, offer: Offer, service: Served) -> Answer:
    """Video in, animated video out, a data channel "control" for messages."""
    sdp, _ = await _connect(service, service.sessions.get(session), offer.sdp)
    return Answer(sdp=sdp)


@router.post("/whip/{session}", status_code=201, response_class=Response, openapi_extra=_BODY)
async def feed(session: Identity, request: Request, service: Served) -> Response:
    """WHIP: video in. A session of an unknown name is made, with the first built-in portrait."""
    offer = await _offer(request)
    made = False
    try:
        live = service.sessions.get(session)
    except UnknownError:
        live, made = await service.open(None, Controls(), session), True
    try:
        return await _created(request, service, live, offer, "whip")
    except InputError:
        if made:
            service.sessions.close(session)
        raise


@router.post("/whep/{session}", status_code=201, response_class=Response, openapi_extra=_BODY)
async def play(session: Identity, request: Request, service: Served) -> Response:
    """WHEP: the animated video out."""
    return await _created(request, service, service.sessions.get(session), await _offer(request), "whep")


@router.delete("/whip/{session}/{connection}", status_code=204)
@router.delete("/whep/{session}/{connection}", status_code=204)
async def disconnect(session: Identity, connection: Identity, service: Served) -> None:
    """Ends a connection that WHIP or WHEP has made."""
    peer = service.sessions.get(session).connections.get(connection)
    if peer is None:
        raise UnknownError("there is no such connection, or it has ended")
    await peer.close()


async def _offer(request: Request) -> str:
    """The body as SDP. Raises InputError for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != SDP:
        raise InputError(f"send the SDP offer as {SDP}")
    body = await request.body()
    if len(body) > MAX_SDP:
        raise InputError(f"an SDP offer of {len(body)} bytes is too long; at most {MAX_SDP} are read")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InputError("the SDP offer is not UTF-8") from None


async def _created(request: Request, service: Service, live: Live, offer: str, kind: str) -> Response:
    sdp, name = await _connect(service, live, offer)
    root = request.scope.get("root_path", "")
    place = f"{root}/{kind}/{live.session.identity}/{name}"
    return Response(sdp, 201, {"location": place, "x-ai-generated": "true"}, media_type=SDP)


async def _connect(service: Service, live: Live, offer: str) -> tuple[str, str]:
    from personalive.server.webrtc import Peer  # aiortc is loaded with the first peer

    peer = Peer(service, live)
    return await peer.answer(offer), peer.name
