"""One file over HTTP, resumable: bytes that arrived are kept in a part file, and the next attempt asks for the rest.

The hub library's own download keeps nothing of a broken file between two runs, so the bytes are fetched here; listings,
addresses and tokens stay its business.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import certifi

from personalive.errors import OutputError, WeightsError
from personalive.weights.record import unheard

BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 2.0  # seconds before the second attempt, twice as many before the third, ...


class StoppedError(Exception):
    """Somebody set the stop event: what has arrived is kept."""


class _BrokenError(Exception):
    """A transfer that ended too early and may go on."""


def fetch(
    address: str,
    part: Path,
    size: int,
    headers: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = unheard,
    stop: threading.Event | None = None,
) -> None:
    """Complete the file `part` from `address` up to `size` bytes, going on where it ends.

    `advance` hears every change of the part's length in bytes (negative where a server begins anew). `headers` go to
    the first host only, not where it redirects to.

    Raises:
        WeightsError: the server has no such file, refuses, sends too much, or breaks off `ATTEMPTS` times in a row
            without a byte of progress.
        OutputError: the part cannot be written.
        StoppedError: `stop` was set.
    """
    stop = stop or threading.Event()
    failures = 0
    while (before := _length(part)) < size:
        try:
            _go_on(address, part, size, headers or {}, advance, stop)
        except _BrokenError as error:
            failures = 1 if _length(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"{address}: the connection broke {failures} times ({error}); {_length(part)} of {size} bytes are "
                    "kept: run the same command again to go on"
                ) from error
            if stop.wait(PAUSE * 2 ** (failures - 1)):
                raise StoppedError from error
    if _length(part) > size:
        part.unlink()
        raise WeightsError(f"{address} sends more than the {size} bytes that its listing says: try another source")


def copy(source: Path, part: Path, advance: Callable[[int], object], stop: threading.Event) -> None:
    """`fetch` from a file on this machine, from its beginning."""
    advance(-_length(part))
    with source.open("rb") as reader, _writer(part, anew=True) as file:
        while block := reader.read(BLOCK):
            if stop.is_set():
                raise StoppedError
            _write(file, block, part)
            advance(len(block))


def _go_on(
    address: str,
    part: Path,
    size: int,
    headers: Mapping[str, str],
    advance: Callable[[int], object],
    stop: threading.Event,
) -> None:
    """One connection. Raises _BrokenError where another may succeed."""
    begin = _length(part)
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # a token is for the hub, not for where it redirects to
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=_trust()) as response:
            anew = response.status != 206  # the server knows no ranges: it sends everything
            if anew:
                advance(-begin)
            with _writer(part, anew) as file:
                while block := _read(response):
                    if stop.is_set():
                        raise StoppedError
                    _write(file, block, part)
                    advance(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what we have is not a beginning of what is there
            advance(-begin)
            part.unlink()
            raise _BrokenError("the part did not fit") from error
        if error.code in (408, 429) or error.code >= 500:
            raise _BrokenError(f"HTTP {error.code}") from error
        raise WeightsError(
            f"{address}: the server answers {error.code} {error.reason}: {_advice(error.code)}"
        ) from error
    except (OSError, http.client.HTTPException) as error:  # no connection, or one that broke before its answer
        raise _BrokenError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    if _length(part) < size:
        raise _BrokenError("it ended early")


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next bytes as they come. A connection that breaks is not an error of the disk."""
    try:
        return response.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


def _writer(part: Path, anew: bool) -> BinaryIO:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open("wb" if anew else "ab")
    except OSError as error:
        raise OutputError(f"{part} cannot be written: {error.strerror}") from error


def _write(file: BinaryIO, block: bytes, part: Path) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        free = shutil.disk_usage(part.parent).free
        raise OutputError(
            f"{part} cannot be written ({error.strerror}; {free / 1e9:.1f} GB free): make room, then run the same "
            "command again; what has arrived is kept"
        ) from error


def _advice(code: int) -> str:
    if code in (401, 403):
        return "it wants a login; accept the terms on the repository's page and run `hf auth login`"
    return "check --from, or try another source"


def _trust() -> ssl.SSLContext:
    """The system's certificates and certifi's: some Python installations come without any."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
