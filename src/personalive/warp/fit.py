"""Fitting the morphable head mesh to one portrait: its person's shape, its pose and the expression it already has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.models.face_mesh import CAMERA_DISTANCE, FaceMesh, project
from personalive.motion.keypoints import rotation

ROUNDS = 12
IDENTITY_WEIGHT = 1.0
"""Weight of a squared standard deviation of identity against a landmark's squared error in expected errors."""
EXPRESSION_DEVIATION = 0.25
"""How far the portrait's expression coefficients may well be from what was expected."""
LEAST_SPREAD = 0.01
"""No landmark is trusted to be closer than this to the truth, in picture units (1/2 of a side is 1)."""
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
    (E,) in [0, 1]: the portrait's own. rotation (3, 3) for row vectors, scale (1,), translation (2,): its pose, see
    `models.face_mesh.project`. error: median distance of the mesh from the landmarks before the last displacement, over
    the distance of the outer corners of the eyes.
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
    Alternates the pose (Gauss-Newton) with identity and expression (regularised linear least squares, expressions
    kept in [0, 1]); then moves the mesh smoothly until its landmarks lie where they were seen.
    """
    marks = mesh.landmarks.long()
    weight = mesh.weight[marks]
    identities, expressions = mesh.identities(marks), mesh.expressions(marks)  # (I, K, 3), (E, K, 3)
    mean = mesh.mean[marks]
    spread = spread.clamp(min=LEAST_SPREAD)
    identity = points.new_zeros(len(identities))
    prior = points.new_zeros(len(expressions)) if expected is None else expected.clamp(0, 1)
    expression = prior.clone()
    pose = _first_pose(mean, points, angles)

    def shape() -> Tensor:
        moved = identity @ identities.flatten(1) + expression @ expressions.flatten(1)
        return mean + moved.view_as(mean)

    for _ in range(ROUNDS):
        pose = _better_pose(shape(), weight, pose, points, spread)
        identity, expression = _better_shape(
            mean, identities, expressions, weight, pose, points, spread, prior, expression
        )
    turn, scale, translation = rotation(pose[:3]), pose[3:4].exp(), pose[4:6]
    fitted = project(shape(), weight, turn, scale, translation)
    missing = points - fitted[:, :2]  # (K, 2)
    apart = (points[36] - points[45]).norm().clamp(min=1e-3)
    error = float(missing.norm(dim=-1).median() / apart)
    neutral = mesh.mean + (identity @ mesh.identities().flatten(1)).view_as(mesh.mean)
    deltas = mesh.expressions()
    posed = neutral + (expression @ deltas.flatten(1)).view_as(neutral)
    magnified = scale / (1 + fitted[:, 2:] / CAMERA_DISTANCE)  # (K, 1)
    in_camera = torch.cat([missing / magnified, torch.zeros_like(magnified)], dim=1)  # cm
    neutral = neutral + _spread_out(posed[marks], in_camera @ turn.T, spread / scale, posed)
    return FittedHead(neutral, _closing_lids(mesh, neutral, deltas), expression, turn, scale, translation, error)


def _first_pose(mean: Tensor, points: Tensor, angles: Tensor | None) -> Tensor:
    """(6,): angles in degrees, log of the scale, translation; the scale and place by the landmarks' extent."""
    start = points.new_zeros(3) if angles is None else angles
    turned = (mean @ rotation(start))[:, :2]
    size = (points - points.mean(0)).norm() / (turned - turned.mean(0)).norm()
    translation = points.mean(0) - size * turned.mean(0)
    return torch.cat([start, size.log()[None], translation])


def _better_pose(shape: Tensor, weight: Tensor, pose: Tensor, points: Tensor, spread: Tensor) -> Tensor:
    """One damped Gauss-Newton step of the pose (6,)."""

    def residual(pose: Tensor) -> Tensor:
        seen = project(shape, weight, rotation(pose[:3]), pose[3:4].exp(), pose[4:6])[:, :2]
        return ((seen - points) / spread[:, None]).flatten()

    now = residual(pose)
    steps = pose.new_tensor([0.5, 0.5, 0.5, 0.01, 0.01, 0.01])
    columns = [(residual(pose + step) - now) / size for step, size in zip(torch.diag(steps), steps, strict=True)]
    jacobian = torch.stack(columns, dim=1) * steps  # in units of the steps
    robust = 1 / (1 + (now / 4) ** 2)
    normal = jacobian.T @ (robust[:, None] * jacobian)
    damping = 1e-3 * normal.diagonal().mean() * torch.eye(6, device=pose.device)
    change = torch.linalg.solve(normal + damping, jacobian.T @ (robust * now))
    better: Tensor = pose - change * steps
    return better


def _better_shape(
    mean: Tensor,
    identities: Tensor,
    expressions: Tensor,
    weight: Tensor,
    pose: Tensor,
    points: Tensor,
    spread: Tensor,
    prior: Tensor,
    expression: Tensor,
) -> tuple[Tensor, Tensor]:
    """Identity (I,) and expression (E,) for a pose, by regularised least squares, linear but for the perspective."""
    turn, scale, translation = rotation(pose[:3]), pose[3:4].exp(), pose[4:6]
    base = project(mean, weight, turn, scale, translation)
    magnified = scale / (1 + base[:, 2:] / CAMERA_DISTANCE)

    def moved(shapes: Tensor) -> Tensor:
        share = weight[:, None]
        turned = (shapes @ turn) * share + shapes * (1 - share)
        return (turned[..., :2] * magnified / spread[:, None]).flatten(1)  # (N, K * 2)

    target = ((points - base[:, :2]) / spread[:, None]).flatten()
    rows = torch.cat([moved(identities), moved(expressions)])  # (I + E, K * 2)
    count = len(identities)
    centre = torch.cat([prior.new_zeros(count), prior])
    strength = torch.cat(
        [prior.new_full((count,), IDENTITY_WEIGHT), prior.new_full((len(prior),), EXPRESSION_DEVIATION**-2)]
    )
    fixed = torch.cat([prior.new_zeros(count), expression])
    free = torch.ones_like(strength, dtype=torch.bool)
    solution = fixed
    for _ in range(3):  # coefficients that leave [0, 1] are held at its ends
        active = rows[free]
        rest = target - fixed[~free] @ rows[~free]
        normal = active @ active.T + torch.diag(strength[free])
        found = torch.linalg.solve(normal, active @ rest + strength[free] * centre[free])
        solution = fixed.clone()
        solution[free] = found
        outside = free.clone()
        outside[:count] = False
        outside &= (solution < 0) | (solution > 1)
        fixed = torch.where(outside, solution.clamp(0, 1), fixed)
        free = free & ~outside
    return solution[:count], solution[count:].clamp(0, 1)


def _spread_out(marks: Tensor, moved: Tensor, spread: Tensor, vertices: Tensor) -> Tensor:
    """Displacements (V, 3) of all vertices from those of the landmarks (K, 3), by an exponential kernel.

    spread (K,) cm: a landmark that is not sure of its place moves its surroundings less.
    """
    own = torch.exp(-torch.cdist(marks, marks) / REACH)
    coefficients = torch.linalg.solve(own + torch.diag((spread / REACH) ** 2 + 0.02), moved)
    moved_all: Tensor = torch.exp(-torch.cdist(vertices, marks) / REACH) @ coefficients
    return moved_all


def _closing_lids(mesh: FaceMesh, neutral: Tensor, deltas: Tensor) -> Tensor:
    """The expressions (E, V, 3) with blinks that close this person's lids, however far they are open at rest."""
    marks = mesh.landmarks.long()
    deltas = deltas.clone()
    for blink, lids in zip(mesh.blinks.tolist(), LIDS, strict=True):
        upper, lower = marks[list(lids[0])], marks[list(lids[1])]
        gap = (neutral[lower, 1] - neutral[upper, 1]).mean()
        closing = (deltas[blink, upper, 1] - deltas[blink, lower, 1]).mean()
        deltas[blink] *= (gap / closing.clamp(min=1e-3)).clamp(*BLINK_LIMITS)
    return deltas
