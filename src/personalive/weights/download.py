"""Weights into a folder in the published layout: planned, then fetched side by side, each file whole and verified.

A file arrives as a hidden part file that bears the hash it must get; only a verified one gets its name. Files that are
there already are used as they are.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from personalive.errors import OutputError, WeightsError
from personalive.weights.manifest import Part, Repository
from personalive.weights.record import Entry, git_blob_id, read_record, sha256_of, unheard, write_record
from personalive.weights.sources import Listing, RemoteFile, Source
from personalive.weights.transfer import StoppedError

AT_ONCE = 4
SPARE = 64 << 20  # bytes of disk that stay free

Advance = Callable[[str, int], object]
"""Hears that so many bytes more of a place are there."""


@dataclass(frozen=True)
class Errand:
    """One file to fetch: where it goes in the folder, what it must be, and the bytes of it that are there already."""

    place: str
    file: RemoteFile
    repository: str
    commit: str
    part: Path

    @property
    def arrived(self) -> int:
        """Bytes in the part file."""
        return self.part.stat().st_size if self.part.is_file() else 0


@dataclass(frozen=True)
class Plan:
    """What a download will do: errands, the places that need nothing, and each repository's terms."""

    folder: Path
    errands: tuple[Errand, ...]
    ready: tuple[str, ...]
    licences: dict[str, str]

    @property
    def missing_bytes(self) -> int:
        """Bytes that are still to come."""
        return sum(errand.file.size - errand.arrived for errand in self.errands)


def is_complete(folder: Path, parts: Sequence[Part]) -> bool:
    """Whether every part is there, of the recorded size where there is a record. Asks no network."""
    record = read_record(folder)
    return all(any(_is_whole(folder, place, record) for place in part.places) for part in parts)


def plan(parts: Sequence[Part], source: Source, folder: Path, repair: bool = False) -> Plan:
    """Ask the source what there is and compare it with what is in the folder.

    A file that is there but is not the source's is an error, since it may be somebody's own; with `repair` it is
    fetched again, and every byte is looked at instead of what was recorded.

    Raises:
        WeightsError: the source cannot be asked or lacks a file; a file is there that is not the source's.
    """
    record = read_record(folder)
    listings: dict[str, Listing] = {}
    errands, ready = [], []
    for part in parts:
        repository = part.repository
        if repository.name not in listings:
            listings[repository.name] = source.list(repository)
        listing = listings[repository.name]
        name = _choose(part, listing, folder, source)
        place, file = repository.place(name), listing.files[name]
        if (folder / place).is_file():
            wrong = _difference(folder, place, file, {} if repair else record)
            if not wrong:
                ready.append(place)
                continue
            if not repair:
                raise WeightsError(
                    f"{folder / place} is there, but not what {source.name} has ({wrong}): give --repair to fetch it "
                    "again, or another folder with --to"
                )
        errands.append(Errand(place, file, repository.name, listing.commit, _part_path(folder / place, file)))
    licences = {part.repository.name: _terms(part.repository, listings[part.repository.name]) for part in parts}
    return Plan(folder, tuple(errands), tuple(ready), licences)


def require_room(plan: Plan) -> None:
    """Raises OutputError where the disk has not enough room for what is still to come."""
    place = plan.folder.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, plan.missing_bytes + SPARE
    if plan.errands and free < needed:
        raise OutputError(
            f"{plan.folder}: {needed / 1e9:.2f} GB are needed, but the disk has {free / 1e9:.2f} GB free: make room, "
            "or choose another folder with --to"
        )


def carry_out(plan: Plan, source: Source, advance: Advance = unheard) -> None:
    """Fetch, verify and record every file of the plan. What has arrived is kept, whatever goes wrong.

    Raises:
        WeightsError, OutputError: of the first file that went wrong; the others are stopped.
    """
    require_room(plan)
    stop, lock = threading.Event(), threading.Lock()

    def run(errand: Errand) -> None:
        errand.part.parent.mkdir(parents=True, exist_ok=True)
        source.fetch(errand.file, errand.part, lambda count: advance(errand.place, count), stop)
        entry = _verified(errand, source)
        os.replace(errand.part, plan.folder / errand.place)
        with lock:
            write_record(plan.folder, {**read_record(plan.folder), errand.place: entry})

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
        running = [pool.submit(run, errand) for errand in plan.errands]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    failures = [error for future in running if not future.cancelled() and (error := future.exception())]
    for error in sorted(
        failures, key=lambda error: isinstance(error, StoppedError)
    ):  # the cause before its consequences
        if isinstance(error, OSError):
            raise OutputError(f"{plan.folder} cannot be written: {error}") from error
        raise error


def adopt(folder: Path, places: Sequence[str]) -> None:
    """Note files that were there before, with their hashes, so that they can be checked later."""
    record = read_record(folder)
    for place in places:
        if place not in record:
            path = folder / place
            record[place] = Entry(path.stat().st_size, sha256_of(path))
    write_record(folder, record)


def _choose(part: Part, listing: Listing, folder: Path, source: Source) -> str:
    """The file of a part to use: one that is there already if the source knows it, else the first that it has."""
    known = [name for name in part.files if name in listing.files]
    if not known:
        files = " or ".join(part.repository.root + name for name in part.files)
        raise WeightsError(f"{source.name} has no {files} in {part.repository.name}: check --from")
    return next((name for name in known if (folder / part.repository.place(name)).is_file()), known[0])


def _difference(folder: Path, place: str, file: RemoteFile, record: dict[str, Entry]) -> str:
    """How a file that is there differs from the source's; empty where it does not. A recorded hash is believed."""
    path, entry = folder / place, record.get(place)
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    if file.sha256:
        known = entry.sha256 if entry and entry.size == size else sha256_of(path)
        return "" if known == file.sha256 else "another SHA-256"
    return "" if not file.blob_id or git_blob_id(path) == file.blob_id else "another content"


def _verified(errand: Errand, source: Source) -> Entry:
    """The arrived file's entry. WeightsError, and the part is deleted, where it is not what the listing promised."""
    part, file = errand.part, errand.file
    sha256 = sha256_of(part)
    right = sha256 == file.sha256 if file.sha256 else not file.blob_id or git_blob_id(part) == file.blob_id
    if part.stat().st_size != file.size or not right:
        part.unlink()
        raise WeightsError(
            f"{errand.place}: what {source.name} sent is not what its listing says (SHA-256 {sha256[:12]}..., not "
            f"{(file.sha256 or file.blob_id)[:12]}...): deleted; try again, or another source"
        )
    return Entry(file.size, sha256, errand.repository, errand.commit)


def _is_whole(folder: Path, place: str, record: dict[str, Entry]) -> bool:
    path = folder / place
    return path.is_file() and (place not in record or path.stat().st_size == record[place].size)


def _part_path(path: Path, file: RemoteFile) -> Path:
    """Next to the file, on the same disk; named by what it must become, so that no two versions mix."""
    version = (file.sha256 or file.blob_id or str(file.size))[:12]
    return path.with_name(f".{path.name}.{version}.part")


def _terms(repository: Repository, listing: Listing) -> str:
    """Our note of the licence, and what the hub says today."""
    says = f'; the hub says "{listing.licence}"' if listing.licence else ""
    return f"{repository.licence}{says}"
