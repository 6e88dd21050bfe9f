"""What a renderer knows of a person's geometry, in shards: kept, optional, and read strictly."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from people import made_up
from personalive.data.geometry import FlowTruth, HeadTruth, pack_geometry, pixel_grid, unpack_geometry
from personalive.data.shards import ShardError, read_shards, write_shard

FRAMES, SIDE, LANDMARKS = 3, 32, 70


def head() -> HeadTruth:
    rng = np.random.default_rng(0)
    return HeadTruth(
        identity=rng.normal(0, 1, 100).astype(np.float32),
        camera=np.array([20.0, 1.6, 82.0], np.float32),
        pose=rng.normal(0, 9, (FRAMES, 6)).astype(np.float32),
        dense=rng.uniform(-1, 1, (FRAMES, LANDMARKS, 2)).astype(np.float32),
        dense_visible=rng.random((FRAMES, LANDMARKS)) < 0.5,
    )


def flows() -> FlowTruth:
    rng = np.random.default_rng(1)
    half = SIDE // 2
    return FlowTruth(
        references=np.array([0, 1], np.int32),
        targets=np.array([[1, 2], [0, 2]], np.int32),
        flow=(pixel_grid(half) + rng.normal(0, 0.1, (2, 2, half, half, 2))).astype(np.float32),
        visible=rng.random((2, 2, SIDE, SIDE)) < 0.5,
        part=rng.integers(0, 9, (2, 2, SIDE, SIDE)).astype(np.uint8),
        reference_part=rng.integers(0, 9, (2, SIDE, SIDE)).astype(np.uint8),
    )


@pytest.mark.parametrize(("with_head", "with_flows"), [(True, True), (True, False), (False, True), (False, False)])
def test_geometry_comes_back_as_it_was(tmp_path: Path, with_head: bool, with_flows: bool) -> None:
    before = replace(made_up("ada"), head=head() if with_head else None, flows=flows() if with_flows else None)
    write_shard(tmp_path / "a.tar", [before, made_up("bob", truth=False)])
    ada, bob = read_shards([tmp_path / "a.tar"])
    assert bob.head is None
    assert bob.flows is None
    for was, now in ((before.head, ada.head), (before.flows, ada.flows)):
        assert (was is None) == (now is None)
        for field in fields(was) if was is not None else ():
            old, new = getattr(was, field.name), getattr(now, field.name)
            assert new.dtype == old.dtype
            np.testing.assert_allclose(new, old, atol=3e-4 if field.name == "flow" else 0)


def packed(**changed: NDArray[Any] | None) -> bytes:
    """The file of head and flows with arrays changed, added, or left out (None)."""
    whole = pack_geometry(head(), flows())
    assert whole is not None
    with np.load(io.BytesIO(whole.content)) as stored:
        arrays = {name: stored[name] for name in stored.files} | changed
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file.getvalue()


NAMES = ["camera", "dense", "dense_visible", "identity", "pose"]
ALL = sorted([*NAMES, "displacement", "part", "reference_part", "references", "targets", "visible"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pose": None}, "not whole"),
        ({"mood": np.zeros(3)}, "not whole"),
        ({"camera": np.zeros(2, np.float32)}, "camera is not 3"),
        ({"camera": np.zeros(3)}, "camera is not 3 of float32"),
        ({"camera": np.full(3, np.nan, np.float32)}, "camera is not finite"),
        ({"dense": np.zeros((4, LANDMARKS, 2), np.float32)}, "dense is not 3x70x2"),
        ({"dense_visible": np.zeros((3, 8), np.uint8)}, "dense_visible is not 3x9"),
        ({"targets": np.array([[1, 3], [0, 2]], np.int32)}, "targets names frames that are not there"),
        ({"displacement": np.zeros((2, 2, 8, 8, 2), np.float16)}, "displacement is not 2x2x16x16x2"),
        ({"part": np.zeros((2, 2, 16, 16), np.uint8)}, "part is not 2x2x32x32"),
    ],
)
def test_arrays_are_read_strictly(changed: dict[str, NDArray[Any] | None], says: str) -> None:
    content = packed(**changed)
    with np.load(io.BytesIO(content)) as stored:
        names = sorted(stored.files)
    with pytest.raises(ValueError, match=says):
        unpack_geometry(content, names, FRAMES, SIDE)


def test_what_is_no_arrays_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        unpack_geometry(b"PK noise", ALL, FRAMES, SIDE)
    with pytest.raises(ValueError, match="not whole"):
        unpack_geometry(packed(), NAMES, FRAMES, SIDE)
    objects = packed(camera=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        unpack_geometry(objects, ALL, FRAMES, SIDE)


def test_a_shard_whose_arrays_are_missing_or_misplaced_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [replace(made_up("ada"), head=head())])
    with tarfile.open(tmp_path / "a.tar") as archive:
        content = {entry.name: stream.read() for entry in archive if (stream := archive.extractfile(entry))}
    entries = json.loads(content["ada.json"])
    unnamed = json.dumps({name: value for name, value in entries.items() if name != "arrays"}).encode()
    without = {name: data for name, data in content.items() if name != "ada.npz"}
    renamed = {name.replace("ada.npz", "eve.npz"): data for name, data in content.items()}
    first = {"ada.npz": content["ada.npz"], **content}
    damaged = content | {"ada.npz": content["ada.npz"][:300]}
    for case in (without, renamed, first, damaged, content | {"ada.json": unnamed}):
        path = tmp_path / "bad.tar"
        with tarfile.open(path, "w") as archive:
            for name, data in case.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        with pytest.raises(ShardError, match=r"bad\.tar is damaged"):
            list(read_shards([path]))
