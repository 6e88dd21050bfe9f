"""Plans that two neighbouring people share, so that either can drive the other with exactly known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from personalive.errors import ConfigError
from personalive.rendering.face_model import FloatArray, IntArray
from personalive.rendering.ground_truth import Pose
from personalive.rendering.motion import (
    BROWS,
    MOUTHS,
    blend,
    contrasting_expressions,
    motion_clip,
    near_neutral,
    plausible,
    wide_pose,
)
from personalive.rendering.plans import FPS, Plan

REFERENCES = 2  # the first frames of a pair's plan
TARGETS = 14  # of a reference, of which the flow is stored
UNUSUAL = 0.3  # share of first references that are turned, speak, or close the eyes
LEAST_FRAMES = REFERENCES + 3 + 1


def plan_pair(seed: int, frames: int) -> Plan:
    """Frames that the people 2k and 2k + 1 share: two references, poses with three expressions each, a clip.

    The first two poses, and groups, are those of the references. 40 frames: 2 + 8 x 3 + 14.
    """
    if frames < LEAST_FRAMES:
        raise ConfigError(f"a person of a pair needs at least {LEAST_FRAMES} frames, not {frames}")
    rng = np.random.default_rng([seed // 2, 15])
    poses = max(1, frames // 5)
    clip = frames - REFERENCES - 3 * poses
    first, second = _first_reference(rng), _second_reference(rng)
    held = [first[1], second[1], *(_small_pose(rng) if rng.random() < 0.3 else wide_pose(rng) for _ in range(poses))]
    faces = [first[0][None], second[0][None], contrasting_expressions(rng, poses).reshape(poses * 3, -1)]
    moving, moving_poses = motion_clip(rng, clip, FPS / 2)
    groups = range(1, poses + 1)
    return Plan(
        expression=np.concatenate([*faces, moving]),
        poses=(
            first[1],
            second[1],
            *(pose for pose in held[:poses] for _ in range(3)),
            *(Pose(*map(float, row)) for row in moving_poses),
        ),
        kind=("reference",) * REFERENCES + ("pose",) * (3 * poses) + ("clip",) * clip,
        group=(1, 2, *(group for group in groups for _ in range(3)), *((poses + 1,) * clip)),
    )


def flow_targets(seed: int, plan: Plan) -> IntArray:
    """Frames (REFERENCES, up to TARGETS) whose flow towards each reference is stored, in their order.

    Each reference gets the three other expressions in its own pose, two frames of the clip, and others by chance.
    """
    rng = np.random.default_rng([seed // 2, 16])
    others = np.arange(REFERENCES, len(plan.kind))
    clip = np.flatnonzero(np.array(plan.kind) == "clip")
    count = min(TARGETS, len(others))
    rows = []
    for reference in range(REFERENCES):
        same = [frame for frame in others if plan.poses[frame] == plan.poses[reference]]
        wanted = [*same, *rng.permutation(clip)[:2], *rng.permutation(others)]
        rows.append(list(dict.fromkeys(int(frame) for frame in wanted))[:count])
    return np.sort(np.array(rows, np.int32), axis=1)


def _first_reference(rng: np.random.Generator) -> tuple[FloatArray, Pose]:
    """A portrait: calm and frontal, half of them smiling; or turned, tilted, speaking, with lids closed."""
    face, pose = near_neutral(rng)
    if rng.random() < 0.5:
        face = plausible(face + blend(MOUTHS[1 + int(rng.random() < 0.3)], rng.uniform(0.3, 1.0), rng))
    if rng.random() > UNUSUAL:
        return face, pose
    if rng.random() < 0.6:
        side = rng.choice([-1.0, 1.0])
        pose = replace(
            pose,
            yaw=float(side * rng.uniform(10, 35)),
            pitch=float(rng.normal(0, 7)),
            roll=float(np.clip(rng.normal(0, 8), -20, 20)),
        )
    kind = rng.random()
    if kind < 0.35:
        face = plausible(face + blend({"jawOpen": rng.uniform(0.15, 0.7), "mouthLowerDown": rng.uniform(0, 0.3)}))
    elif kind < 0.65:
        face = plausible(face + blend({"eyeBlink": rng.choice([rng.uniform(0.35, 0.7), 1.0])}))
    elif kind < 0.85:
        face = plausible(face + blend(BROWS[int(rng.integers(1, len(BROWS)))], rng.uniform(0.4, 1.0), rng))
    return face, pose


def _second_reference(rng: np.random.Generator) -> tuple[FloatArray, Pose]:
    """Another expression, in a small or a wide pose."""
    face = contrasting_expressions(rng, 1)[0, int(rng.integers(3))]
    return face, _small_pose(rng) if rng.random() < 0.7 else wide_pose(rng)


def _small_pose(rng: np.random.Generator) -> Pose:
    return Pose(*map(float, rng.normal(0, [6, 10, 5, 0.6, 0.4, 1.5])))
