"""A hub on this machine: lists repositories and serves their files over HTTP, and misbehaves as told. No tests here."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class FakeHub:
    """repositories: files by repository and path. What goes wrong, by path:

    breaks: how many connections end in the middle; wrong: what is sent instead; failing: an HTTP status;
    no_ranges: the server ignores Range; small: listed like a small file, by git blob id instead of SHA-256.
    """

    repositories: dict[str, dict[str, bytes]]
    breaks: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, bytes] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)
    no_ranges: bool = False
    small: set[str] = field(default_factory=set)
    licence: str = ""
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def listing(self, repository: str) -> dict[str, object]:
        """What the hub's API answers about a repository."""
        siblings = []
        for name, content in self.repositories[repository].items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            if name not in self.small:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        card = {"cardData": {"license": self.licence}} if self.licence else {}
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": [], **card}


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at `hub.url` while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((path, self.headers.get("Range")))
            hub.tokens.append(self.headers.get("Authorization"))
            if listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                if listed[1] not in hub.repositories:
                    return self.send_error(404)
                return self.answer(200, json.dumps(hub.listing(listed[1])).encode())
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            assert found, path
            repository, name = found.groups()
            if name in hub.failing:
                return self.send_error(hub.failing[name])
            return self.send_file(name, hub.wrong.get(name, hub.repositories[repository][name]))

        def send_file(self, name: str, content: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            begin = int(asked[1]) if asked and not hub.no_ranges else 0
            if begin and begin >= len(content):
                return self.send_error(416)
            rest = content[begin:]
            if hub.breaks.get(name, 0) > 0:
                hub.breaks[name] -= 1
                return self.answer(206 if begin else 200, rest[: len(rest) // 2], promised=len(rest))
            return self.answer(206 if begin else 200, rest)

        def answer(self, code: int, body: bytes, promised: int | None = None) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
