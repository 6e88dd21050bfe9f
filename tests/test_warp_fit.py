"""Fitting the head mesh to landmarks that are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from personalive.models.face_mesh import FaceMesh, project
from personalive.motion.keypoints import rotation
from personalive.warp.fit import LIDS, FittedHead, fit_head
from toy_mesh import BLINK_LEFT, BLINK_RIGHT, EXPRESSIONS, JAW, SMILE, toy_mesh

SURE = 0.005


@dataclass(frozen=True)
class Truth:
    """A head and where its landmarks are."""

    neutral: Tensor
    expression: Tensor
    angles: Tensor
    scale: Tensor
    translation: Tensor
    points: Tensor


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return toy_mesh()


def head(mesh: FaceMesh, seed: int = 0, **changes: float) -> Truth:
    """A person in a pose; `changes` replaces expression coefficients."""
    g = torch.Generator().manual_seed(seed)
    identity = torch.randn(mesh.config.identities, generator=g)
    expression = torch.zeros(EXPRESSIONS)
    expression[[JAW, BLINK_LEFT, BLINK_RIGHT, SMILE]] = torch.tensor([0.6, 0.3, 0.1, 0.5])
    for place, value in changes.items():
        expression[globals()[place]] = value
    angles = (torch.rand(3, generator=g) - 0.5) * torch.tensor([20.0, 50.0, 30.0])
    scale, translation = torch.tensor([0.085]), torch.tensor([0.05, 0.6])
    neutral = mesh.mean + (identity @ mesh.identities().flatten(1)).view_as(mesh.mean)
    vertices = neutral + (expression @ mesh.expressions().flatten(1)).view_as(neutral)
    projected = project(vertices, mesh.weight, rotation(angles), scale, translation)
    return Truth(neutral, expression, angles, scale, translation, projected[mesh.landmarks.long(), :2])


def fit(mesh: FaceMesh, truth: Truth, points: Tensor | None = None, spread: Tensor | None = None) -> FittedHead:
    points = truth.points if points is None else points
    return fit_head(mesh, points, torch.full((len(points),), SURE) if spread is None else spread)


def marks(mesh: FaceMesh, found: FittedHead) -> Tensor:
    """Where the fitted mesh has the landmarks in the picture."""
    vertices = found.vertices(found.expression)
    projected = project(vertices, mesh.weight, found.rotation, found.scale, found.translation)
    return projected[mesh.landmarks.long(), :2]


@pytest.mark.parametrize("seed", range(4))
def test_pose_identity_and_expression_are_recovered(mesh: FaceMesh, seed: int) -> None:
    truth = head(mesh, seed)
    found = fit(mesh, truth)
    turn = found.rotation.T @ rotation(truth.angles)
    assert np.degrees(np.arccos(min(1.0, (float(turn.trace()) - 1) / 2))) < 1.0
    assert float(found.scale / truth.scale) == pytest.approx(1, abs=0.01)
    assert torch.allclose(found.translation, truth.translation, atol=0.02)
    assert float((found.neutral - truth.neutral).norm(dim=1).mean()) < 0.1  # cm
    assert torch.allclose(found.expression[[JAW, SMILE]], truth.expression[[JAW, SMILE]], atol=0.04)
    assert found.error < 0.005


def test_the_mesh_lies_on_the_landmarks_whatever_the_eyes_do(mesh: FaceMesh) -> None:
    truth = head(mesh, 1, BLINK_LEFT=0.8, BLINK_RIGHT=0.6)
    off = (marks(mesh, fit(mesh, truth)) - truth.points).norm(dim=1)
    assert float(off.max()) < 0.001  # of 2: an eighth of a pixel of 256


def test_more_steps_do_no_harm(mesh: FaceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = head(mesh, 1)
    usual = fit(mesh, truth)
    monkeypatch.setattr("personalive.warp.fit.ROUNDS", 100)
    long = fit(mesh, truth)
    assert torch.allclose(usual.rotation, long.rotation, atol=1e-3)
    assert torch.allclose(usual.neutral, long.neutral, atol=0.02)


def test_a_face_that_is_no_morph_of_the_mean_is_met_by_displacement(mesh: FaceMesh) -> None:
    truth = head(mesh, 2)
    points = truth.points.clone()
    points[27:36] += torch.tensor([0.04, 0.0])  # a crooked nose
    found = fit(mesh, truth, points)
    off = (marks(mesh, found) - points).norm(dim=1)
    assert float(off[27:36].mean()) < 0.01
    assert float(off.mean()) < 0.005


def test_a_landmark_that_is_not_sure_is_not_followed(mesh: FaceMesh) -> None:
    truth = head(mesh, 3)
    points, spread = truth.points.clone(), torch.full((len(truth.points),), SURE)
    points[8] += 0.3
    spread[8] = 10.0
    off = (marks(mesh, fit(mesh, truth, points, spread)) - truth.points).norm(dim=1)
    assert float(off.max()) < 0.01


def test_what_is_expected_counts_where_landmarks_do_not_say_otherwise(mesh: FaceMesh) -> None:
    truth = head(mesh, 0)
    expected = truth.expression.clone()
    expected[5] = 0.7  # a glance, which moves no landmark
    found = fit_head(mesh, truth.points, torch.full((len(truth.points),), SURE), expected, truth.angles)
    assert float(found.expression[5]) == pytest.approx(0.7, abs=1e-3)
    assert float(found.expression[JAW]) == pytest.approx(0.6, abs=0.04)
    assert float(fit(mesh, truth).expression[5]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_blink_closes_this_persons_eyes(mesh: FaceMesh, seed: int) -> None:
    found = fit(mesh, head(mesh, seed))
    blink = torch.zeros(EXPRESSIONS)
    blink[[BLINK_LEFT, BLINK_RIGHT]] = 1.0
    shut = found.vertices(blink)
    for upper, lower in LIDS:
        places = mesh.landmarks.long()
        gap = (shut[places[list(lower)], 1] - shut[places[list(upper)], 1]).mean()
        assert abs(float(gap)) < 0.02  # cm


def test_several_expressions_at_once(mesh: FaceMesh) -> None:
    found = fit(mesh, head(mesh))
    many = torch.rand(5, EXPRESSIONS)
    each = torch.stack([found.vertices(one) for one in many])
    assert torch.allclose(found.vertices(many), each, atol=1e-4)
