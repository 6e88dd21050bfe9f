"""What a broken or hostile client may send, for hypothesis: requests by our own OpenAPI, messages, SDP offers."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from personalive.server.messages import Controls, FrameShown, Ping, Recalibrate, SetControls, SetPortrait

Schema = dict[str, Any]

LETTERS = st.characters()  # any, with those that no encoding has (half a surrogate pair) and those that end strings
TEXT = st.text(LETTERS, max_size=20) | st.sampled_from(["", "auto", "0,0,1e9", "nan,1,1", "../..", "x" * 5000, "\x00"])
NUMBERS = st.floats() | st.integers() | st.sampled_from([0, -1, 1e308, 10**400, math.nan, math.inf])
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["clara", "target", "nobody", "a" * 65, "%00", "%2e%2e", "..;", "%ed%a0%80"]) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8
).map(lambda name: quote(name, safe=""))


def nearly(schema: Schema, definitions: Schema) -> SearchStrategy[Any]:
    """JSON values (as Python's) of nearly this schema: of its shape, with something wrong here and there, or not."""
    if reference := schema.get("$ref"):
        return nearly(definitions[reference.rpartition("/")[2]], definitions)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([nearly(choice, definitions) for choice in choices])
    if "const" in schema:
        return st.just(schema["const"]) | JUNK
    if schema.get("type") == "object":
        parts = {name: nearly(part, definitions) for name, part in schema.get("properties", {}).items()}
        whole = st.fixed_dictionaries(parts)
        return whole | st.fixed_dictionaries({}, optional={**parts, "more": JUNK}) | JUNK
    if schema.get("type") == "array":
        return st.tuples(*(nearly(part, definitions) for part in schema.get("prefixItems", []))) | JUNK
    if schema.get("type") in ("number", "integer"):
        low, high = schema.get("minimum", -1e6), schema.get("maximum", 1e6)
        return st.floats(low, high) | NUMBERS | JUNK
    return TEXT | JUNK


def spoilt(data: bytes) -> SearchStrategy[bytes]:
    """The bytes, mostly; or only their beginning, or with a byte changed."""
    place = st.integers(0, max(0, len(data) - 1))
    changed = st.tuples(place, st.binary(max_size=2)).map(lambda at: data[: at[0]] + at[1] + data[at[0] + 1 :])
    return st.one_of(st.just(data), st.just(data), place.map(lambda end: data[:end]), changed)


def encoded(value: Any) -> SearchStrategy[bytes]:
    return spoilt(json.dumps(value).encode())


@dataclass(frozen=True)
class Asked:
    """An HTTP request."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    kind: str


def requests(description: Schema) -> SearchStrategy[Asked]:
    """Requests for every operation that an OpenAPI document describes: right, nearly right, and wrong ones."""
    operations = [(path, method) for path, methods in description["paths"].items() for method in methods]
    return st.sampled_from(sorted(operations)).flatmap(lambda operation: _request(description, *operation))


def _request(description: Schema, path: str, method: str) -> SearchStrategy[Asked]:
    operation = description["paths"][path][method]
    bodies, kinds = [st.binary(max_size=100)], ["", "text/plain", "application/json", "application/sdp"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        kinds += [kind] * 8
        if kind == "application/json":
            right = nearly(content["schema"], description["components"]["schemas"])
            bodies += [right.flatmap(encoded)] * 6
    names = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    methods = [method.upper()] * 12 + ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]
    return st.builds(
        Asked,
        method=st.sampled_from(methods),
        path=st.lists(NAMES, min_size=2, max_size=2).map(lambda given: _fill(path, given)),
        query=st.fixed_dictionaries({}, optional={name: TEXT.map(_speakable) for name in [*names, "token", "watch"]}),
        body=st.one_of(bodies),
        kind=st.sampled_from(kinds),
    )


def _fill(path: str, names: list[str]) -> str:
    parts = iter(names)
    return "/".join(next(parts) if part.startswith("{") else part for part in path.split("/"))


def _speakable(text: str) -> str:
    """Without what no client could put into an address."""
    return text.encode("utf-8", "ignore").decode()[:200]


RAW_LINES = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /api/sessions HTTP/1.1", b"GET /api/sessions/target/frames HTTP/1.1", b"GET / HTTP/9.9",
     b"Host: localhost", b"Host:", b"Content-Length: 5", b"Content-Length: -5", b"Content-Length: 99999999999999999999",
     b"Transfer-Encoding: chunked", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
     b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"Sec-WebSocket-Key: x", b"Origin: \xff", b"Cookie: \x01=;;=",
     b"Expect: 100-continue", b": x", b"", b"zz", b"5\r\nhello", b"0", b"X: " + b"y" * 9_000]
)  # fmt: skip
RAW = st.lists(RAW_LINES | st.binary(max_size=30), min_size=1, max_size=8).map(lambda lines: b"\r\n".join(lines))
"""Bytes for the server's port that are hardly HTTP."""


@cache
def _message_schemas() -> list[Schema]:
    kinds = (SetControls, SetPortrait, Recalibrate, FrameShown, Ping, Controls)
    return [kind.model_json_schema() for kind in kinds]


def messages(picture: bytes) -> SearchStrategy[bytes | str]:
    """For a session's WebSocket: control messages (text) and frames of that picture (bytes), mostly wrong ones."""
    said = st.sampled_from(_message_schemas()).flatmap(lambda schema: nearly(schema, schema.get("$defs", {})))
    texts = said.flatmap(encoded).map(lambda data: data.decode("utf-8", "ignore"))
    stamps = st.floats().map(lambda time: struct.pack(">d", time)) | st.binary(max_size=8)
    frames = st.tuples(stamps, spoilt(picture) | st.binary(max_size=40)).map(b"".join)
    return texts | frames | st.just("x" * 5000)


TOKENS = st.sampled_from(["0", "-1", "99999999999", "", "a", "ü", "\x00", "0.0.0.0", "::1", "1.2.3.4", "x" * 300, "*"])
LINES = st.sampled_from(
    ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0", "m=video 9 UDP/TLS/RTP/SAVPF 97", "m=", "a=", "\x00",
     "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=rtpmap:97 VP8/90000", "a=mid:0", "a=setup:active",
     "a=setup:passive", "a=ice-ufrag:x", "a=ice-pwd:y", "a=ice-lite", "a=sendonly", "a=recvonly", "a=inactive",
     "a=group:BUNDLE 0 0", "c=IN IP4 x", "a=candidate:1 1 udp 1 127.0.0.1 9 typ host",
     "a=candidate:1 1 udp 1 nowhere.invalid 9 typ host",
     "a=candidate:1 1 tcp 1 ::1 0 typ relay", "a=fingerprint:sha-256 00", "a=fingerprint:md5 00", "a=sctp-port:5000",
     "a=end-of-candidates", "a=rtpmap:97 H264/90000", "a=fmtp:97 apt=97", "a=ssrc:1 cname:x", "a=ssrc-group:FID 1",
     "a=extmap:1 urn:x", "a=rid:1 send", "a=simulcast:send 1", "a=rtcp-fb:* nack", "a=max-message-size:0"]
)  # fmt: skip


@st.composite
def offers(draw: st.DrawFn, good: list[str]) -> str:
    """SDP: one of the good offers with lines taken out, doubled, swapped, added or changed; or lines at random."""
    lines = draw(st.sampled_from([*good, ""])).split("\r\n")
    if lines == [""]:
        lines = draw(st.lists(LINES | TEXT, max_size=14))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        change = draw(st.sampled_from(["cut", "double", "swap", "add", "token", "end"]))
        if change == "cut":
            lines = lines[:at] + lines[at + 1 :]
        elif change == "double":
            lines = lines[: at + 1] + lines[at:]
        elif change == "swap":
            lines = lines[at:] + lines[:at]
        elif change == "add":
            lines = [*lines[:at], draw(LINES | TEXT), *lines[at:]]
        elif change == "end":
            lines = lines[: at + 1]
        elif lines:
            words = lines[at].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(TOKENS)
            lines = [*lines[:at], " ".join(words), *lines[at + 1 :]]
    return "\r\n".join(lines)
