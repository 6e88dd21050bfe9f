"""Downloads against a hub on this machine: whole, broken, wrong, half, missing, and onto a full disk."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pytest

from command import Command
from fake_hub import COMMIT, FakeHub, running
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.weights import download, find, official, transfer
from personalive.weights.manifest import BASE_UNET, BUNDLES, DENOISING, Part, Repository
from personalive.weights.record import RECORD, damaged_files, read_record
from personalive.weights.sources import Folder, Hub, Listing, find_source

REPOSITORY = Repository("owner/model", folder="model", licence="research only", root="weights/")
BIG, SMALL = Part(REPOSITORY, ("big.pth",)), Part(REPOSITORY, ("config.json",))


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


CONTENT = {"weights/big.pth": noise(300_000), "weights/config.json": b"{}\n", "elsewhere.txt": b"not ours"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    monkeypatch.setattr(transfer, "BLOCK", 65536)
    with running(FakeHub({REPOSITORY.name: CONTENT}, small={"weights/config.json"})) as hub:
        yield hub


def get(hub: FakeHub, folder: Path, *parts: Part, repair: bool = False) -> download.Plan:
    source = Hub(hub.url)
    plan = download.plan(parts or (BIG, SMALL), source, folder, repair)
    download.carry_out(plan, source)
    return plan


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_arrive_whole_and_are_recorded(hub: FakeHub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    assert files(tmp_path) == {"model/big.pth", "model/config.json", RECORD}
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    entry = read_record(tmp_path)["model/big.pth"]
    assert entry.sha256 == hashlib.sha256(CONTENT["weights/big.pth"]).hexdigest()
    assert (entry.size, entry.repository, entry.commit) == (300_000, "owner/model", COMMIT)
    assert damaged_files(tmp_path) == {}
    assert download.is_complete(tmp_path, (BIG, SMALL))


def test_the_plan_says_sizes_and_terms_before_anything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.licence = "mit"
    plan = download.plan((BIG, SMALL), Hub(hub.url), tmp_path)
    assert plan.missing_bytes == 300_003
    assert plan.licences == {"owner/model": 'research only; the hub says "mit"'}
    assert [path for path, _ in hub.requests] == ["/api/models/owner/model"]  # one listing, no file
    assert files(tmp_path) == set()


def test_a_second_download_fetches_nothing(hub: FakeHub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    hub.requests.clear()
    assert get(hub, tmp_path).errands == ()
    assert [path for path, _ in hub.requests] == ["/api/models/owner/model"]


def test_a_broken_connection_goes_on_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    hub.breaks = {"weights/big.pth": 3}
    heard: list[int] = []
    source = Hub(hub.url)
    download.carry_out(download.plan((BIG,), source, tmp_path), source, lambda place, count: heard.append(count))
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    asked = [wanted for path, wanted in hub.requests if path.endswith("big.pth")]
    assert asked == [None, "bytes=150000-", "bytes=225000-", "bytes=262500-"]
    assert sum(heard) == 300_000


def test_what_has_arrived_serves_the_next_run(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    monkeypatch.setattr(transfer, "_read", stumble_after(200_000))
    with pytest.raises(WeightsError, match=r"connection broke 1 times .* bytes are kept: run the same command again"):
        get(hub, tmp_path, BIG)
    assert not (tmp_path / "model/big.pth").exists()
    monkeypatch.undo()
    kept = download.plan((BIG,), Hub(hub.url), tmp_path).errands[0].arrived
    assert 0 < kept <= 200_000
    hub.requests.clear()
    get(hub, tmp_path, BIG)
    assert hub.requests[-1] == (f"/owner/model/resolve/{COMMIT}/weights/big.pth", f"bytes={kept}-")
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    assert files(tmp_path) == {"model/big.pth", RECORD}


def stumble_after(limit: int) -> Any:
    read, came = transfer._read, [0]

    def stumbling(response: Any) -> bytes:
        if came[0] >= limit:
            raise transfer._BrokenError("cable pulled")
        block = read(response)[: limit - came[0]]
        came[0] += len(block)
        return block

    return stumbling


def test_a_server_without_ranges_starts_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.no_ranges, hub.breaks = True, {"weights/big.pth": 1}
    heard: list[int] = []
    source = Hub(hub.url)
    download.carry_out(download.plan((BIG,), source, tmp_path), source, lambda place, count: heard.append(count))
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    assert sum(heard) == 300_000  # what had to be thrown away was taken back
    assert min(heard) == -150_000


def test_a_connection_that_never_moves_gives_up(hub: FakeHub, tmp_path: Path) -> None:
    hub.failing = {"weights/big.pth": 503}
    with pytest.raises(WeightsError, match=r"connection broke 5 times \(HTTP 503\); 0 of 300000 bytes"):
        get(hub, tmp_path, BIG)
    assert len([path for path, _ in hub.requests if path.endswith("big.pth")]) == 5


@pytest.mark.parametrize("same_size", [True, False])
def test_a_wrong_hash_is_refused_and_nothing_stays(same_size: bool, hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong = {"weights/big.pth": noise(300_000 if same_size else 300_500, seed=1)}
    with pytest.raises(
        WeightsError, match="is not what its listing says" if same_size else "sends more than the 300000"
    ):
        get(hub, tmp_path, BIG)
    assert files(tmp_path) == set()


def test_a_wrong_small_file_is_told_by_its_git_name(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong = {"weights/config.json": b"[]\n"}
    with pytest.raises(WeightsError, match=r"model/config\.json: what .* sent is not what its listing says"):
        get(hub, tmp_path, SMALL)
    assert files(tmp_path) == set()


def test_half_a_part_of_other_bytes_cannot_survive(hub: FakeHub, tmp_path: Path) -> None:
    """A part file that somebody spoilt: its whole is not what was promised, so it goes, and the next run is clean."""
    errand = download.plan((BIG,), Hub(hub.url), tmp_path).errands[0]
    errand.part.parent.mkdir(parents=True)
    errand.part.write_bytes(noise(100_000, seed=2))
    with pytest.raises(WeightsError, match="deleted; try again"):
        get(hub, tmp_path, BIG)
    get(hub, tmp_path, BIG)
    assert damaged_files(tmp_path) == {}


def test_a_part_that_is_too_long_is_begun_anew(hub: FakeHub, tmp_path: Path) -> None:
    errand = download.plan((BIG,), Hub(hub.url), tmp_path).errands[0]
    errand.part.parent.mkdir(parents=True)
    errand.part.write_bytes(noise(400_000))
    with pytest.raises(WeightsError, match="more than the 300000"):
        get(hub, tmp_path, BIG)
    get(hub, tmp_path, BIG)
    assert (tmp_path / "model/big.pth").stat().st_size == 300_000


def test_a_file_that_is_gone_between_listing_and_fetching(hub: FakeHub, tmp_path: Path) -> None:
    hub.failing = {"weights/big.pth": 404}
    with pytest.raises(WeightsError, match="answers 404 Not Found: check --from") as error:
        get(hub, tmp_path)
    assert "\n" not in str(error.value)
    assert "model/big.pth" not in files(tmp_path)


def test_a_file_that_wants_a_login(hub: FakeHub, tmp_path: Path) -> None:
    hub.failing = {"weights/big.pth": 403}
    with pytest.raises(WeightsError, match="accept the terms"):
        get(hub, tmp_path, BIG)


def test_a_repository_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    unknown = Part(Repository("owner/nothing", "nothing", "?"), ("a.bin",))
    with pytest.raises(WeightsError, match="has no repository owner/nothing"):
        download.plan((unknown,), Hub(hub.url), tmp_path)


def test_a_file_that_is_not_listed(hub: FakeHub, tmp_path: Path) -> None:
    part = Part(REPOSITORY, ("a.safetensors", "a.bin"))
    with pytest.raises(WeightsError, match=r"has no weights/a\.safetensors or weights/a\.bin in owner/model"):
        download.plan((part,), Hub(hub.url), tmp_path)


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(WeightsError, match="cannot be reached"):
            download.plan((BIG,), Hub(url), tmp_path)


def test_a_mirror_never_sees_the_login(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(hub, tmp_path)
    assert set(hub.tokens) == {None}


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(download.SPARE + 299_999))
    with pytest.raises(OutputError, match=r"0\.07 GB are needed, but the disk has 0\.07 GB free: make room"):
        get(hub, tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    assert len(hub.requests) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(download.SPARE + 300_003))
    get(hub, tmp_path)


class FullDisk(io.BytesIO):
    """A file on a disk with room for some bytes more."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        super().__init__()
        self.inner, self.room = file, room

    def write(self, block: Any) -> int:
        if len(block) > self.room:
            self.inner.write(block[: self.room])
            self.inner.flush()
            self.room = 0
            raise OSError(28, "No space left on device")
        self.room -= len(block)
        return self.inner.write(block)

    def close(self) -> None:
        self.inner.close()
        super().close()


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = transfer._writer
    monkeypatch.setattr(transfer, "_writer", lambda part, anew: FullDisk(writer(part, anew), 100_000))
    with pytest.raises(OutputError, match=r"No space left on device; .* GB free\): make room, then run the same"):
        get(hub, tmp_path, BIG)
    monkeypatch.setattr(transfer, "_writer", writer)
    assert download.plan((BIG,), Hub(hub.url), tmp_path).errands[0].arrived == 100_000
    get(hub, tmp_path, BIG)
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]


def test_stopping_keeps_what_has_arrived(hub: FakeHub, tmp_path: Path) -> None:
    stop = threading.Event()
    part = tmp_path / "part"
    address = f"{hub.url}/owner/model/resolve/main/weights/big.pth"
    with pytest.raises(transfer.StoppedError):
        transfer.fetch(address, part, 300_000, advance=lambda count: stop.set() if count else None, stop=stop)
    assert 0 < part.stat().st_size < 300_000
    transfer.fetch(address, part, 300_000)
    assert part.read_bytes() == CONTENT["weights/big.pth"]


def test_somebodys_own_file_is_used_or_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    own = tmp_path / "model" / "big.pth"
    own.parent.mkdir()
    own.write_bytes(CONTENT["weights/big.pth"])
    plan = get(hub, tmp_path)
    assert plan.ready == ("model/big.pth",)
    download.adopt(tmp_path, plan.ready)
    assert read_record(tmp_path)["model/big.pth"].size == 300_000
    own.write_bytes(CONTENT["weights/big.pth"][:-1])
    with pytest.raises(WeightsError, match=r"299999 bytes instead of 300000\): give --repair"):
        get(hub, tmp_path)
    assert own.stat().st_size == 299_999
    get(hub, tmp_path, repair=True)
    assert own.read_bytes() == CONTENT["weights/big.pth"]


def test_what_rotted_since_it_was_verified_is_repaired(hub: FakeHub, tmp_path: Path) -> None:
    """Its size is right and its recorded hash is the source's: only the bytes themselves tell."""
    get(hub, tmp_path)
    (tmp_path / "model/big.pth").write_bytes(noise(300_000, seed=5))
    assert set(damaged_files(tmp_path)) == {"model/big.pth"}
    assert [errand.place for errand in get(hub, tmp_path, repair=True).errands] == ["model/big.pth"]
    assert (tmp_path / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    assert damaged_files(tmp_path) == {}


def test_the_other_format_of_the_same_file_is_as_good(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[REPOSITORY.name] = {"weights/a.safetensors": b"new", "weights/a.bin": b"old"}
    part = Part(REPOSITORY, ("a.safetensors", "a.bin"))
    assert [errand.place for errand in download.plan((part,), Hub(hub.url), tmp_path).errands] == [
        "model/a.safetensors"
    ]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(b"old")
    assert download.plan((part,), Hub(hub.url), tmp_path).ready == ("model/a.bin",)
    assert download.is_complete(tmp_path, (part,))


def test_a_folder_is_a_source_and_its_record_is_believed(hub: FakeHub, tmp_path: Path) -> None:
    disk, here = tmp_path / "disk", tmp_path / "here"
    get(hub, disk)
    source = find_source(str(disk))
    download.carry_out(download.plan((BIG, SMALL), source, here), source)
    assert (here / "model/big.pth").read_bytes() == CONTENT["weights/big.pth"]
    (disk / "model" / "big.pth").write_bytes(noise(300_000, seed=3))  # the disk rots
    with pytest.raises(WeightsError, match="sent is not what its listing says"):
        download.carry_out(download.plan((BIG,), source, tmp_path / "third"), source)
    assert damaged_files(disk) == {"model/big.pth": "its SHA-256 is not the one that was downloaded"}


def test_damage_is_found_and_named(hub: FakeHub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    (tmp_path / "model/big.pth").write_bytes(b"short")
    (tmp_path / "model/config.json").unlink()
    assert damaged_files(tmp_path, thorough=False) == {
        "model/big.pth": "5 bytes instead of 300000",
        "model/config.json": "missing",
    }
    assert not download.is_complete(tmp_path, (BIG, SMALL))
    (tmp_path / RECORD).write_text('{"a": {"size": "large"}}')
    with pytest.raises(WeightsError, match="is damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "ftp://elsewhere"])
def test_an_unknown_source(name: str) -> None:
    with pytest.raises(ConfigError, match="weights come from 'hub', a mirror's URL"):
        find_source(name)


# What the official bundle holds


def test_only_what_is_used_is_fetched() -> None:
    places = [part.places[0] for part in BUNDLES["official"]]
    assert len(places) == 8
    assert not any("/unet/" in place for place in places)
    assert "personalive/denoising_unet.pth" in places
    assert BASE_UNET.places[1] == "sd-image-variations-diffusers/unet/diffusion_pytorch_model.bin"
    assert DENOISING.repository.root + DENOISING.files[0] == "pretrained_weights/personalive/denoising_unet.pth"


def test_a_folder_named_pretrained_weights_is_the_official_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path / "cache"))
    assert find.official_folder() == tmp_path / "cache" / "pretrained_weights"
    file = Path("pretrained_weights") / DENOISING.places[0]
    file.parent.mkdir(parents=True)
    file.touch()
    assert find.official_folder() == Path("pretrained_weights")


# The command


def test_the_command_tells_and_fetches(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUNDLES, "thing", (BIG, SMALL))
    command = Command(capsys)
    dry = command("download", "thing", "--from", hub.url, "--to", tmp_path, "--dry-run")
    assert dry.code == 0
    assert "licence  owner/model: research only" in dry.out
    assert "fetch    model/big.pth: 0.3 MB" in dry.out
    assert files(tmp_path) == set()
    done = command("download", "thing", "--from", hub.url, "--to", tmp_path)
    assert done.code == 0
    assert "2 files fetched and verified, 0 were there" in done.out
    hub.requests.clear()
    again = command("download", "thing", "--from", "http://127.0.0.1:9", "--to", tmp_path)
    assert again.code == 0
    assert "thing is complete" in again.out
    assert hub.requests == []
    wrong = command("download", "everything", "--to", tmp_path)
    assert wrong.code == 1
    assert wrong.err.startswith("error: there is no 'everything' to download")


@pytest.mark.parametrize("open_entries", [[], ["conv_in.weight"]])
def test_the_base_unet_comes_only_where_entries_are_open(
    open_entries: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`download official` against a hub that has all there is; which entries are open is for the files to say."""
    content: dict[str, dict[str, bytes]] = {}
    for part in (*BUNDLES["official"], BASE_UNET):
        name = part.repository.root + part.files[0]
        content.setdefault(part.repository.name, {})[name] = name.encode()
    asked: list[Path] = []

    def gaps(folder: Path) -> list[str]:
        asked.append(folder)
        return open_entries

    monkeypatch.setattr(official, "denoising_gaps", gaps)
    with running(FakeHub(content)) as hub:
        done = Command(capsys)("download", "official", "--from", hub.url, "--to", tmp_path)
        again = Command(capsys)("download", "official", "--from", "http://127.0.0.1:9", "--to", tmp_path)
    assert (done.code, again.code) == (0, 0), done.err + again.err
    wanted = {part.places[0] for part in BUNDLES["official"]} | ({BASE_UNET.places[0]} if open_entries else set())
    assert files(tmp_path) == {*wanted, RECORD}
    assert ("1 entries open (e.g. conv_in.weight): the base UNet is needed" in done.out) == bool(open_entries)
    assert "licence  huaichang/PersonaLive: research only" in done.out
    assert asked == [tmp_path] * (1 if open_entries else 2)  # with the base UNet there, nothing is asked of the files


def test_files_come_side_by_side(hub: FakeHub, tmp_path: Path) -> None:
    """Two files, each of which ends only when the other has begun: one after the other they would never come."""
    both = threading.Barrier(2)
    source = Hub(hub.url)
    fetch = source.fetch

    def meet(file: Any, part: Path, advance: Any, stop: Any) -> None:
        both.wait(timeout=30)
        fetch(file, part, advance, stop)

    source.fetch = meet  # type: ignore[method-assign]
    download.carry_out(download.plan((BIG, SMALL), source, tmp_path), source)
    assert files(tmp_path) == {"model/big.pth", "model/config.json", RECORD}


def test_a_stopped_command_says_how_to_go_on(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(BUNDLES, "thing", (BIG,))
    monkeypatch.setattr(download, "carry_out", interrupted)
    ended = Command(capsys)("download", "thing", "--from", hub.url, "--to", tmp_path)
    assert ended.code == 130
    assert "what has arrived is kept" in ended.err


def test_listings_of_a_folder_skip_parts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ".big.pth.abc.part").write_bytes(b"x")
    assert Folder(tmp_path).list(REPOSITORY) == Listing({})
