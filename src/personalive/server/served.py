"""What the routes ask for: the service of the app that they are in."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from personalive.server.service import Service


async def _service(request: Request) -> Service:
    # async although nothing is awaited: FastAPI runs other dependencies on a thread, at every request.
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
