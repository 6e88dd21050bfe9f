"""Plans that two neighbouring people share."""

from __future__ import annotations

import numpy as np
import pytest

from personalive.errors import ConfigError
from personalive.rendering.motion import EXPRESSIONS
from personalive.rendering.pairs import REFERENCES, TARGETS, flow_targets, plan_pair

JAW, BLINK = EXPRESSIONS.index("jawOpen"), EXPRESSIONS.index("eyeBlink_L")


def test_neighbours_share_their_plan() -> None:
    one, other, stranger = (plan_pair(seed, 40) for seed in (100_000, 100_001, 100_002))
    np.testing.assert_array_equal(one.expression, other.expression)
    assert one.poses == other.poses
    assert one.poses != stranger.poses
    np.testing.assert_array_equal(flow_targets(100_000, one), flow_targets(100_001, other))


def test_frames_have_their_kinds_and_groups() -> None:
    plan = plan_pair(100_000, 40)
    assert plan.kind == ("reference",) * 2 + ("pose",) * 24 + ("clip",) * 14
    assert plan.expression.shape == (40, 53)
    for group in set(plan.group[:26]):
        assert len({pose for pose, of in zip(plan.poses, plan.group, strict=True) if of == group}) == 1
    assert plan.group[:2] == (1, 2)
    assert plan.poses[2] == plan.poses[0]
    assert plan.poses[5] == plan.poses[1]
    assert len(plan_pair(7, 6).poses) == 6
    with pytest.raises(ConfigError, match="at least 6 frames"):
        plan_pair(7, 5)


def test_flow_is_stored_of_the_same_pose_and_of_others() -> None:
    plan = plan_pair(100_000, 40)
    targets = flow_targets(100_000, plan)
    assert targets.shape == (REFERENCES, TARGETS)
    for reference, row in enumerate(targets):
        assert len(set(row)) == TARGETS
        assert min(row) >= REFERENCES
        assert sum(plan.poses[frame] == plan.poses[reference] for frame in row) == 3
        assert {"pose", "clip"} == {plan.kind[frame] for frame in row}
    assert flow_targets(1, plan_pair(1, 6)).shape == (REFERENCES, 4)


def test_most_first_references_are_calm_portraits() -> None:
    plans = [plan_pair(2 * number, 6) for number in range(200)]
    yaw = np.array([abs(plan.poses[0].yaw) for plan in plans])
    closed = np.array([plan.expression[0, BLINK] for plan in plans]) > 0.3
    speaking = np.array([plan.expression[0, JAW] for plan in plans]) > 0.14
    assert 0.08 < (yaw > 12).mean() < 0.3
    assert yaw.max() < 36
    assert 0.03 < closed.mean() < 0.2
    assert 0.03 < speaking.mean() < 0.25
    second = np.array([abs(plan.poses[1].yaw) for plan in plans])
    assert second.max() > 36
