"""What is rendered of each person: expressions, poses, and what each frame is for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from personalive.errors import ConfigError
from personalive.rendering.face_model import FloatArray
from personalive.rendering.ground_truth import Pose
from personalive.rendering.motion import contrasting_expressions, motion_clip, near_neutral, wide_pose

FPS = 25.0


@dataclass(frozen=True)
class Plan:
    """The frames of a person: expressions, poses, and what each frame is for."""

    expression: FloatArray  # (F, 53)
    poses: tuple[Pose, ...]
    kind: tuple[str, ...]
    group: tuple[int, ...]


def plan_person(seed: int, frames: int) -> Plan:
    """A reference, then three fifths of poses with three expressions each, the rest a clip at every second frame.

    40 frames: 1 + 8 x 3 + 15.
    """
    if frames < 4:
        raise ConfigError(f"a person needs at least 4 frames, not {frames}")
    rng = np.random.default_rng([seed, 6])
    poses = frames // 5
    clip = frames - 1 - 3 * poses
    calm, calm_pose = near_neutral(rng)
    faces = [calm[None]]
    pose_list = [calm_pose]
    if poses:
        faces.append(contrasting_expressions(rng, poses).reshape(poses * 3, -1))  # (poses, 3, 53) -> (frames, 53)
        pose_list += [pose for pose in (wide_pose(rng) for _ in range(poses)) for _ in range(3)]
    moving, moving_poses = motion_clip(rng, clip, FPS / 2)
    faces.append(moving)
    pose_list += [Pose(*map(float, row)) for row in moving_poses]
    return Plan(
        expression=np.concatenate(faces),
        poses=tuple(pose_list),
        kind=("reference",) + ("pose",) * (3 * poses) + ("clip",) * clip,
        group=(0, *(1 + place // 3 for place in range(3 * poses)), *((poses + 1,) * clip)),
    )


def plan_clip(clip_seed: int, frames: int, fps: float = FPS, liveliness: float = 1.0) -> Plan:
    """One smooth clip that starts near neutral and frontal."""
    rng = np.random.default_rng([clip_seed, 7])
    faces, poses = motion_clip(rng, frames, fps, from_neutral=True, liveliness=liveliness)
    return Plan(faces, tuple(Pose(*map(float, row)) for row in poses), ("clip",) * frames, (0,) * frames)


def plan_expression(seed: int, frames: int) -> Plan:
    """A clip in which only the face moves: the head is held in a calm pose."""
    clip, (_, pose) = plan_clip(seed, frames), near_neutral(np.random.default_rng([seed, 9]))
    return replace(clip, poses=(pose,) * frames)
