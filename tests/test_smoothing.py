"""Smoothing of a driver's motion: nothing at strength 0, less tremble and more lag above."""

from __future__ import annotations

import pytest
import torch

from personalive.contracts import HeadMotion
from personalive.motion.signals import Observation
from personalive.motion.smoothing import Smoother


def seen(values: list[float]) -> Observation:
    """Frames in which every part of the pose, and every token, has one value."""
    column = torch.tensor(values)[:, None]
    head = HeadMotion(column[:, :, None].expand(-1, 21, 3), column.expand(-1, 3), column.expand(-1, 3), column)
    return Observation(head, column[:, :, None].expand(-1, 4, 8))


def test_strength_zero_changes_nothing() -> None:
    frames = seen([0.0, 1.0, 5.0])
    assert Smoother().smooth(frames, 0.0) is frames


@pytest.mark.parametrize("strength", [0.2, 0.6, 1.0])
def test_a_step_is_followed_without_overshoot_and_lag_grows_with_strength(strength: float) -> None:
    smoother = Smoother()
    smoother.smooth(seen([0.0]), strength)
    rows = smoother.smooth(seen([1.0] * 20), strength).motion[:, 0, 0]
    assert rows.tolist() == sorted(rows.tolist())
    assert 0 < rows[0] == pytest.approx(1 - 0.9 * strength)
    assert rows[-1] <= 1


def test_grouping_does_not_matter_and_pose_is_smoothed_like_tokens() -> None:
    values = [0.0, 3.0, -1.0, 2.0, 2.0]
    whole = Smoother().smooth(seen(values), 0.5)
    smoother = Smoother()
    parts = [smoother.smooth(seen(part), 0.5) for part in (values[:1], values[1:4], values[4:])]
    assert torch.equal(whole.motion, torch.cat([part.motion for part in parts]))
    for part in (whole.head.angles, whole.head.translation, whole.head.scale):
        assert torch.allclose(part[:, 0], whole.motion[:, 0, 0])
