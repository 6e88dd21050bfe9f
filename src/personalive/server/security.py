"""Who may ask what: a pure ASGI layer around the app, for HTTP and WebSocket alike.

It checks, in this order: the Host (on loopback, against pages that rebind their name to this machine), the Origin, the
client's rate, the token, the body's size; and it gives every answer the headers that keep browsers strict.
"""

from __future__ import annotations

import hmac
import json
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personalive.server.session import Clock
from personalive.server.settings import LOOPBACK, Settings

COOKIE = "personalive_token"
OPEN_PATHS = ("/healthz",)
"""Answered without a token."""

SMALL_BODY = 256 * 1024
"""Bytes of any body but an uploaded picture."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(self), fullscreen=(self), geolocation=(), payment=()"),
)


class Allowance:
    """So many requests a minute for each client, and as many at once: a token bucket. Remembers 4,096 clients."""

    def __init__(self, per_minute: float, clock: Clock, clients: int = 4096) -> None:
        self._most = per_minute
        self._clock = clock
        self._clients = clients
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Whether this client may ask once more."""
        now = self._clock()
        left, before = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - before) * self._most / 60)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        while len(self._left) > self._clients:
            self._left.popitem(last=False)
        return allowed


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """The layer itself."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Clock) -> None:
        self._app = app
        self._settings = settings
        self._any = Allowance(settings.requests_per_minute, clock)
        self._uploads = Allowance(settings.uploads_per_minute, clock)
        self._sessions = Allowance(settings.sessions_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
                return
            if self._came_by_link(scope):
                await self._welcome(scope, send)
                return
            limit = self._body_limit(scope)
            await self._app(scope, _limited(receive, limit), _with_headers(send))
        except _RefusedError as refusal:
            await _refuse(scope, receive, send, refusal)

    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        host = headers.get("host", "")
        if self._settings.loopback and _name(host) not in (*LOOPBACK, *self._settings.allowed_hosts):
            raise _RefusedError(
                403,
                f"this server answers to localhost only, not to {_name(host)[:64]!r}; start it with --host to open it",
            )
        changing = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        origin = headers.get("origin")
        if changing and origin is not None and not self._own_origin(origin, host):
            raise _RefusedError(403, "pages of other sites may not use this server; open its own page")
        client = scope["client"][0] if scope.get("client") else "unknown"
        if not self._allow(scope, client, changing):
            raise _RefusedError(429, "too many requests from this address; wait a moment and try again")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path not in OPEN_PATHS and not self._knows_token(scope, headers):
            raise _RefusedError(401, "a token is needed: open the link that personalive serve has printed")

    def _own_origin(self, origin: str, host: str) -> bool:
        return urlsplit(origin).netloc.lower() == host.lower() or origin in self._settings.allowed_origins

    def _allow(self, scope: Scope, client: str, changing: bool) -> bool:
        if not self._any.take(client):
            return False
        if scope["type"] == "websocket":
            return self._sessions.take(client)
        if not changing or scope["method"] != "POST":
            return True
        return (self._uploads if scope["path"].endswith("/api/portraits") else self._sessions).take(client)

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if self._settings.token is None:
            return True
        shown = [_cookie(headers.get("cookie", "")), _query(scope).get("token", "")]
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            shown.append(bearer.strip())
        wanted = self._settings.token.encode()
        return any(hmac.compare_digest(token.encode(), wanted) for token in shown)

    def _came_by_link(self, scope: Scope) -> bool:
        return self._settings.token is not None and scope["method"] == "GET" and "token" in _query(scope)

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Keeps the token in a cookie and takes it out of the address."""
        rest = urlencode([(name, value) for name, value in _query(scope).items() if name != "token"])
        # A path of two slashes would be another site's address.
        target = "/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
        path = scope.get("root_path", "") + "/"
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={self._settings.token}; Path={path}; HttpOnly; SameSite=Lax; Max-Age=604800{secure}"
        headers = [(b"location", target.encode()), (b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")]
        await _with_headers(send)({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _body_limit(self, scope: Scope) -> int:
        limit = SMALL_BODY
        if scope["method"] == "POST" and scope["path"].endswith("/api/portraits"):
            limit = int(self._settings.max_upload_mb * 1_000_000)
        length = _headers(scope).get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            raise _too_large(limit)
        return limit


def _limited(receive: Receive, limit: int) -> Receive:
    """Stops reading a body that turns out longer than it may be."""
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return read


def _too_large(limit: int) -> _RefusedError:
    return _RefusedError(413, f"what was sent is larger than {limit / 1e6:.3g} MB; send something smaller")


def _with_headers(send: Send) -> Send:
    async def write(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name, value) for name, value in HEADERS if name not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return write


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: _RefusedError) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake; answering it with a close makes the server say 403
        await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)})
        return
    body = json.dumps({"error": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 429:
        headers.append((b"retry-after", b"5"))
    await _with_headers(send)({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))


def _name(host: str) -> str:
    """The name in a Host header: without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
