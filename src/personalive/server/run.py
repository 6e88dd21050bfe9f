"""Runs the live server on a socket of its own, with what makes it notice lost clients soon."""

from __future__ import annotations

import secrets
import socket
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from personalive.errors import ConfigError
from personalive.server.app import create_app
from personalive.server.settings import Settings
from personalive.server.websocket import MAX_MESSAGE
from personalive.server.worker import Model

PING_SECONDS, PONG_SECONDS = 1.0, 3.0
"""A WebSocket client that has vanished without a word is noticed within the sum of both."""


def with_token(settings: Settings) -> Settings:
    """The settings; on an address that others can reach, with a fresh token if none is set."""
    if settings.loopback or settings.token is not None:
        return settings
    return settings.model_copy(update={"token": secrets.token_urlsafe(24)})


def bind(settings: Settings) -> socket.socket:
    """A listening socket. Raises ConfigError where there can be none."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(f"{where} cannot be served ({error.strerror or error}); choose another --port") from None
    return listening


def link(settings: Settings, port: int) -> str:
    """What to open in a browser."""
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"?token={quote(settings.token)}" if settings.token else "")


def make_server(settings: Settings, model: Model | None = None, app: FastAPI | None = None) -> uvicorn.Server:
    """A uvicorn server for the app of these settings; run it with `server.run([socket])`."""
    config = uvicorn.Config(
        app or create_app(model, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client must not say who it is: rates are limited by address
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE + 1024,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=256,
    )
    return uvicorn.Server(config)
