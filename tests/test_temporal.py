"""Videos with known change: still, moving alike, jittering, shuffled."""

from __future__ import annotations

import math

import numpy as np
import pytest

from personalive.evaluation.temporal import TemporalMeter, compare, ping_pong
from personalive.media.frames import Pixels


def ramp(frames: int, step: int, side: int = 16) -> Pixels:
    """Flat pictures that get brighter by `step` levels a frame."""
    return np.stack([np.full((side, side, 3), 20 + step * i, np.uint8) for i in range(frames)])


def test_the_true_video_itself_is_perfect() -> None:
    video = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    figures = compare(video, video)
    assert (figures.error, figures.change_ratio, figures.flicker_ratio) == (0.0, 1.0, 1.0)


def test_a_constant_offset_changes_nothing() -> None:
    assert compare(ramp(8, 3) + 50, ramp(8, 3)).error == pytest.approx(0, abs=1e-7)


def test_known_steps_have_known_values() -> None:
    """Flat pictures: every scale of the distance sees the same difference."""
    figures = compare(ramp(8, 6), ramp(8, 2))
    assert figures.error == pytest.approx(4 / 255, rel=1e-4)
    assert figures.change_ratio == pytest.approx(3, rel=1e-4)
    assert math.isnan(figures.flicker_ratio) or figures.flicker_ratio < 1e4  # a steady ramp does not bend


def test_a_still_output_is_dull_and_a_jittering_one_restless() -> None:
    rng = np.random.default_rng(1)
    true = np.clip(ramp(12, 4).astype(int) + rng.integers(0, 4, (12, 16, 16, 3)), 0, 255).astype(np.uint8)
    still = np.broadcast_to(true[:1], true.shape)
    jitter = np.clip(true.astype(int) + rng.integers(-40, 41, true.shape), 0, 255).astype(np.uint8)
    assert compare(still, true).change_ratio == 0
    assert compare(still, true).flicker_ratio == 0
    assert compare(jitter, true).change_ratio > 1.3
    assert compare(jitter, true).flicker_ratio > 3
    assert compare(true[::-1], true).change_ratio == pytest.approx(1, rel=1e-5)


def test_frame_by_frame_is_the_same_and_holds_three_frames() -> None:
    video, other = np.random.default_rng(2).integers(0, 256, (2, 9, 16, 16, 3), dtype=np.uint8)
    meter = TemporalMeter()
    for pair in zip(video, other, strict=True):
        meter.add(*pair)
        assert len(meter._frames) <= 3
    assert meter.figures() == compare(video, other)


def test_too_short_is_not_measured_and_sizes_must_agree() -> None:
    assert math.isnan(compare(ramp(2, 1), ramp(2, 1)).error)
    with pytest.raises(ValueError, match="one size"):
        compare(ramp(3, 1), ramp(3, 1, side=8))


def test_to_and_fro_has_no_jump_and_repeats() -> None:
    order = ping_pong(4, 20)
    assert order[:10].tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1]
    assert np.abs(np.diff(order)).max() == 1
    assert (order[8:] == order[:-8]).all()
