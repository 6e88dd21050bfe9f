"""The Frechet distance on Gaussians, for which it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.evaluation.frechet import frechet_distance


def gaussian(mean: list[float], deviations: list[float], rows: int = 200, seed: int = 0) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these (a diagonal one)."""
    noise = np.random.default_rng(seed).normal(size=(rows, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return np.asarray(white * deviations + mean)


def test_of_known_gaussians() -> None:
    # |m1 - m2|^2 + sum (s1 - s2)^2, where covariances are diagonal
    first, second = gaussian([0, 0, 1], [1, 2, 3]), gaussian([3, 4, 1], [1, 5, 1], seed=1)
    assert frechet_distance(first, second) == pytest.approx(25 + 9 + 4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_turning_both_changes_nothing_and_turning_one_does() -> None:
    first, second = gaussian([0, 0], [1, 4]), gaussian([0, 0], [1, 4], seed=1)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first @ turn, second) == pytest.approx(2 * 9)


def test_agrees_with_the_root_of_the_product() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(40, 6)) + 1
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(first, second) == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 20), st.integers(0, 99))
def test_a_distance(rows: int, others: int, width: int, seed: int) -> None:
    """Also where covariances are singular: fewer clips than features."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(rows, width)), rng.normal(size=(others, width))
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-4, abs=1e-5)


def test_too_little() -> None:
    assert math.isnan(frechet_distance(np.ones((1, 3)), np.ones((5, 3))))
    with pytest.raises(ValueError, match="expected"):
        frechet_distance(np.ones((4, 3)), np.ones((4, 2)))
