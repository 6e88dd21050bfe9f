from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.evaluation.statistics import correlation, estimate


@given(st.floats(0.1, 10), st.floats(-100, 100), st.integers(0, 1000))
def test_correlation_does_not_see_scale_and_offset(scale: float, offset: float, seed: int) -> None:
    series = np.random.default_rng(seed).normal(size=20)
    assert correlation(series, series * scale + offset) == pytest.approx(1)
    assert correlation(series, -series * scale + offset) == pytest.approx(-1)


def test_correlation_of_what_stands_still_is_unknown() -> None:
    assert math.isnan(correlation(np.zeros(9), np.arange(9.0)))
    assert math.isnan(correlation(np.arange(2.0), np.arange(2.0)))
    with pytest.raises(ValueError, match="one length"):
        correlation(np.arange(3.0), np.arange(4.0))


def test_a_shift_in_time_lowers_it() -> None:
    wave = np.sin(np.arange(100) / 5)
    assert 1 > correlation(wave[3:], wave[:-3]) > correlation(wave[6:], wave[:-6])


def test_the_interval_holds_the_mean_and_narrows_with_more_cases() -> None:
    values = np.random.default_rng(0).normal(5, 1, 200)
    few, many = estimate(values[:10].tolist()), estimate(values.tolist())
    assert few.low < few.mean < few.high
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)
    assert estimate(values.tolist()) == many


def test_equal_values_have_no_spread_and_unknown_ones_do_not_count() -> None:
    assert (estimate([2.0] * 5).low, estimate([2.0] * 5).high) == (2.0, 2.0)
    assert estimate([1.0, float("nan"), 3.0]).count == 2
    assert estimate([1.0, float("nan"), 3.0]).mean == 2.0
    assert math.isnan(estimate([float("nan")]).mean)
    assert estimate([]).count == 0
    alone = estimate([4.0, float("nan")])
    assert (alone.mean, alone.count, math.isnan(alone.low)) == (4.0, 1, True)


def test_the_interval_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).gamma(2.0, 1.0, 25)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, random_state=0
    ).confidence_interval
    ours = estimate(values.tolist(), draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
