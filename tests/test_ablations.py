"""The ablations: their overrides exist, and crossings of made-up systems have the figures they must have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from people import made_up
from personalive.config import MINI, override
from personalive.data.shards import PersonRecord
from personalive.evaluation.ablations import ABLATIONS, MEASURES, Ablation, crossed
from personalive.evaluation.yardstick import Reading, unit
from personalive.media.frames import Pixels
from personalive.training.recipe import load_recipe


class RowReader:
    """Reads signals from the brightness of the first rows, identity from the mean colour; black is nobody."""

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        rows = frames[:, :7].mean((2, 3))
        return Reading(rows, unit(frames.mean((1, 2)) - 128)) if frames.any() else None


def people() -> list[PersonRecord]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (3, 20, 32, 32, 3), np.uint8)
    return [dataclasses.replace(made_up(f"person {i}", 20), images=noise[i]) for i in range(3)]


def perfect(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from driving


def still(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from (portrait for _ in driving)


def nobody(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from (frame * 0 for frame in driving)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_every_ablation_changes_what_it_names(ablation: Ablation) -> None:
    config, recipe = override(MINI, ablation.config), load_recipe(None, ablation.recipe)
    changed = (config != MINI, recipe != load_recipe(None))
    assert changed == (bool(ablation.config), bool(ablation.recipe))
    assert any(changed) == (ablation.name != "full")
    assert set(ablation.paper) == set(MEASURES)


def test_one_who_shows_the_driver_itself_moves_perfectly_and_is_nobody_of_the_portrait() -> None:
    for figures in crossed(perfect, people(), RowReader(), frames=30):
        assert (figures.expression, figures.pose, figures.temporal) == (0, 0, 0)
        assert figures.identity < 0.999
        assert figures.portrait != figures.driver


def test_one_who_shows_the_portrait_is_the_portrait_and_does_not_move() -> None:
    for figures in crossed(still, people(), RowReader(), frames=30):
        assert figures.identity == pytest.approx(1)
        assert 0.5 < figures.expression < 1.5  # the mean distance from the mean, in deviations
        assert figures.pose > 0
        assert figures.temporal > 0


def test_of_real_people_no_identity_is_told() -> None:
    real = [dataclasses.replace(person, truth=None) for person in people()]
    for figures in crossed(still, real, RowReader(), frames=30):
        assert math.isnan(figures.identity)
        assert figures.pose > 0


def test_where_no_face_is_found_nothing_is_measured() -> None:
    for figures in crossed(nobody, people(), RowReader(), frames=30):
        assert all(math.isnan(value) for value in (figures.identity, figures.expression, figures.pose))
