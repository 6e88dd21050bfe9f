from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from personalive.rendering.shards import PersonRecord, ShardError, read_shards, write_shard


def record(seed: int, frames: int = 3, side: int = 32) -> PersonRecord:
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 200, side)[None, :, None, None]
    images = np.broadcast_to(rows + np.arange(3) * 20, (frames, side, side, 3)).astype(np.uint8)

    def draw(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.random(shape).astype(np.float32)

    return PersonRecord(
        seed=seed,
        images=images,
        expression=draw(frames, 53),
        angles=draw(frames, 3) * 40,
        scale=draw(frames),
        translation=draw(frames, 2),
        canonical=draw(21, 3),
        keypoints=draw(frames, 21, 2),
        landmarks=draw(frames, 68, 2),
        face_box=draw(frames, 4),
        group=np.arange(frames, dtype=np.int32),
        kind=("reference", "pose", "clip")[:frames],
    )


def test_people_come_back_as_they_were(tmp_path: Path) -> None:
    people = [record(5), record(6, frames=2)]
    write_shard(tmp_path / "a.tar", people)
    found = list(read_shards([tmp_path / "a.tar"]))
    assert [person.seed for person in found] == [5, 6]
    for before, after in zip(people, found, strict=True):
        assert after.images.dtype == np.uint8
        assert after.images.shape == before.images.shape
        assert np.abs(after.images.astype(int) - before.images).mean() < 4  # WebP is lossy
        for field in (
            "expression",
            "angles",
            "scale",
            "translation",
            "canonical",
            "keypoints",
            "landmarks",
            "face_box",
        ):
            got = getattr(after, field)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, getattr(before, field), atol=2e-6, rtol=1e-6)
        np.testing.assert_array_equal(after.group, before.group)
        assert after.kind == before.kind


def test_several_shards_are_read_in_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "b.tar", [record(2)])
    write_shard(tmp_path / "a.tar", [record(1)])
    assert [person.seed for person in read_shards([tmp_path / "b.tar", str(tmp_path / "a.tar")])] == [2, 1]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def people() -> object:
        yield record(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", people())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path: Path) -> None:
    good = tmp_path / "good.tar"
    write_shard(good, [record(1), record(2)])
    with pytest.raises(ShardError, match="not found"):
        list(read_shards([tmp_path / "none.tar"]))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 3])
    with pytest.raises(ShardError, match=r"cut\.tar is damaged"):
        list(read_shards([cut]))
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"no tar" * 1000)
    with pytest.raises(ShardError, match="damaged"):
        list(read_shards([noise]))
    headless = tmp_path / "headless.tar"
    with tarfile.open(good) as source, tarfile.open(headless, "w") as target:
        for entry in source:
            if not entry.name.endswith(".json"):
                target.addfile(entry, source.extractfile(entry))
    with pytest.raises(ShardError, match="ends within a person"):
        list(read_shards([headless]))
    gap = tmp_path / "gap.tar"
    with tarfile.open(good) as source, tarfile.open(gap, "w") as target:
        for entry in source:
            if not entry.name.endswith("001.webp"):
                target.addfile(entry, source.extractfile(entry))
    with pytest.raises(ShardError, match="damaged"):
        list(read_shards([gap]))
