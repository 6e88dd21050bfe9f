"""Fitting the morphable head mesh to one portrait: its person's shape, its pose and the expression it already has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.models.face_mesh import CAMERA_DISTANCE, FaceMesh
from personalive.motion.keypoints import rotation
from personalive.warp.gauss_newton import FacePose, SeenLandmarks, step, step_pose

POSE_ROUNDS, ROUNDS = 6, 12
"""Steps of the pose alone; steps of everything."""
EXPRESSION_DEVIATION, GLANCE_DEVIATION = 0.25, 0.05
"""How far expression coefficients may well be from what was expected; glances, of which landmarks show only lids."""
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
    seen = landmarks_of(mesh, points[None], spread[None])
    face = meet_face(seen, None if expected is None else expected[None], None if angles is None else angles[None])
    marks, identity, expression = mesh.landmarks.long(), face.identity[0], face.expression[0]
    turn, scale, translation = rotation(face.angles[0]), face.scale[0], face.translation[0]
    fitted = seen.placed(face)[0]  # (K, 3)
    missing = points - fitted[:, :2]  # (K, 2)
    apart = (points[36] - points[45]).norm().clamp(min=1e-3)
    error = float(missing.norm(dim=-1).median() / apart)
    neutral = mesh.mean + (identity @ mesh.identities().flatten(1)).view_as(mesh.mean)
    deltas = mesh.expressions()
    posed = neutral + (expression @ deltas.flatten(1)).view_as(neutral)
    magnified = scale / (1 + fitted[:, 2:] / CAMERA_DISTANCE)  # (K, 1)
    in_camera = torch.cat([missing / magnified, torch.zeros_like(magnified)], dim=1)  # cm
    neutral = neutral + _spread_out(posed[marks], in_camera @ turn.T, seen.spread[0] / scale, posed)
    blinks = mesh.blinks.long()
    closing = closing_factors(neutral[marks], deltas[blinks][:, marks])  # (2,)
    deltas, expression = deltas.clone(), expression.clone()
    deltas[blinks] *= closing[:, None, None]
    expression[blinks] /= closing  # the portrait's own lids stay where they are
    return FittedHead(neutral, deltas, expression, turn, scale, translation, error)


def landmarks_of(mesh: FaceMesh, points: Tensor, spread: Tensor) -> SeenLandmarks:
    """The mean head's landmarks, to be fitted to points (F, K, 2) with expected errors spread (F, K)."""
    marks = mesh.landmarks.long()
    identities, expressions = mesh.identities(marks), mesh.expressions(marks)
    deviation = torch.full_like(expressions[:, 0, 0], EXPRESSION_DEVIATION)
    deviation[mesh.glances.long()] = GLANCE_DEVIATION
    spread = spread.clamp(min=LEAST_SPREAD)
    mean, weight = mesh.mean[marks][None], mesh.weight[marks]
    return SeenLandmarks(mean, weight, identities, expressions, points, spread, deviation)


def meet_face(seen: SeenLandmarks, expected: Tensor | None = None, angles: Tensor | None = None) -> FacePose:
    """Pose, identity and expression of faces in F frames; see `fit_head` for expected (F, E) and angles (F, 3)."""
    points, shapes = seen.points, (len(seen.identities), len(seen.expressions))
    identity, expression = (points.new_zeros(len(points), count) for count in shapes)
    expected = expression if expected is None else expected.clamp(0, 1)
    start = points.new_zeros(len(points), 3) if angles is None else angles
    face = FacePose(seen.first_pose(start), identity, expected)
    for _ in range(POSE_ROUNDS):
        face = step_pose(seen, face)
    for _ in range(ROUNDS):
        face = step(seen, face, expected)
    return face


def _spread_out(marks: Tensor, moved: Tensor, spread: Tensor, vertices: Tensor) -> Tensor:
    """Displacements (V, 3) of all vertices from those of the landmarks (K, 3), by an exponential kernel.

    spread (K,) cm: a landmark that is not sure of its place moves its surroundings less.
    """
    own = torch.exp(-torch.cdist(marks, marks) / REACH)
    coefficients = torch.linalg.solve(own + torch.diag((spread / REACH) ** 2 + 0.02), moved)
    moved_all: Tensor = torch.exp(-torch.cdist(vertices, marks) / REACH) @ coefficients
    return moved_all


def closing_factors(neutral: Tensor, blinks: Tensor) -> Tensor:
    """How much larger each blink has to be (2,) to close this person's lids, however far they are open at rest.

    neutral (K, 3) cm: the person's landmarks without expression; blinks (2, K, 3) cm: what the two blinks add.
    """
    factors = []
    for blink, (upper, lower) in zip(blinks, LIDS, strict=True):
        gap = (neutral[list(lower), 1] - neutral[list(upper), 1]).mean()
        closing = (blink[list(upper), 1] - blink[list(lower), 1]).mean()
        factors.append((gap / closing.clamp(min=1e-3)).clamp(*BLINK_LIMITS))
    return torch.stack(factors)
