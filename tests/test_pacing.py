"""Pacing: even, never early, never far behind; thinning: even and never above the rate. No clock but the given one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.server.pacing import CATCH_UP, LONGEST, SHORTEST, Thinner, pace, spacing
from personalive.server.throughput import HEADROOM, SLOWEST, Throughput

moments = st.floats(0, 1e6)
intervals = st.floats(0.001, 2)
counts = st.integers(1, 8)


def test_chunks_that_come_on_time_make_one_even_row() -> None:
    last, dues = None, []
    for chunk in range(5):
        dues += pace(chunk * 0.4, last, 0.1, 4)
        last = dues[-1]
    assert dues == pytest.approx([i * 0.1 for i in range(20)])


def test_an_early_chunk_waits_its_turn_and_the_wait_is_worked_off() -> None:
    dues = pace(10.0, last=10.1, interval=0.1, count=4)
    assert dues[0] == pytest.approx(10.2)
    assert dues == pytest.approx([10.2, 10.28, 10.36, 10.44])
    last, now, waits = dues[-1], 10.4, []
    for _ in range(6):
        dues = pace(now, last, 0.1, 4)
        waits.append(dues[0] - now)
        last, now = dues[-1], now + 0.4
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] < 0.001


def test_a_late_chunk_starts_at_once() -> None:
    assert pace(20.0, last=10.0, interval=0.1, count=2) == [20.0, 20.1]


@given(moments, st.none() | st.floats(-10, 10), intervals, counts)
def test_laws_of_pacing(now: float, ahead: float | None, interval: float, count: int) -> None:
    last = None if ahead is None else now + ahead
    dues = pace(now, last, interval, count)
    shown = min(max(interval, SHORTEST), LONGEST)
    gaps = [b - a for a, b in itertools.pairwise(dues)]
    assert len(dues) == count
    assert now <= dues[0] <= now + count * shown + 1e-6, "bounded"
    assert all(gap == pytest.approx(gaps[0], abs=1e-6) for gap in gaps), "even"
    assert all(CATCH_UP * shown - 1e-6 <= gap <= shown + 1e-6 for gap in gaps)


@given(st.lists(st.floats(0, 0.5), min_size=2, max_size=200), st.floats(1, 60))
def test_the_thinner_never_takes_more_than_the_rate(gaps: list[float], rate: float) -> None:
    thinner = Thinner()
    times = list(itertools.accumulate(gaps))
    taken = [moment for moment in times if thinner.accept(moment, rate)]
    assert taken[0] == times[0]
    for i, first in enumerate(taken):
        for j in range(i + 1, len(taken)):
            assert j - i <= (taken[j] - first) * rate + 1.5


@pytest.mark.parametrize(("camera", "rate", "expected"), [(30, 10, 10), (30, 13, 13), (10, 30, 10), (30, 29, 29)])
def test_a_camera_is_thinned_to_the_rate(camera: int, rate: float, expected: float) -> None:
    thinner = Thinner()
    taken = sum(thinner.accept(i / camera, rate) for i in range(20 * camera))
    assert taken / 20 == pytest.approx(expected, rel=0.05)


def test_a_burst_after_a_pause_is_not_taken_whole() -> None:
    thinner = Thinner()
    assert thinner.accept(0.0, 10)
    assert [thinner.accept(5.0 + i / 1000, 10) for i in range(5)] == [True, False, False, False, False]


def test_spacing_is_what_can_be_shown() -> None:
    assert spacing([], 0.1) == 0.1
    assert spacing([1.0, 1.1, 1.3], 0.1) == pytest.approx(0.15)
    assert spacing([1.0, 9.0], 0.1) == LONGEST
    assert spacing([1.0, 1.0], 0.1) == SHORTEST


def test_throughput_gives_rates_and_capacity() -> None:
    throughput = Throughput(chunk_frames=4)
    assert throughput.rate(1, 30) == 30
    assert throughput.capacity(10) is None
    throughput.record(0.4, sessions=2)
    assert throughput.chunk_seconds == pytest.approx(0.2)
    assert throughput.rate(1, 30) == pytest.approx(HEADROOM * 20)
    assert throughput.rate(2, 30) == pytest.approx(HEADROOM * 10)
    assert throughput.rate(1000, 30) == SLOWEST
    assert throughput.capacity(8) == 2
    assert throughput.capacity(60) == 1, "one viewer is always let in"
    for _ in range(100):
        throughput.record(1.0, sessions=1)
    assert throughput.rate(1, 30) == pytest.approx(HEADROOM * 4, rel=0.01)
