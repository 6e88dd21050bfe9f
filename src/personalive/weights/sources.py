"""Where weights come from: the hub, a mirror of it, or a folder on this machine. Each lists and fetches files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from personalive.errors import ConfigError, WeightsError
from personalive.weights import transfer
from personalive.weights.manifest import Repository
from personalive.weights.record import read_record

HUB = "hub"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source: its size in bytes and, as far as the source tells, its SHA-256 or its git blob id.

    `address`: where it is, a URL or a path.
    """

    address: str
    size: int
    sha256: str = ""
    blob_id: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of one repository by their paths under its root, the commit, and the licence that the hub names."""

    files: dict[str, RemoteFile] = field(default_factory=dict)
    commit: str = ""
    licence: str = ""


class Source(Protocol):
    """What a download needs of a source."""

    name: str

    def list(self, repository: Repository) -> Listing:
        """The repository's files. WeightsError if they cannot be listed."""

    def fetch(self, file: RemoteFile, part: Path, advance: Callable[[int], object], stop: threading.Event) -> None:
        """Complete `part` with the file's bytes; see `transfer.fetch`."""


class Hub:
    """The hub, or a mirror of it that answers the same requests. A mirror never gets the hub's login token."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.name = endpoint or "the hub"
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._token = False if endpoint else None  # None: the one that the user logged in with, if any

    def list(self, repository: Repository) -> Listing:
        """The repository's files with the sizes and hashes that the hub keeps of them."""
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(endpoint=self._endpoint, token=self._token)
        try:
            info = api.model_info(repository.name, files_metadata=True, timeout=transfer.TIMEOUT)
        except HfHubHTTPError as error:
            raise WeightsError(f"{self.name} has no repository {repository.name} for us ({_line(error)})") from error
        except Exception as error:  # the hub library's HTTP library, whose errors these are, depends on its version
            raise WeightsError(
                f"{self.name} cannot be reached ({_line(error)}): check the connection, or give --from a mirror's URL "
                "or a folder"
            ) from error
        files = {}
        for sibling in info.siblings or []:
            name = sibling.rfilename
            if name.startswith(repository.root) and sibling.size is not None:
                address = hf_hub_url(repository.name, name, revision=info.sha, endpoint=self._endpoint)
                sha256 = sibling.lfs.sha256 if sibling.lfs else ""
                files[name.removeprefix(repository.root)] = RemoteFile(
                    address, sibling.size, sha256, "" if sibling.lfs else sibling.blob_id or ""
                )
        licence = info.card_data.get("license", "") if info.card_data else ""
        return Listing(files, info.sha or "", str(licence or ""))

    def fetch(self, file: RemoteFile, part: Path, advance: Callable[[int], object], stop: threading.Event) -> None:
        """Over HTTP, resumable."""
        from huggingface_hub import get_token

        token = None if self._token is False else get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transfer.fetch(file.address, part, file.size, headers, advance, stop)


class Folder:
    """A folder in the published layout, e.g. on a disk that somebody brought. Its own record tells the hashes."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._record = read_record(path)

    def list(self, repository: Repository) -> Listing:
        """The repository's files as far as they are there."""
        root = self._path / repository.folder
        files = {}
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(root).as_posix()
                entry = self._record.get(repository.place(name))
                files[name] = RemoteFile(str(path), path.stat().st_size, entry.sha256 if entry else "")
        return Listing(files)

    def fetch(self, file: RemoteFile, part: Path, advance: Callable[[int], object], stop: threading.Event) -> None:
        """A copy."""
        transfer.copy(Path(file.address), part, advance, stop)


def find_source(name: str) -> Source:
    """ "hub", a mirror's URL, or a folder's path. ConfigError for anything else."""
    if name == HUB:
        return Hub()
    if name.startswith(("http://", "https://")):
        return Hub(name)
    if Path(name).is_dir():
        return Folder(Path(name))
    raise ConfigError(f"{name}: weights come from {HUB!r}, a mirror's URL (https://...), or a folder that exists")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
