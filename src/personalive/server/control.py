"""What a client may ask while its session runs, whichever way the message came; and what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from personalive.errors import PersonaLiveError
from personalive.server.messages import FrameShown, Ping, Recalibrate, SetControls, SetPortrait, read_message
from personalive.server.service import Service
from personalive.server.sessions import Live

Tell = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends a message to the client."""

NEWS_SECONDS = 0.5
STATISTICS_EVERY = 2
"""The state is looked at twice a second, statistics go out with every second look."""


async def obey(service: Service, live: Live, text: str, tell: Tell) -> Ping | None:
    """Does what a message asks; one that is wrong is answered with what is wrong. Gives back a ping."""
    try:
        message = read_message(text)
        if isinstance(message, SetControls):
            named = message.model_fields_set - {"type"}
            changes = {name: getattr(message, name) for name in named}
            live.session.controls = live.session.controls.model_copy(update=changes)
            service.sessions.share()
        elif isinstance(message, SetPortrait):
            await service.change_portrait(live, message.portrait)
        elif isinstance(message, Recalibrate):
            live.session.recalibrate()
        elif isinstance(message, FrameShown):
            live.session.note_reported((message.displayed - message.captured) / 1000)
        else:
            await tell({"type": "pong", "time": message.time})
            return message
    except PersonaLiveError as error:
        await tell({"type": "error", "error": str(error)})
    return None


async def tell_news(service: Service, live: Live, tell: Tell) -> None:
    """The session's state whenever it changes, at first at once; statistics every second. Until cancelled."""
    told, looks = "", 0
    while True:
        now = service.clock()
        state, text = live.session.state(now)
        if state != told:
            told = state
            await tell({"type": "state", "state": state, "text": text, "ai_generated": True})
        if looks % STATISTICS_EVERY == 0:
            await tell({"type": "statistics", **live.session.statistics(now)})
        looks += 1
        await asyncio.sleep(NEWS_SECONDS)


def as_text(message: dict[str, Any]) -> str:
    """A message as it goes out."""
    return json.dumps(message, separators=(",", ":"))
