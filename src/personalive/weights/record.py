"""What a folder of downloaded weights knows about its files: size, SHA-256, origin. So that it can be checked later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from personalive.errors import ConfigError, WeightsError
from personalive.plain_data import build

RECORD = "personalive-weights.json"


def unheard(*_: object) -> None:
    """Where nobody follows the progress."""


@dataclass(frozen=True)
class Entry:
    """One file as it was when it was verified: size in bytes, SHA-256, and the repository and commit it is from."""

    size: int
    sha256: str
    repository: str = ""
    commit: str = ""


def read_record(folder: Path) -> dict[str, Entry]:
    """The entries by place (a relative path with slashes); none where there is no record. WeightsError if damaged."""
    path = folder / RECORD
    try:
        data = json.loads(path.read_text("utf-8"))
        return {str(place): build(Entry, entry, place) for place, entry in dict(data).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, ConfigError) as error:
        raise WeightsError(f"{path} is damaged ({error}): delete it and download again") from error


def write_record(folder: Path, entries: dict[str, Entry]) -> None:
    """Replace the record, whole or not at all."""
    path = folder / RECORD
    temporary = path.with_name(f".{RECORD}.tmp")
    data = {place: dataclasses.asdict(entries[place]) for place in sorted(entries)}
    temporary.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    temporary.replace(path)


def sha256_of(path: Path, advance: Callable[[int], object] = unheard) -> str:
    """The file's SHA-256 in hexadecimal; `advance` hears how many bytes more have been read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def git_blob_id(path: Path) -> str:
    """The name that git gives the file's content: what the hub lists for small files instead of a SHA-256."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def damaged_files(folder: Path, thorough: bool = True) -> dict[str, str]:
    """What is wrong with the recorded files, by place: missing, of another size, or (`thorough`) of another hash."""
    wrong = {}
    for place, entry in read_record(folder).items():
        path = folder / place
        if not path.is_file():
            wrong[place] = "missing"
        elif path.stat().st_size != entry.size:
            wrong[place] = f"{path.stat().st_size} bytes instead of {entry.size}"
        elif thorough and sha256_of(path) != entry.sha256:
            wrong[place] = "its SHA-256 is not the one that was downloaded"
    return wrong
