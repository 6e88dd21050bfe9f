"""Gauss-Newton steps that bring the head mesh's landmarks to where they were seen, for many frames at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.models.face_mesh import CAMERA_DISTANCE, project
from personalive.motion.keypoints import rotation

IDENTITY_WEIGHT = 1.0
"""Weight of a squared standard deviation of identity against a landmark's squared error in expected errors."""
ROBUST = 4.0
"""From so many expected errors on a landmark counts less (Cauchy)."""
POSE_STEPS = (0.5, 0.5, 0.5, 0.01, 0.01, 0.01)
"""Changes of the pose's numbers that are about alike: degrees, logarithm of the scale, picture units."""
DAMPING = 1e-3
SHARES = (1.0, 0.5, 0.25, 0.0)
"""Of a step, the best of which is taken."""


@dataclass(frozen=True)
class FacePose:
    """Heads in F frames: pose (F, 6), angles in degrees, logarithm of the scale, translation; identity (F, I) in
    standard deviations; expression (F, E) in [0, 1].
    """

    pose: Tensor
    identity: Tensor
    expression: Tensor

    @property
    def angles(self) -> Tensor:
        """Pitch, yaw and roll in degrees: (F, 3)."""
        return self.pose[:, :3]

    @property
    def scale(self) -> Tensor:
        """Picture units per cm at the neck pivot: (F, 1)."""
        return self.pose[:, 3:4].exp()

    @property
    def translation(self) -> Tensor:
        """Of the neck pivot in the picture: (F, 2)."""
        return self.pose[:, 4:6]


@dataclass(frozen=True)
class SeenLandmarks:
    """What is fitted to what in F frames: the mesh's landmarks, their places in the pictures, how sure these are.

    mean (F or 1, K, 3) cm; weight (K,); identities (I, K, 3), expressions (E, K, 3) cm; points (F, K, 2) in [-1, 1];
    spread (F, K): expected errors of the points; deviation (E,): how far coefficients may well be from expected ones.
    """

    mean: Tensor
    weight: Tensor
    identities: Tensor
    expressions: Tensor
    points: Tensor
    spread: Tensor
    deviation: Tensor

    def first_pose(self, angles: Tensor) -> Tensor:
        """(F, 6): the given angles (F, 3) in degrees; scale and place by the landmarks' extent."""
        turned = (self.mean @ rotation(angles))[..., :2]  # (F, K, 2)
        middle, centre = turned.mean(1), self.points.mean(1)
        size = (self.points - centre[:, None]).norm(dim=(1, 2)) / (turned - middle[:, None]).norm(dim=(1, 2))
        return torch.cat([angles, size.log()[:, None], centre - size[:, None] * middle], dim=1)

    def placed(self, face: FacePose) -> Tensor:
        """The landmarks (F, K, 3) in the pictures, and their depth in cm."""
        moved = face.identity @ self.identities.flatten(1) + face.expression @ self.expressions.flatten(1)
        shape = self.mean + moved.view(len(moved), -1, 3)
        return project(shape, self.weight, rotation(face.angles), face.scale, face.translation)

    def missing(self, face: FacePose) -> Tensor:
        """How far the points are from there, in expected errors: (F, K * 2)."""
        return ((self.points - self.placed(face)[..., :2]) / self.spread[..., None]).flatten(1)

    def pose_slopes(self, face: FacePose, now: Tensor) -> Tensor:
        """What a POSE_STEPS of each number of the pose changes of what is missing, `now`: (F, K * 2, 6)."""
        steps = torch.diag(face.pose.new_tensor(POSE_STEPS))
        moved = (FacePose(face.pose + step, face.identity, face.expression) for step in steps)
        return torch.stack([now - self.missing(one) for one in moved], dim=2)

    def shape_slopes(self, face: FacePose) -> Tensor:
        """What one of each identity and expression coefficient changes, in expected errors: (F, K * 2, I + E)."""
        placed = self.placed(face)
        nearness = 1 / (1 + placed[..., 2:] / CAMERA_DISTANCE)  # (F, K, 1)
        shapes, share = torch.cat([self.identities, self.expressions]), self.weight[:, None]
        turned = torch.einsum("ekc,fcd->fekd", shapes, rotation(face.angles))
        moved = turned * share + shapes * (1 - share)  # (F, I + E, K, 3)
        away = (placed[..., :2] - face.translation[:, None]) / CAMERA_DISTANCE  # what moves off shrinks to the middle
        scaled = moved[..., :2] * face.scale[:, :, None, None] - moved[..., 2:] * away[:, None]
        return (scaled * (nearness / self.spread[..., None])[:, None]).flatten(2).transpose(1, 2)


def step_pose(seen: SeenLandmarks, face: FacePose) -> FacePose:
    """A step of the pose alone."""
    return _step(seen, face, None)


def step(seen: SeenLandmarks, face: FacePose, expected: Tensor) -> FacePose:
    """A step of pose, identity and expression together, the latter regularised towards `expected` (F, E)."""
    return _step(seen, face, expected)


def _step(seen: SeenLandmarks, face: FacePose, expected: Tensor | None) -> FacePose:
    """As far as it makes things better, robustly (Cauchy); expressions stay in [0, 1]."""
    count = face.identity.shape[1]
    steps = face.pose.new_tensor(POSE_STEPS)
    strength = torch.cat(
        [
            torch.full_like(face.identity, IDENTITY_WEIGHT),
            (seen.deviation**-2).expand_as(face.expression),
        ],
        dim=1,
    )
    middle = torch.cat([torch.zeros_like(face.identity), face.expression if expected is None else expected], dim=1)

    def cost(one: FacePose, missing: Tensor) -> Tensor:
        shape = torch.cat([one.identity, one.expression], dim=1)
        return (ROBUST**2 * (missing / ROBUST).square().log1p()).sum(1) + (strength * (shape - middle).square()).sum(1)

    missing = seen.missing(face)
    sure = 1 / (1 + (missing / ROBUST).square())
    slopes = seen.pose_slopes(face, missing)
    now = torch.zeros_like(face.pose)  # of the pose, as a change
    shape = torch.cat([face.identity, face.expression], dim=1)
    pull, aim = torch.zeros_like(now), torch.zeros_like(now)
    if expected is not None:
        slopes = torch.cat([slopes, seen.shape_slopes(face)], dim=2)
        now, pull, aim = (torch.cat(pair, dim=1) for pair in ((now, shape), (pull, strength), (aim, middle)))
    across = slopes.transpose(1, 2)
    normal = across @ (sure[..., None] * slopes) + torch.diag_embed(pull)
    damping = DAMPING * normal.diagonal(dim1=1, dim2=2)
    normal = normal + torch.diag_embed(damping)
    wanted = (across @ (sure * (missing + (slopes @ now[..., None])[..., 0]))[..., None])[..., 0]
    found = _bounded(normal, wanted + pull * aim + damping * now, len(POSE_STEPS) + count)
    change, target = found[:, : len(POSE_STEPS)] * steps, found[:, len(POSE_STEPS) :]
    tries = []
    for share in SHARES:
        moved = shape if expected is None else shape + share * (target - shape)
        tries.append(FacePose(face.pose + share * change, moved[:, :count], moved[:, count:]))
    costs = torch.stack(
        [cost(one, missing if share == 0 else seen.missing(one)) for share, one in zip(SHARES, tries, strict=True)]
    )
    best, frames = costs.argmin(0), torch.arange(len(missing), device=missing.device)
    pose, identity, expression = (
        torch.stack([getattr(one, name) for one in tries])[best, frames] for name in ("pose", "identity", "expression")
    )
    return FacePose(pose, identity, expression)


def _bounded(normal: Tensor, wanted: Tensor, start: int) -> Tensor:
    """x (F, N) that solves normal x = wanted, from `start` on kept in [0, 1]: who leaves it is held at its end."""
    bounded = torch.arange(wanted.shape[1], device=wanted.device) >= start
    free, solution = torch.ones_like(wanted), torch.zeros_like(wanted)
    for _ in range(4):
        # Who is held has a row of its own that says so: the same system whoever is held, and no look at who that is.
        held = (1 - free) * solution
        own = normal * free[:, :, None] * free[:, None] + torch.diag_embed(1 - free)
        solution = torch.linalg.solve(own, free * (wanted - (normal @ held[..., None])[..., 0]) + held)
        outside = bounded & ((solution < 0) | (solution > 1))
        solution = torch.where(outside, solution.clamp(0, 1), solution)
        free = torch.where(outside, torch.zeros_like(free), free)
    return torch.where(bounded, solution.clamp(0, 1), solution)
