"""The rendered benchmark: what its fingerprints see, its manifest, and one person built (that needs OpenGL)."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from people import made_up
from personalive.data.shards import PersonRecord, ShardError, read_shards, write_shard
from personalive.evaluation import rendered
from personalive.evaluation.manifest import read_manifest
from personalive.evaluation.rendered import PEOPLE, check, fingerprint, load_fingerprints, manifest, record, seeds
from toy_video import all_frames

if importlib.util.find_spec("moderngl") is None:
    pytest.skip("moderngl is not installed", allow_module_level=True)


@pytest.fixture
def people(tmp_path: Path) -> list[PersonRecord]:
    """Three made-up people in a benchmark's folder, as their shards give them."""
    (tmp_path / "people").mkdir()
    for name in ("a", "b", "c"):
        write_shard(tmp_path / "people" / f"{name}.tar", [made_up(name, frames=12)])
    return list(read_shards(tmp_path / "people" / f"{name}.tar" for name in ("a", "b", "c")))


def known(people: list[PersonRecord]) -> dict[str, rendered.Fingerprint]:
    return {person.name: fingerprint(person) for person in people}


def test_the_recorded_ones_are_those_of_the_seeds() -> None:
    found = load_fingerprints()
    assert list(found) == [f"{seed:08d}" for seed in seeds()]
    assert len({entry["truth"] for entry in found.values()}) == PEOPLE
    assert len({entry["pixels"] for entry in found.values()}) == PEOPLE


def test_equal_people_are_equal(people: list[PersonRecord], tmp_path: Path) -> None:
    found = check(tmp_path, known(people))
    assert (found.people, found.exact, found.different, found.pixels) == (3, 3, (), 0)
    record(people, tmp_path / "recorded.json")
    assert json.loads((tmp_path / "recorded.json").read_text()) == known(people)


def test_another_truth_or_other_pictures_are_named(people: list[PersonRecord], tmp_path: Path) -> None:
    first, second, third = people
    assert first.truth is not None
    assert third.truth is not None
    turned = dataclasses.replace(first.truth, angles=first.truth.angles + 0.01)
    slight = dataclasses.replace(third.truth, keypoints=third.truth.keypoints + 1e-4)  # another machine's arithmetic
    others = [
        dataclasses.replace(first, truth=turned),
        dataclasses.replace(second, images=(second.images * 0.9).astype(np.uint8)),
        dataclasses.replace(third, truth=slight),
    ]
    found = check(tmp_path, known(others))
    assert found.exact == 1
    assert [line.split(" (")[0] for line in found.different] == ["a: another ground truth", "b: other pictures"]
    assert found.pixels > rendered.PIXEL_TOLERANCE


def test_a_clip_in_another_order_is_another_clip(people: list[PersonRecord], tmp_path: Path) -> None:
    """Mean and deviation would not see it."""
    (first, *_) = people
    assert first.truth is not None
    backwards = dataclasses.replace(first.truth, angles=first.truth.angles[::-1])
    found = check(tmp_path, known([dataclasses.replace(first, truth=backwards)]))
    assert len(found.different) == 1


def test_missing_people_are_named(people: list[PersonRecord], tmp_path: Path) -> None:
    (tmp_path / "people" / "b.tar").unlink()
    with pytest.raises(ShardError, match=r"shard not found: .*b\.tar"):
        check(tmp_path, known(people))
    with pytest.raises(ValueError, match="no ground truth"):
        fingerprint(made_up("x", truth=False))


def test_its_manifest_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for folder, end in (("driving", "mp4"), ("reference", "png"), ("people", "tar")):
        (tmp_path / folder).mkdir()
        for seed in seeds():
            (tmp_path / folder / f"{seed:08d}.{end}").touch()
    (tmp_path / "cases.toml").write_text(manifest())
    for name in ("00900000", "00900029-by-00900000"):
        (tmp_path / "out" / f"{name}.mp4").touch()
    found, problems = read_manifest(tmp_path / "cases.toml", tmp_path / "out")
    assert [(case.name, case.cross) for case in found] == [("00900000", False), ("00900029-by-00900000", True)]
    assert found[1].driving.name == "00900000.mp4"
    people = found[1].portrait_person, found[1].driver_person
    assert [person and person.name for person in people] == ["00900029.tar", "00900000.tar"]
    assert len(problems) == 2 * PEOPLE - 2


def test_long_streams_see_the_same_early_and_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "LONG_FRAMES", 400)
    (tmp_path / "driving").mkdir()
    (tmp_path / "reference").mkdir()
    (tmp_path / "people").mkdir()
    rising = np.stack([np.full((32, 32, 3), 8 * number, np.uint8) for number in range(30)])
    for seed in seeds()[: rendered.LONG_PEOPLE]:
        rendered.write_video(tmp_path / "driving" / f"{seed:08d}.mp4", rising)
        (tmp_path / "reference" / f"{seed:08d}.png").touch()
        (tmp_path / "people" / f"{seed:08d}.tar").touch()
        rendered._write_long(tmp_path, seed)
    (tmp_path / "long.toml").write_text(rendered.long_manifest())
    cases, problems = read_manifest(tmp_path / "long.toml", planned=tmp_path)
    assert (len(cases), problems) == (rendered.LONG_PEOPLE, [])
    assert cases[0].portrait_person is not None  # identity is told of rendered people only
    means = np.array([frame.pixels.mean() for frame in all_frames(cases[0].driving)])
    assert len(means) == 400
    assert abs(means[100:200] - means[300:]).max() < 2
    assert means.std() > 30
    assert abs(np.diff(means)).max() < 12  # no jump


def test_one_person_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the toy head, and a few frames."""
    from personalive.rendering.face_model import save_face_model
    from personalive.rendering.renderer import RenderingUnavailableError
    from toy_head import toy_face_model

    save_face_model(toy_face_model(), tmp_path / "head.npz")
    for name in ("people", "driving", "reference"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(rendered, "FRAMES", 5)
    monkeypatch.setattr(rendered, "SIDE", 64)
    seed = seeds()[0]
    assert not rendered._finished(tmp_path, seed)
    try:
        rendered._render(tmp_path / "head.npz", tmp_path, seed)
    except RenderingUnavailableError as error:
        pytest.skip(str(error))
    assert rendered._finished(tmp_path, seed)
    ((person, *none), name) = list(read_shards([tmp_path / "people" / f"{seed:08d}.tar"])), f"{seed:08d}"
    assert (none, person.name, person.images.shape) == ([], name, (5, 64, 64, 3))
    assert check(tmp_path, known([person])).exact == 1
