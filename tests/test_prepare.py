"""`personalive data prepare`: whole runs on small videos of a portrait, resumed, refused, reported."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import personalive
from command import Command
from personalive.data import prepare
from personalive.data.footage import FootageConfig
from personalive.data.prepare import Division, prepare_videos
from personalive.data.shards import read_shards
from personalive.errors import ConfigError, InputError, OutputError
from personalive.media.frames import Pixels, load_picture, resize_to
from personalive.training.clips import load_corpus
from toy_video import make_video

PORTRAIT = sorted((Path(personalive.__file__).parent / "assets" / "portraits").glob("*.*"))[0]
CONFIG = FootageConfig(size=32, frames=5, clips=2)


def talking(index: int) -> Pixels:
    """The portrait, swaying, on a wall."""
    pixels = np.full((120, 160, 3), 90, np.uint8)
    left = 20 + index % 7
    pixels[:, left : left + 120] = resize_to(load_picture(PORTRAIT), 120, 120)
    return pixels


def wall(index: int) -> Pixels:
    return np.full((120, 160, 3), 60 + index, np.uint8)


def video(path: Path, frames: int = 6, draw: Callable[[int], Pixels] = talking) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_video(path, frames, size=(160, 120), rate=25, draw=draw)


def here(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], _workers: int, done: Callable[[Any], object]
) -> None:
    """`run_jobs` without processes: what they cost is tested once."""
    for job in jobs:
        done(function(*job))


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepare, "run_jobs", here)
    for name in ("ada/1.mp4", "ada/2.MP4", "bob/deep/er/1.mov"):
        video(tmp_path / "films" / name)
    return tmp_path / "films"


def shards(folder: Path) -> dict[str, list[str]]:
    return {path.name: sorted({p.person for p in read_shards([path])}) for path in sorted(folder.glob("*.tar"))}


def test_the_command_from_videos_to_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes, a good file, one without a face, one that is no video, and one that is none of ours."""
    films, out = tmp_path / "films", tmp_path / "out"
    video(films / "a" / "good.mp4", 12)
    video(films / "wall.mp4", 8, wall)
    (films / "text.mp4").write_bytes(b"Dear diary" * 100)
    (films / "notes.txt").write_text("none of ours")
    options: list[str | Path] = ["data", "prepare", films, "-o", out, "--size", "32", "--frames", "5"]
    options += ["--split", "train"]
    ended = Command(capsys)(*options)
    assert ended.code == 0, ended.err
    assert "train: 2 clips of 5 frames, 1 people" in ended.out
    assert "used 0.4 s of 0.8 s" in ended.out
    assert "no face 0.3 s, too short a rest 0.1 s" in ended.out
    assert "1 files cannot be used" in ended.out
    assert "text.mp4 is not a video" in ended.out
    report = json.loads((out / "report.json").read_bytes())
    files = {entry["file"]: entry for entry in report["files"]}
    assert files["a/good.mp4"]["frames"] == {"used": 10, "too_short": 2}
    assert files["wall.mp4"]["frames"] == {"no_face": 8}
    assert files["text.mp4"]["error"]
    corpus = load_corpus(sorted(out.glob("train-*.tar")), size=32)
    assert (corpus.people, corpus.frames, corpus.known.tolist()) == (2, 5, [False, False])
    assert not list(out.glob("*.part"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("train*")}
    again = Command(capsys)(*options)
    assert (again.code, again.out) == (0, ended.out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("train*")} == before


def test_new_files_are_added(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    before = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    video(films / "carl.mp4")
    report = prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    assert sum(outcome.clips for outcome in report.outcomes) == 4
    after = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert before.items() < after.items()
    assert shards(out)[(set(after) - set(before)).pop()] == ["carl.mp4"]


def test_a_stopped_run_goes_on(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def stop_at_once(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *_rest: object) -> None:
        function(*jobs[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "run_jobs", stop_at_once)
    with pytest.raises(KeyboardInterrupt):
        prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    assert len(shards(out)) == 1
    kept = next(out.glob("*.tar"))
    content = kept.read_bytes()
    (out / "train-video-00001.tar").write_bytes(content)  # as if it had stopped between a shard and its JSON
    monkeypatch.setattr(prepare, "run_jobs", here)
    prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    assert kept.read_bytes() == content
    people = [person for who in shards(out).values() for person in who]
    assert sorted(people) == ["ada/1.mp4", "ada/2.MP4", "bob/deep/er/1.mov"]


def test_people_stay_on_their_side(films: Path, tmp_path: Path) -> None:
    for share, side in ((0.0, "train"), (1.0, "test")):
        out = tmp_path / side
        prepare_videos(films, out, CONFIG, Division(test_share=share, person="^[^/]+"))
        assert {name.split("-")[0] for name in shards(out)} == {side}
        assert {person for who in shards(out).values() for person in who} == {"ada", "bob"}
    video(films / "ada" / "new.mp4")
    with pytest.raises(ConfigError, match="ada would come into training and test"):
        prepare_videos(films, tmp_path / "train", CONFIG, Division("test", person="^[^/]+"))


def test_the_division_is_steady_and_fair() -> None:
    people = [f"person {i}" for i in range(2000)]
    division = Division(test_share=0.2)
    test = {p for p in people if division.split_of(p) == "test"}
    assert 0.17 < len(test) / len(people) < 0.23
    assert test <= {p for p in people if Division(test_share=0.5).split_of(p) == "test"}
    assert Division(person=r"\+(.+?)\+P").person_of("Clip+G0DGRma_p48+P0+C0+F11208-11383.mp4") == "G0DGRma_p48"
    with pytest.raises(ConfigError, match="finds nothing"):
        Division(person="x(y)").person_of("a.mp4")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Division(person="("), "not a regular expression"),
        (lambda: Division(test_share=2), "between 0 and 1"),
        (lambda: Division("both"), "no split 'both'"),  # type: ignore[arg-type]
    ],
)
def test_divisions_that_make_no_sense(make: Callable[[], Division], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_other_numbers_need_another_folder(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_videos(films, out, CONFIG)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="made with size 32; use another folder"):
        prepare_videos(films, out, FootageConfig(size=64, frames=5, clips=2))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_damaged_companions_are_named(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_videos(films, out, CONFIG, Division("train"))
    companion = next(out.glob("train*.json"))
    whole = companion.read_bytes()
    companion.with_suffix(".tar").rename(tmp_path / "away.tar")
    with pytest.raises(InputError, match=f"{companion.stem}.tar is missing; delete {companion.name}"):
        prepare_videos(films, out, CONFIG, Division("train"))
    companion.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{companion.name} is damaged"):
        prepare_videos(films, out, CONFIG, Division("train"))


def test_folders_without_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is not a folder"):
        prepare_videos(tmp_path / "none", tmp_path / "out", CONFIG)
    with pytest.raises(InputError, match="holds no video"):
        prepare_videos(tmp_path, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_nothing_usable_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "run_jobs", here)
    video(tmp_path / "films" / "wall.mp4", 8, wall)
    ended = Command(capsys)("data", "prepare", tmp_path / "films", "-o", tmp_path / "out")
    assert ended.code == 1
    assert "gave no clip at all" in ended.err.splitlines()[-1]
    assert "no face 0.3 s" in ended.out
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_full_disk_keeps_what_is_complete(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (films / "bob/deep/er/1.mov").rename(tmp_path / "later.mov")
    prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "later.mov").rename(films / "later.mov")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="the disk is full"):
            prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    report = prepare_videos(films, out, CONFIG, Division("train"), workers=1)
    assert len({outcome.person for outcome in report.outcomes if outcome.clips}) == 3
    assert os.listdir(out)
