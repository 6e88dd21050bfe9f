"""Many cases: kept, taken up again, on several processes, and the bad ones by choice."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from personalive.errors import InputError, WeightsError
from personalive.evaluation import many
from personalive.evaluation.cases import Case, find_cases
from personalive.evaluation.many import key_of, load, measure_all
from personalive.evaluation.networks import NetworkFiles
from toy_cases import make_folders, video


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    folders = make_folders(tmp_path)
    video(folders[0] / "b.mkv", delay=1)
    video(folders[1] / "b.mkv")
    return find_cases(folders[0], folders[1], folders[2] / "a.png")[0]


def test_what_is_finished_is_kept(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    first, problems = measure_all(cases, NetworkFiles(), tmp_path / "kept", max_frames=9, done=counts.append)
    assert (problems, counts) == ([], [1, 2])
    assert [case.kept for case in first] == [False, False]
    assert all(case.strip()[:2] == b"\xff\xd8" and case.clip()[:4] == b"\x1a\x45\xdf\xa3" for case in first)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(many, "score", never)
        again, _ = measure_all(cases, NetworkFiles(), tmp_path / "kept", max_frames=9)
    assert [case.kept for case in again] == [True, True]
    assert repr([case.scored.figures for case in again]) == repr([case.scored.figures for case in first])
    video(cases[1].generated, delay=2)
    changed, _ = measure_all(cases, NetworkFiles(), tmp_path / "kept", max_frames=9)
    assert [case.kept for case in changed] == [True, False]


def test_figures_follow_from_everything_in_the_key(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases[0]
    others = [
        key_of(case, NetworkFiles(), 9),
        key_of(cases[1], NetworkFiles(), None),
        key_of(dataclasses.replace(case, cross=True), NetworkFiles(), None),
        key_of(dataclasses.replace(case, truth=case.driving), NetworkFiles(), None),
        key_of(case, NetworkFiles(lpips="alex"), None),
    ]
    monkeypatch.setattr(many, "VERSION", -1)
    others.append(key_of(case, NetworkFiles(), None))
    monkeypatch.undo()
    assert len({key_of(case, NetworkFiles(), None), *others}) == 1 + len(others)
    assert key_of(case, NetworkFiles(), None) == key_of(case, NetworkFiles(), None)


def test_several_processes_give_the_same(cases: list[Case], tmp_path: Path) -> None:
    bad = dataclasses.replace(cases[0], name="bad", driving=cases[0].reference)
    counts: list[int] = []
    some = [cases[0], bad, cases[1]]
    found, problems = measure_all(
        some, NetworkFiles(), tmp_path / "two", max_frames=9, workers=2, skip_bad=True, done=counts.append
    )
    alone, _ = measure_all(cases, NetworkFiles(), tmp_path / "one", max_frames=9)
    # Where and when they were taken differs: the machine was more or less busy.
    ours, theirs = ([dataclasses.replace(c.scored.figures, source={}) for c in cases] for cases in (found, alone))
    assert repr(ours) == repr(theirs)
    assert len(problems) == 1
    assert problems[0].startswith("bad: ")
    assert counts == [1, 2, 3]


def test_a_bad_case_stops_by_default_and_leaves_what_is_done(cases: list[Case], tmp_path: Path) -> None:
    bad = dataclasses.replace(cases[0], name="bad", driving=tmp_path / "none.mp4")
    with pytest.raises(InputError, match=r"bad: .*none.mp4 cannot be read"):
        measure_all([cases[0], bad, cases[1]], NetworkFiles(), tmp_path / "kept", max_frames=9)
    assert len(list((tmp_path / "kept").iterdir())) == 1  # and nothing half-written
    with pytest.raises(WeightsError, match=r"no-network\.pt cannot be read"):
        measure_all(cases, NetworkFiles(video=tmp_path / "no-network.pt"), tmp_path / "kept")


def test_a_damaged_one_is_named(cases: list[Case], tmp_path: Path) -> None:
    ((done, _), _) = measure_all(cases, NetworkFiles(), tmp_path / "kept", max_frames=9)
    (done.folder / "figures.json").write_text('{"name": "a"}')
    with pytest.raises(InputError, match="is not a finished case; delete it"):
        load(done.folder)
    shutil.rmtree(done.folder)
    assert measure_all(cases, NetworkFiles(), tmp_path / "kept", max_frames=9)[0][0].kept is False
