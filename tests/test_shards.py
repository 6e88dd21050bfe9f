from __future__ import annotations

import dataclasses
import io
import json
import resource
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from people import made_up
from personalive.data.landmarks import box_of_detection, estimate_landmarks, landmarks_of
from personalive.data.shards import GroundTruth, PersonRecord, ShardError, read_shards, read_stored, write_shard
from personalive.errors import OutputError

Member = tuple[str, bytes]


def members(path: Path) -> list[Member]:
    with tarfile.open(path) as archive:
        return [(entry.name, stream.read()) for entry in archive if (stream := archive.extractfile(entry))]


def pack(path: Path, content: list[Member]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in content:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_shard(tmp_path / "good.tar", [made_up("ada"), made_up("bob", truth=False, person="films/bob")])
    return tmp_path / "good.tar"


def test_people_come_back_as_they_were(good: Path) -> None:
    before = [made_up("ada"), made_up("bob", truth=False, person="films/bob")]
    found = list(read_shards([good]))
    assert [(p.name, p.person) for p in found] == [("ada", "ada"), ("bob", "films/bob")]
    for old, new in zip(before, found, strict=True):
        assert new.images.dtype == np.uint8
        assert new.images.shape == old.images.shape
        assert np.abs(new.images.astype(int) - old.images).mean() < 4  # WebP is lossy
        np.testing.assert_array_equal(new.group, old.group)
        np.testing.assert_allclose(new.face_box, old.face_box, atol=2e-6)
        assert new.kind == old.kind
    known, unknown = found[0].truth, found[1].truth
    assert unknown is None
    assert known is not None
    for field in dataclasses.fields(GroundTruth):
        got = getattr(known, field.name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, getattr(before[0].truth, field.name), atol=2e-6, rtol=1e-6)


def test_several_shards_are_read_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "b.tar", [made_up("two")])
    write_shard(tmp_path / "a.tar", [made_up("one")])
    assert [person.name for person in read_shards([tmp_path / "b.tar", str(tmp_path / "a.tar")])] == ["two", "one"]


def test_the_first_format_is_still_read(tmp_path: Path) -> None:
    """Rendered shards of before: a seed for a name, the truth flat beside the rest."""
    write_shard(tmp_path / "new.tar", [made_up("00010007")])
    content = members(tmp_path / "new.tar")
    entries = json.loads(content[-1][1])
    old = {"format": 1, "seed": 10_007, **{key: entries[key] for key in ("frames", "kind", "group", "face_box")}}
    pack(tmp_path / "old.tar", [*content[:-1], (content[-1][0], json.dumps(old | entries["truth"]).encode())])
    new, was = (next(iter(read_shards([tmp_path / f"{name}.tar"]))) for name in ("new", "old"))
    assert (was.name, was.person) == ("00010007", "00010007")
    assert was.truth is not None
    assert new.truth is not None
    np.testing.assert_array_equal(was.truth.landmarks, new.truth.landmarks)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def people() -> Iterator[PersonRecord]:
        yield made_up("ada")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", people())
    assert list(tmp_path.iterdir()) == []


def test_nobody_makes_no_shard(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a.tar", []) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_loses_nothing(good: Path, tmp_path: Path) -> None:
    before = good.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the write itself fails, as on a full disk
    try:
        with pytest.raises(OutputError, match=r"good\.tar cannot be written: the disk is full") as error:
            write_shard(good, [made_up(f"p{i}") for i in range(9)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert good.read_bytes() == before
    assert list(tmp_path.iterdir()) == [good]


def refused(path: Path) -> str:
    with pytest.raises(ShardError) as error:
        list(read_shards([path]))
    text = str(error.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_files_that_are_no_shards(good: Path, tmp_path: Path) -> None:
    assert "not found" in refused(tmp_path / "none.tar")
    (tmp_path / "noise.tar").write_bytes(b"no tar" * 1000)
    assert "no tar file" in refused(tmp_path / "noise.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert "no tar file" in refused(tmp_path / "empty.tar")
    assert "holds nobody" in refused(pack(tmp_path / "nobody.tar", []))


@pytest.mark.parametrize("share", [0.1, 1 / 3, 1.0])
def test_a_shard_cut_anywhere_is_refused(good: Path, tmp_path: Path, share: float) -> None:
    with tarfile.open(good) as archive:
        end = archive.getmembers()[-1].offset_data
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[: int(end * share)])
    assert "damaged" in refused(cut)


def test_a_shard_cut_between_two_people_is_refused(good: Path, tmp_path: Path) -> None:
    with tarfile.open(good) as archive:
        start = next(entry.offset for entry in archive if entry.name.startswith("bob"))
    (tmp_path / "cut.tar").write_bytes(good.read_bytes()[:start])
    assert "cut short" in refused(tmp_path / "cut.tar")


def test_members_that_do_not_belong(good: Path, tmp_path: Path) -> None:
    content = members(good)
    for name in ("README.txt", "ada/000.png", "../ada/000.webp", "ada/x/000.webp"):
        assert f"{name} does not belong there" in refused(pack(tmp_path / "foreign.tar", [(name, b"x"), *content]))
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("ada/000.webp")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        archive.addfile(link)
    refused(tmp_path / "link.tar")


def test_missing_and_mixed_up_members(good: Path, tmp_path: Path) -> None:
    content = members(good)
    target = tmp_path / "bad.tar"
    assert "ends within a person" in refused(pack(target, content[:-1]))
    assert "frames in order" in refused(pack(target, [m for m in content if m[0] != "ada/001.webp"]))
    assert "frames in order" in refused(pack(target, [content[1], content[0], *content[2:]]))
    assert "frames in order" in refused(pack(target, [*content[:3], *content[4:]]))  # ada's pictures, bob's JSON
    broken = [(name, data[: len(data) // 2] if name == "ada/001.webp" else data) for name, data in content]
    assert "ada: its picture 1 cannot be decoded" in refused(pack(target, broken))
    png = io.BytesIO()
    Image.new("RGB", (32, 32)).save(png, "PNG")
    other = [(name, png.getvalue() if name == "ada/001.webp" else data) for name, data in content]
    assert "cannot be decoded" in refused(pack(target, other))


def smaller(path: Path) -> bytes:
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "WEBP")
    return small.getvalue()


def test_pictures_of_different_sizes(good: Path, tmp_path: Path) -> None:
    content = [(name, smaller(good) if name == "ada/002.webp" else data) for name, data in members(good)]
    assert "not square and of one size" in refused(pack(tmp_path / "bad.tar", content))


def change(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda entries: entries.update({key: value})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (change("format", 3), "format 2"),
        (change("name", "eve"), "somebody else"),
        (change("frames", 2), "frames in order"),
        (change("frames", "3"), "frames in order"),
        (change("kind", ["clip"] * 2), "kind of ada"),
        (change("kind", ["clip", "clip", "dance"]), "kind of ada"),
        (change("kind", None), "damaged"),
        (change("face_box", [[0, 0, 1, 1]]), "face_box of ada is not 3x4"),
        (change("face_box", [[0, 0, 1, float("nan")]] * 3), "finite"),
        (change("group", ["a", "b", "c"]), "group of ada is not numbers"),
        (change("mood", "fine"), "wrong entries: mood"),
        (lambda entries: entries.pop("truth"), "wrong entries: truth"),
        (lambda entries: entries["truth"].pop("scale"), "wrong entries: scale"),
        (lambda entries: entries["truth"].update(angles=[[1, 2]] * 3), "angles of ada is not 3x3"),
        (lambda entries: entries["truth"].update(canonical=None), "canonical of ada"),
    ],
)
def test_json_is_read_strictly(good: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], says: str) -> None:
    content = dict(members(good))
    entries = json.loads(content["ada.json"])
    edit(entries)
    content["ada.json"] = json.dumps(entries).encode()
    assert says in refused(pack(tmp_path / "bad.tar", list(content.items())))


def test_json_that_is_none(good: Path, tmp_path: Path) -> None:
    for text in (b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}'):
        content = dict(members(good)) | {"ada.json": text}
        refused(pack(tmp_path / "bad.tar", list(content.items())))


def test_names_that_cannot_be_files_are_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot name files"):
        write_shard(tmp_path / "a.tar", [replace(made_up("ada"), name="films/ada")])
    assert list(tmp_path.iterdir()) == []


def test_stored_people_are_small(good: Path) -> None:
    stored = next(read_stored(good))
    assert sum(map(len, stored.pictures)) < made_up("ada").images.nbytes / 5


# Landmarks


def test_landmarks_are_exact_where_they_are_known() -> None:
    ada = made_up("ada")
    assert ada.truth is not None
    assert landmarks_of(ada) is ada.truth.landmarks


def test_estimated_landmarks_lie_in_the_box_like_a_face() -> None:
    bob = replace(made_up("bob", truth=False), face_box=np.array([[-0.4, -0.2, 0.6, 1.0]] * 3, np.float32))
    points = landmarks_of(bob)
    assert points.shape == (3, 68, 2)
    assert (points.min((0, 1)) > [-0.4, -0.2]).all()
    assert (points.max((0, 1)) < [0.6, 1.0]).all()
    right_eye, left_eye, mouth, chin = (points[0, i:j].mean(0) for i, j in ((36, 42), (42, 48), (48, 68), (8, 9)))
    assert right_eye[0] < mouth[0] < left_eye[0]
    assert right_eye[1] < mouth[1] < chin[1]
    assert (right_eye[0] + left_eye[0]) / 2 == pytest.approx(0.1, abs=1e-3)  # the middle of the box


def test_a_detection_becomes_a_box_around_it() -> None:
    x1, y1, x2, y2 = box_of_detection(0.1, 0.2, 1.0)
    assert x1 == pytest.approx(2 * 0.1 - x2)
    assert y1 < 0.2 - 0.5  # the forehead
    landmarks = estimate_landmarks(np.array([[x1, y1, x2, y2]]))[0]
    assert np.abs(landmarks[36:48].mean(0) - [0.1, 0.05]).max() < 0.15
