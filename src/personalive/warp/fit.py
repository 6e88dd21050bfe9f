"""Fitting the morphable head mesh to one portrait: its person's shape, its pose and the expression it already has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.models.face_mesh import CAMERA_DISTANCE, FaceMesh, project
from personalive.motion.keypoints import rotation

POSE_ROUNDS, ROUNDS = 6, 12
"""Steps of the pose alone; steps of everything."""
IDENTITY_WEIGHT = 1.0
"""Weight of a squared standard deviation of identity against a landmark's squared error in expected errors."""
EXPRESSION_DEVIATION = 0.25
"""How far the portrait's expression coefficients may well be from what was expected."""
LEAST_SPREAD = 0.01
"""No landmark is trusted to be closer than this to the truth, in picture units (1/2 of a side is 1)."""
ROBUST = 4.0
"""From so many expected errors on a landmark counts less (Cauchy)."""
POSE_STEPS = (0.5, 0.5, 0.5, 0.01, 0.01, 0.01)
"""Changes of the pose's numbers that are about alike: degrees, logarithm of the scale, picture units."""
DAMPING = 1e-3
REACH = 1.6
"""Distance in cm over which the last displacement of a landmark fades on its surroundings."""
LIDS = (((43, 44), (47, 46)), ((37, 38), (41, 40)))
"""Of the person's left eye (at x > 0), then of the right one: landmarks of the upper lid above those of the lower."""
BLINK_LIMITS = (0.3, 2.5)
"""A blink is made at most so much smaller or larger than the mean head's."""


@dataclass(frozen=True)
class FittedHead:
    """A person's head mesh as a portrait shows it.

    neutral (V, 3) cm: the person without expression; expressions (E, V, 3) cm: what each coefficient adds; expression
    (E,) in [0, 1], blinks perhaps beyond: the portrait's own. rotation (3, 3) for row vectors, scale (1,), translation
    (2,): its pose, see `models.face_mesh.project`. error: median distance of the mesh from the landmarks before the
    last displacement, over the distance of the outer corners of the eyes.
    """

    neutral: Tensor
    expressions: Tensor
    expression: Tensor
    rotation: Tensor
    scale: Tensor
    translation: Tensor
    error: float

    def vertices(self, expression: Tensor) -> Tensor:
        """Vertices (..., V, 3) cm before the pose, with expression coefficients (..., E)."""
        count = self.neutral.shape[0]
        moved = expression @ self.expressions.flatten(1)  # (..., V * 3)
        return self.neutral + moved.view(*expression.shape[:-1], count, 3)


def fit_head(
    mesh: FaceMesh, points: Tensor, spread: Tensor, expected: Tensor | None = None, angles: Tensor | None = None
) -> FittedHead:
    """The mesh fitted to landmarks: points (K, 2) in picture coordinates [-1, 1], spread (K,) their expected errors.

    expected (E,): expression coefficients to stay near where the landmarks do not say otherwise, by default none.
    angles (3,): pitch, yaw, roll in degrees to begin with, by default a head that faces the camera.
    Gauss-Newton steps, of the pose at first and then of pose, identity and expression together, regularised and
    robust, expressions kept in [0, 1]; then the mesh moves smoothly until its landmarks lie where they were seen.
    """
    marks = mesh.landmarks.long()
    seen = _Landmarks(
        mesh.mean[marks],
        mesh.weight[marks],
        mesh.identities(marks),
        mesh.expressions(marks),
        points,
        spread.clamp(min=LEAST_SPREAD),
    )
    prior = points.new_zeros(len(seen.expressions)) if expected is None else expected.clamp(0, 1)
    identity, expression = points.new_zeros(len(seen.identities)), prior.clone()
    pose = _first_pose(seen.mean, points, angles)
    for number in range(POSE_ROUNDS + ROUNDS):
        pose, identity, expression = _better(seen, pose, identity, expression, prior, number < POSE_ROUNDS)
    turn, scale, translation = rotation(pose[:3]), pose[3:4].exp(), pose[4:6]
    fitted = seen.projected(pose, identity, expression)
    missing = points - fitted[:, :2]  # (K, 2)
    apart = (points[36] - points[45]).norm().clamp(min=1e-3)
    error = float(missing.norm(dim=-1).median() / apart)
    neutral = mesh.mean + (identity @ mesh.identities().flatten(1)).view_as(mesh.mean)
    deltas = mesh.expressions()
    posed = neutral + (expression @ deltas.flatten(1)).view_as(neutral)
    magnified = scale / (1 + fitted[:, 2:] / CAMERA_DISTANCE)  # (K, 1)
    in_camera = torch.cat([missing / magnified, torch.zeros_like(magnified)], dim=1)  # cm
    neutral = neutral + _spread_out(posed[marks], in_camera @ turn.T, seen.spread / scale, posed)
    closing = _closing_factors(mesh, neutral, deltas)  # (2,)
    blinks = mesh.blinks.long()
    deltas, expression = deltas.clone(), expression.clone()
    deltas[blinks] *= closing[:, None, None]
    expression[blinks] /= closing  # the portrait's own lids stay where they are
    return FittedHead(neutral, deltas, expression, turn, scale, translation, error)


def _first_pose(mean: Tensor, points: Tensor, angles: Tensor | None) -> Tensor:
    """(6,): angles in degrees, log of the scale, translation; the scale and place by the landmarks' extent."""
    start = points.new_zeros(3) if angles is None else angles
    turned = (mean @ rotation(start))[:, :2]
    size = (points - points.mean(0)).norm() / (turned - turned.mean(0)).norm()
    translation = points.mean(0) - size * turned.mean(0)
    return torch.cat([start, size.log()[None], translation])


@dataclass(frozen=True)
class _Landmarks:
    """What is fitted to what: the mesh's landmarks, their places in the picture, and how sure these are."""

    mean: Tensor  # (K, 3) cm
    weight: Tensor  # (K,)
    identities: Tensor  # (I, K, 3)
    expressions: Tensor  # (E, K, 3)
    points: Tensor  # (K, 2)
    spread: Tensor  # (K,)

    def shape(self, identity: Tensor, expression: Tensor) -> Tensor:
        """The landmarks (K, 3) cm before the pose."""
        moved = identity @ self.identities.flatten(1) + expression @ self.expressions.flatten(1)
        return self.mean + moved.view_as(self.mean)

    def projected(self, pose: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """The landmarks (K, 3) in the picture, and their depth in cm."""
        return project(self.shape(identity, expression), self.weight, rotation(pose[:3]), pose[3:4].exp(), pose[4:6])

    def missing(self, pose: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """How far the points are from there, in expected errors: (K * 2,)."""
        placed = self.projected(pose, identity, expression)[:, :2]
        return ((self.points - placed) / self.spread[:, None]).flatten()

    def pose_slopes(self, pose: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """What a POSE_STEPS of each number of the pose changes, in expected errors: (K * 2, 6)."""
        now, steps = self.missing(pose, identity, expression), torch.diag(pose.new_tensor(POSE_STEPS))
        return torch.stack([now - self.missing(pose + step, identity, expression) for step in steps], dim=1)

    def shape_slopes(self, pose: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """What one of each identity and expression coefficient changes, in expected errors: (K * 2, I + E)."""
        turn, scale = rotation(pose[:3]), pose[3:4].exp()
        placed = self.projected(pose, identity, expression)
        nearness = 1 / (1 + placed[:, 2:] / CAMERA_DISTANCE)  # (K, 1)
        shapes, share = torch.cat([self.identities, self.expressions]), self.weight[:, None]
        moved = (shapes @ turn) * share + shapes * (1 - share)  # (I + E, K, 3)
        away = (placed[:, :2] - pose[4:6]) / CAMERA_DISTANCE  # what moves off shrinks towards the middle
        slopes = (moved[..., :2] * scale - moved[..., 2:] * away) * nearness / self.spread[:, None]
        return slopes.flatten(1).T


def _better(
    seen: _Landmarks, pose: Tensor, identity: Tensor, expression: Tensor, prior: Tensor, pose_only: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One Gauss-Newton step of pose (6,), identity (I,) and expression (E,), as far as it makes things better."""
    steps, count = pose.new_tensor(POSE_STEPS), len(identity)
    strength = torch.cat(
        [torch.ones_like(identity) * IDENTITY_WEIGHT, torch.full_like(prior, EXPRESSION_DEVIATION**-2)]
    )
    centre = torch.cat([torch.zeros_like(identity), prior])

    def cost(pose: Tensor, shape: Tensor) -> Tensor:
        missing = seen.missing(pose, shape[:count], shape[count:])
        return (ROBUST**2 * (missing / ROBUST).square().log1p()).sum() + (strength * (shape - centre).square()).sum()

    shape = torch.cat([identity, expression])
    missing = seen.missing(pose, identity, expression)
    sure = 1 / (1 + (missing / ROBUST).square())
    slopes = seen.pose_slopes(pose, identity, expression)
    now = torch.zeros_like(steps)  # of the pose, as a change
    pull, middle = torch.zeros_like(steps), torch.zeros_like(steps)
    if not pose_only:
        slopes = torch.cat([slopes, seen.shape_slopes(pose, identity, expression)], dim=1)
        now, pull, middle = torch.cat([now, shape]), torch.cat([pull, strength]), torch.cat([middle, centre])
    normal = slopes.T @ (sure[:, None] * slopes) + torch.diag(pull)
    damping = DAMPING * normal.diagonal()
    normal = normal + torch.diag(damping)
    wanted = slopes.T @ (sure * (missing + slopes @ now)) + pull * middle + damping * now
    found = _bounded(normal, wanted, len(steps) + count)
    change, target = found[: len(steps)] * steps, shape if pose_only else found[len(steps) :]
    tries = [(pose + share * change, shape + share * (target - shape)) for share in (1.0, 0.5, 0.25, 0.0)]
    pose, shape = min(tries, key=lambda one: float(cost(*one)))
    return pose, shape[:count], shape[count:]


def _bounded(normal: Tensor, wanted: Tensor, start: int) -> Tensor:
    """x (N,) that solves normal x = wanted, those from `start` on kept in [0, 1]: who leaves it is held at its end."""
    bounded = torch.arange(len(wanted), device=wanted.device) >= start
    free, solution = torch.ones_like(wanted), torch.zeros_like(wanted)
    for _ in range(4):
        # Who is held has a row of its own that says so: the same system whoever is held, and no look at who that is.
        held = (1 - free) * solution
        own = normal * free[:, None] * free + torch.diag(1 - free)
        solution = torch.linalg.solve(own, free * (wanted - normal @ held) + held)
        outside = bounded & ((solution < 0) | (solution > 1))
        solution = torch.where(outside, solution.clamp(0, 1), solution)
        free = torch.where(outside, torch.zeros_like(free), free)
    return torch.where(bounded, solution.clamp(0, 1), solution)


def _spread_out(marks: Tensor, moved: Tensor, spread: Tensor, vertices: Tensor) -> Tensor:
    """Displacements (V, 3) of all vertices from those of the landmarks (K, 3), by an exponential kernel.

    spread (K,) cm: a landmark that is not sure of its place moves its surroundings less.
    """
    own = torch.exp(-torch.cdist(marks, marks) / REACH)
    coefficients = torch.linalg.solve(own + torch.diag((spread / REACH) ** 2 + 0.02), moved)
    moved_all: Tensor = torch.exp(-torch.cdist(vertices, marks) / REACH) @ coefficients
    return moved_all


def _closing_factors(mesh: FaceMesh, neutral: Tensor, deltas: Tensor) -> Tensor:
    """How much larger each blink has to be (2,) to close this person's lids, however far they are open at rest."""
    marks = mesh.landmarks.long()
    factors = []
    for blink, lids in zip(mesh.blinks.tolist(), LIDS, strict=True):
        upper, lower = marks[list(lids[0])], marks[list(lids[1])]
        gap = (neutral[lower, 1] - neutral[upper, 1]).mean()
        closing = (deltas[blink, upper, 1] - deltas[blink, lower, 1]).mean()
        factors.append((gap / closing.clamp(min=1e-3)).clamp(*BLINK_LIMITS))
    return torch.stack(factors)
