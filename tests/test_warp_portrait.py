"""A portrait as a surface: finding its landmarks, drawing the fitted head into it, moving it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from personalive.contracts import HeadMotion
from personalive.data.expressions import EXPRESSIONS as EXPRESSIONS_OF_ICT
from personalive.models.face_mesh import EYE, FaceMesh, project
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.keypoints import rotation
from personalive.rendering.face_mesh import build_face_mesh
from personalive.rendering.face_model import find_face_model, load_face_model
from personalive.warp.compose import portrait_layers
from personalive.warp.drive import Warp, forward_motion, move_surface
from personalive.warp.fit import FittedHead, fit_head
from personalive.warp.flow import identity_grid
from personalive.warp.landmarks import UNTRUSTED, find_landmarks
from personalive.warp.portrait import PortraitSurface, build_surface, draw_head, shape_surface
from personalive.weights.load import find_model, load_networks
from toy_mesh import EXPRESSIONS, JAW, SMILE, WARP, toy_warp

SIDE = WARP.grid
CELL = 2 / SIDE
ANGLES, SCALE, PLACE = torch.tensor([4.0, -12.0, 5.0]), torch.tensor([0.085]), torch.tensor([0.05, 0.6])


class RampReader(nn.Module):
    """A landmark network that reads from a ramp of colours where it looks, and tells known points in the crop."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points, self.config = points, WARP.landmarks
        self.weight = nn.Parameter(torch.zeros(()))
        self.looked: list[float] = []

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        size = self.config.image_size
        inner = slice(size // 4, -size // 4)
        ramps = crops[:, :2, inner, inner]  # x and y of the picture, where the crop does not leave it
        low, high = ramps.amin((2, 3)), ramps.amax((2, 3))
        half = (high - low)[:, :1] * size / (size // 2 - 1) / 2  # (N, 1)
        centre = ramps.mean((2, 3))
        self.looked += half[:, 0].tolist()
        found = (self.points - centre[:, None]) / half[:, None]
        return found, torch.full(found.shape[:2], 0.02)


def ramp(side: int = 256) -> Tensor:
    """A picture (1, 3, side, side) in [0, 1] whose red is x and whose green is y."""
    places = (identity_grid(side, torch.zeros(())) + 1) / 2
    return torch.cat([places, places[..., :1]], dim=-1).permute(2, 0, 1)[None]


def test_crops_go_onto_the_face_and_points_come_back_to_the_picture() -> None:
    points = torch.rand(WARP.landmarks.landmarks, 2) * 0.5 - 0.1
    reader = RampReader(points)
    found, spread = find_landmarks(reader, ramp())  # type: ignore[arg-type]
    assert torch.allclose(found, points, atol=2e-3)
    assert reader.looked[0] == pytest.approx(1.0, abs=0.01)  # first the whole picture, then the face
    assert reader.looked[2] == pytest.approx(0.5 / 2 / 0.55, rel=0.1)
    close = 0.02 * reader.looked[3]
    assert reader.looked[3:] == pytest.approx([reader.looked[2] * 0.55 / 2] * 3, rel=0.02)  # eyes and mouth from near
    surer = spread < (close + 0.02 * reader.looked[2]) / 2
    assert bool(surer.any())
    assert not bool(surer.all())
    assert torch.allclose(spread[surer], torch.full_like(spread[surer], close), rtol=0.03)
    assert torch.allclose(spread[~surer], torch.full_like(spread[~surer], 0.02 * reader.looked[2]), rtol=0.01)


def test_landmarks_at_the_crops_border_are_not_trusted() -> None:
    points = torch.rand(WARP.landmarks.landmarks, 2) * 0.5 - 0.1
    points[100] = torch.tensor([0.9, 0.9])
    found, spread = find_landmarks(RampReader(points), ramp())  # type: ignore[arg-type]
    assert torch.allclose(found[100], points[100], atol=5e-3)
    assert float(spread[100]) == UNTRUSTED
    assert float(spread[:100].max()) < 0.02


@pytest.fixture(scope="module")
def warp() -> ReferenceWarp:
    torch.manual_seed(0)
    return toy_warp()


@pytest.fixture(scope="module")
def head(warp: ReferenceWarp) -> FittedHead:
    mesh = warp.mesh
    expression = torch.zeros(EXPRESSIONS)
    expression[SMILE] = 0.4
    vertices = mesh.mean + (expression @ mesh.expressions().flatten(1)).view_as(mesh.mean)
    points = project(vertices, mesh.weight, rotation(ANGLES), SCALE, PLACE)[mesh.landmarks.long(), :2]
    return fit_head(mesh, points, torch.full((len(points),), 0.005))


def motion(angles: Tensor, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> HeadMotion:
    """One frame's head motion as the extractor sees it, in its own units."""
    return HeadMotion(torch.zeros(1, 21, 3), angles[None], torch.tensor([[*shift, 0.0]]), torch.tensor([[1.4 * scale]]))


@pytest.fixture(scope="module")
def surface(warp: ReferenceWarp, head: FittedHead) -> PortraitSurface:
    return build_surface(warp, torch.rand(1, 3, 64, 64), head, motion(ANGLES))


def on_face(surface: PortraitSurface, warp: ReferenceWarp) -> Tensor:
    """Cells (s, s) bool well within the drawn head."""
    face = draw_head(warp.mesh, surface.head, SIDE).face
    return -torch.nn.functional.max_pool2d(-face[None], 5, 1, 2)[0] > 0


def test_the_head_is_drawn_where_it_is(warp: ReferenceWarp, head: FittedHead) -> None:
    drawing = draw_head(warp.mesh, head, SIDE)
    drawn = project(head.vertices(head.expression), warp.mesh.weight, head.rotation, head.scale, head.translation)
    cells = ((drawn[:, :2] + 1) / 2 * SIDE).long().clamp(0, SIDE - 1)
    inside = (drawn[:, :2].abs() < 1).all(1)
    assert float(drawing.face[cells[inside, 1], cells[inside, 0]].min()) == 1
    assert 0.3 < float(drawing.face.mean()) < 0.9
    nose = cells[30]
    assert float(drawing.depth[nose[1], nose[0]]) == pytest.approx(float(drawn[30, 2]), abs=0.7)
    assert not bool(drawing.eye.any())  # the toy has no eyeballs
    assert tuple(drawing.motion.shape) == (EXPRESSIONS, 3, SIDE, SIDE)
    chin = cells[8]
    assert torch.allclose(drawing.motion[JAW, :, chin[1], chin[0]], head.expressions[JAW, 8], atol=0.05)


def test_an_unchanged_portrait_stays_where_it_is(surface: PortraitSurface) -> None:
    """Pose and expression of the portrait itself bring every cell back to its place, background and all."""
    moved, depth = forward_motion(surface, motion(ANGLES), surface.head.expression[None])
    assert torch.allclose(moved[0], identity_grid(SIDE, moved), atol=1e-3 * CELL)
    assert bool(torch.isfinite(depth).all())
    driven = move_surface(surface, motion(ANGLES), surface.head.expression[None])
    known = surface.figure > 0.3
    assert torch.allclose(driven.flow[0][known], identity_grid(SIDE, moved)[known], atol=0.02 * CELL)
    assert float(driven.seen[0, 0][known].min()) > 0.9
    assert float(driven.gap.max()) == 0


@pytest.mark.parametrize("own", [ANGLES, ANGLES - torch.tensor([5.0, 0.0, 0.0])])
def test_a_head_that_turns_takes_its_pixels_along(surface: PortraitSurface, warp: ReferenceWarp, own: Tensor) -> None:
    """The cells of the face go where the mesh itself goes; what is fitted and what the extractor saw may differ."""
    surface = dataclasses.replace(surface, own=motion(own))
    head, turned = surface.head, own + torch.tensor([0.0, 15.0, -6.0])
    moved, _ = forward_motion(surface, motion(turned, (0.1, -0.05), 1.1), head.expression[None])
    target = project(
        head.vertices(head.expression),
        warp.mesh.weight,
        rotation(turned) @ rotation(own).T @ head.rotation,
        head.scale * 1.1,
        head.translation + torch.tensor([0.1, -0.05]),
    )
    before = project(head.vertices(head.expression), warp.mesh.weight, head.rotation, head.scale, head.translation)
    cells = ((before[:68, :2] + 1) / 2 * SIDE).long()
    own = identity_grid(SIDE, moved)
    keep = [i for i in range(17, 68) if bool(on_face(surface, warp)[cells[i, 1], cells[i, 0]])]
    assert len(keep) > 30
    for mark in keep:
        x, y = cells[mark]
        shift, wanted = moved[0, y, x] - own[y, x], target[mark, :2] - before[mark, :2]
        assert float((shift - wanted).norm()) < 0.75 * CELL, mark


def test_a_jaw_that_opens_parts_the_lips_and_nothing_else(surface: PortraitSurface) -> None:
    spoken = surface.head.expression.clone()
    spoken[JAW] = 1.0
    driven = move_surface(surface, motion(ANGLES), spoken[None])
    brow = driven.flow[0, SIDE // 8, SIDE // 2]
    assert torch.allclose(brow, identity_grid(SIDE, driven.flow)[SIDE // 8, SIDE // 2], atol=0.1 * CELL)
    moved, _ = forward_motion(surface, motion(ANGLES), spoken[None])
    down = (moved[0] - identity_grid(SIDE, moved))[..., 1]
    assert float(down.max()) > 2 * CELL
    assert float(down.min()) > -0.5 * CELL


def test_what_lies_around_the_portrait_comes_into_view(surface: PortraitSurface) -> None:
    """A head that moves down shows what the picture has above; where it ends, nobody knows what would be there."""
    own = motion(ANGLES)
    lower = dataclasses.replace(own, translation=own.translation + torch.tensor([[0.0, 0.3, 0.0]]))
    whole = dataclasses.replace(surface, figure=torch.ones_like(surface.figure), weight=torch.ones_like(surface.weight))
    expression = surface.head.expression[None]
    ends, goes_on = (
        move_surface(dataclasses.replace(whole, reach=reach), lower, expression)
        for reach in ((1.0, 1.0, 1.0, 1.0), (1.0, 1.5, 1.0, 1.0))
    )
    top = (0, 0, slice(0, 2), slice(SIDE // 4, -SIDE // 4))
    assert float(ends.seen[top].max()) < 0.1
    assert float(goes_on.seen[top].min()) > 0.9
    picture = torch.rand(1, 3, 64, 64)
    around = torch.zeros(1, 3, 96, 96)
    around[:, :, 16:80, 16:80] = picture
    around[:, :, :16] = 0.5
    warped = portrait_layers(picture, whole, around).warped(goes_on)
    assert torch.allclose(warped[0, :, 2, 24:40], torch.full((3, 16), 0.5), atol=0.01)
    assert float((warped[0, :, 40] - picture[0, :, 30]).abs().mean()) < 0.15


# ---------------------------------------------------------------- the real head


@pytest.fixture(scope="module")
def real() -> FaceMesh:
    path = find_face_model()
    if path is None or not path.exists():
        pytest.skip("no face model (set PERSONALIVE_FACE_MODEL)")
    return build_face_mesh(load_face_model(path))


def test_the_real_head_is_fitted_and_its_eyes_are_drawn(real: FaceMesh) -> None:
    g = torch.Generator().manual_seed(3)
    identity = torch.randn(real.config.identities, generator=g)
    expression = torch.zeros(real.config.expressions)
    neutral = real.mean + (identity @ real.identities().flatten(1)).view_as(real.mean)
    angles = torch.tensor([3.0, 20.0, -8.0])
    projected = project(neutral, real.weight, rotation(angles), torch.tensor([0.07]), torch.tensor([0.0, 0.55]))
    found = fit_head(real, projected[real.landmarks.long(), :2], torch.full((real.config.landmarks,), 0.005))
    turn = found.rotation.T @ rotation(angles)
    assert np.degrees(np.arccos(min(1.0, (float(turn.trace()) - 1) / 2))) < 0.5
    assert found.error < 0.005
    assert torch.allclose(found.expression, expression, atol=0.1)
    assert float((found.neutral - neutral)[real.landmarks.long()].norm(dim=1).mean()) < 0.2  # cm
    drawing = draw_head(real, found, 128)
    eyes = ((projected[real.part == EYE][:, :2] + 1) / 2 * 128).long()
    assert 20 < float(drawing.eye.sum()) < 600
    rows, columns = torch.nonzero(drawing.eye, as_tuple=True)
    assert eyes[:, 1].min() - 1 <= rows.min()
    assert rows.max() <= eyes[:, 1].max() + 1
    assert eyes[:, 0].min() - 1 <= columns.min()
    assert columns.max() <= eyes[:, 0].max() + 1


@pytest.fixture(scope="module")
def person() -> tuple[PortraitSurface, FaceMesh]:
    """The built-in model's mean head, from the front, lips closed and eyes open, on a fine grid."""
    warp = load_networks(find_model("mini")).reference_warp
    assert warp is not None
    mesh = warp.mesh
    angles, place = torch.zeros(3), torch.tensor([0.0, 0.55])
    projected = project(mesh.mean, mesh.weight, rotation(angles), torch.tensor([0.07]), place)
    found = fit_head(mesh, projected[mesh.landmarks.long(), :2], torch.full((mesh.config.landmarks,), 0.005))
    told = torch.full((3, 128, 128), 0.0)
    told[0] = 4.0  # all of it the person
    surface = shape_surface(draw_head(mesh, found, 128), told, found, motion(angles), mesh.glances.long())
    return surface, mesh


def expressed(surface: PortraitSurface, places: list[int], amount: float) -> Warp:
    """The person's surface with some coefficients at an amount."""
    spoken = surface.head.expression.clone()
    spoken[places] = amount
    return move_surface(surface, motion(torch.zeros(3)), spoken[None])


def test_lids_that_close_hide_the_eyes(person: tuple[PortraitSurface, FaceMesh]) -> None:
    surface, mesh = person
    blinks = mesh.blinks.tolist()
    seen = [float(expressed(surface, blinks, amount).eye.sum()) for amount in (0.0, 0.4, 0.8, 1.0)]
    assert seen[0] > 0.9 * float(surface.eye.sum())
    assert seen == sorted(seen, reverse=True)
    assert seen[3] == 0
    winked = expressed(surface, blinks[:1], 1.0).eye[0, 0]
    left, right = winked[:, :64], winked[:, 64:]
    assert min(float(left.sum()), float(right.sum())) == 0  # a wink hides one
    assert max(float(left.sum()), float(right.sum())) > 0.3 * seen[0]


def test_lips_that_part_by_less_than_a_cell_are_told(person: tuple[PortraitSurface, FaceMesh]) -> None:
    surface, _ = person
    jaw = EXPRESSIONS_OF_ICT.index("jawOpen")
    gaps = [float(expressed(surface, [jaw], amount).gap.sum()) for amount in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert gaps[0] < 0.5
    assert gaps == sorted(gaps)
    assert gaps[1] > 2
    assert gaps[2] == pytest.approx(2 * gaps[1], rel=0.25)
    wide = expressed(surface, [jaw], 0.4).gap[0, 0]
    rows, columns = torch.nonzero(wide > 0.5, as_tuple=True)
    assert columns.float().mean() == pytest.approx(63.5, abs=1.5)
    assert 64 < rows.float().mean() < 100  # below the middle of the picture, where the mouth is
