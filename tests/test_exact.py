"""Errors against exact motion: made-up trackers whose errors are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from people import made_up
from personalive.data.landmarks import truth_signals
from personalive.data.shards import PersonRecord, ShardError, write_shard
from personalive.errors import InputError
from personalive.evaluation.cases import Case
from personalive.evaluation.exact import (
    Exact,
    course_error,
    exact_figures,
    exact_signals,
    gallery_of,
    load_exact,
    mistaken,
    portrait_identities,
)
from personalive.evaluation.expression import MOVES
from personalive.evaluation.measures import BETTER
from personalive.evaluation.meters import Instruments
from personalive.evaluation.score import score
from personalive.evaluation.yardstick import SIGNALS, unit
from toy_cases import FRAMES, BrightnessReader, frame, video

NOBODY = np.full((4, 3), np.nan)


@pytest.fixture
def person() -> PersonRecord:
    return made_up("a", frames=40)


def case(folder: Path, name: str = "a") -> Case:
    """A rendered person whose output is the driver itself."""
    write_shard(folder / f"{name}.tar", [made_up(name, frames=FRAMES)])
    Image.fromarray(frame(0, colour=(40 * len(name), 60, 220))).save(folder / f"{name}.png")
    clip = video(folder / "videos" / f"{name}.mkv")
    shard = folder / f"{name}.tar"
    return Case(name, clip, clip, folder / f"{name}.png", driver_person=shard, portrait_person=shard)


def test_the_truth_has_no_error(person: PersonRecord) -> None:
    true = exact_signals(person)
    figures = exact_figures(Exact(true, None), true, true + 1, np.zeros((40, 3)), None)
    assert set(figures) <= set(BETTER)
    assert (figures["expression error"], figures["pose error"]) == (0, 0)
    assert figures["expression error, seen"] == pytest.approx(0)  # a course: a constant is no part of it
    assert figures["pose error, seen"] == pytest.approx(1)  # degrees, absolute
    assert all(figures[f"{name} to truth"] == pytest.approx(1) for name in SIGNALS)


def test_signals_are_the_renderers(person: PersonRecord) -> None:
    assert person.truth is not None
    true = exact_signals(person)
    assert np.array_equal(true[:, :4], truth_signals(person.truth.landmarks))
    assert np.array_equal(true[:, 4:], person.truth.angles)
    with pytest.raises(InputError, match="has no ground truth"):
        exact_signals(dataclasses.replace(person, truth=None))


def test_errors_are_in_deviations_and_degrees(person: PersonRecord) -> None:
    true = exact_signals(person)
    made = true.copy()
    made[:, :4] = true[:, :4].mean(0)  # a face that does not move
    made[:, 4:] = true[:, 4:][::-1]
    figures = exact_figures(Exact(true, None), made, true, np.zeros((40, 3)), None)
    wanted = np.mean(np.abs(true[:, :4] - true[:, :4].mean(0)) / true[:, :4].std(0))
    assert figures["expression error"] == pytest.approx(wanted)
    assert 0.6 < wanted < 1
    assert figures["pose error"] == pytest.approx(np.abs(true[:, 4:] - true[::-1, 4:]).mean())
    assert math.isnan(figures["mouth to truth"])  # a signal that stands still has no correlation


def test_what_hardly_moves_and_who_is_not_seen_do_not_count(person: PersonRecord) -> None:
    true = exact_signals(person)
    true[:, 1] = true[:, 1].mean() + MOVES["blink"] / 2 * np.sign(np.arange(40) % 2 - 0.5)
    made = true.copy()
    made[:, 1] = 7 * np.sin(np.arange(40))  # noise on what does not move
    made[:10] = np.nan
    figures = exact_figures(Exact(true, None), made, true, np.zeros((40, 3)), None)
    assert math.isnan(figures["blink to truth"])
    assert figures["expression error"] == pytest.approx(0)
    assert figures["pose error"] == 0
    gone = exact_figures(Exact(true, None), np.full((40, 7), np.nan), true, np.full((40, 3), np.nan), None)
    assert all(math.isnan(value) for name, value in gone.items() if not name.endswith("seen"))
    assert math.isnan(course_error(true[:1, :4], true[:1, :4]))


def test_who_is_it() -> None:
    gallery = unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    seen = unit(np.array([[1.0, 0.2, 0], [0.3, 1, 0], [0.9, 0.5, 0], [0, 0, 1]]))
    assert mistaken(seen, gallery, 0) == 0.5
    assert mistaken(seen, gallery, 2) == 0.75
    assert mistaken(np.concatenate([seen, NOBODY]), gallery, 0) == 0.5
    assert math.isnan(mistaken(NOBODY, gallery, 0))
    hole = gallery.copy()
    hole[1] = np.nan  # a portrait without a face is nobody's nearest
    assert mistaken(seen, hole, 0) == 0.25
    assert math.isnan(mistaken(seen, hole, 1))


def test_from_a_manifests_shards_to_figures(tmp_path: Path) -> None:
    cases, reader = [case(tmp_path), case(tmp_path, "bb")], BrightnessReader()
    gallery = gallery_of([*cases, cases[0], dataclasses.replace(cases[0], portrait_person=None)])
    assert gallery == (tmp_path / "a.png", tmp_path / "bb.png")
    faces = portrait_identities(gallery, reader)
    exact = load_exact(cases[1], gallery, faces)
    assert exact is not None
    assert exact.own == 1
    figures = score(cases[1], Instruments(reader), exact=exact).figures.figures
    assert {"expression error", "pose error, seen", "mistaken identity", "mistaken identity, seen"} <= set(figures)
    crossed = dataclasses.replace(cases[1], cross=True, portrait_person=None)
    figures = score(crossed, Instruments(reader), exact=load_exact(crossed, gallery, faces)).figures.figures
    assert "mistaken identity" not in figures
    assert load_exact(dataclasses.replace(cases[0], driver_person=None, portrait_person=None), gallery, faces) is None


def test_a_shard_of_somebody_else_is_named(tmp_path: Path) -> None:
    one, reader = case(tmp_path), BrightnessReader()
    write_shard(tmp_path / "short.tar", [made_up("short", frames=FRAMES - 1)])
    short = load_exact(dataclasses.replace(one, driver_person=tmp_path / "short.tar"), (), np.zeros((0, 3)))
    with pytest.raises(InputError, match=f"the driver has {FRAMES} frames, its person's shard {FRAMES - 1}"):
        score(one, Instruments(reader), exact=short)
    write_shard(tmp_path / "two.tar", [made_up("c", frames=3), made_up("d", frames=3)])
    with pytest.raises(InputError, match=r"two\.tar holds 2 people"):
        load_exact(dataclasses.replace(one, driver_person=tmp_path / "two.tar"), (), np.zeros((0, 3)))
    with pytest.raises(ShardError):
        load_exact(dataclasses.replace(one, driver_person=tmp_path / "none.tar"), (), np.zeros((0, 3)))
