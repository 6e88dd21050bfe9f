"""The Frechet distance between two sets of features, of which FVD (on I3D features of clips) is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features (N, D) and (M, D); 0 (equal) upwards, lower is nearer.

    Heusel et al. 2017 (FID), Unterthiner et al. 2018 (FVD); S: covariances with N - 1. NaN for fewer than two rows.
    The trace of the root is that of the symmetric S1^(1/2) S2 S1^(1/2), whose eigenvalues are the same, never complex.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features (N, D) and (M, D) are expected, not {first.shape} and {second.shape}")
    if min(len(first), len(second)) < 2:
        return float("nan")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    spread_a, spread_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(spread_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ spread_b @ root), 0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(apart + np.trace(spread_a) + np.trace(spread_b) - 2 * shared, 0.0))
