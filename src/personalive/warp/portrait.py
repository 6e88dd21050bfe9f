"""What the reference warp knows of one portrait: for each cell of its grid a surface point that can be moved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from personalive.contracts import HeadMotion
from personalive.models.face_mesh import CAMERA_DISTANCE, EYE, MOUTH, FaceMesh, project
from personalive.models.reference_warp import ReferenceWarp
from personalive.warp.fit import FittedHead, fit_head
from personalive.warp.flow import fill, identity_grid, nearest_points
from personalive.warp.landmarks import find_landmarks
from personalive.warp.matte import refine_figure

LID_EDGES = ((36, 37, 38, 39), (36, 41, 40, 39), (42, 43, 44, 45), (42, 47, 46, 45))
"""Landmarks along the upper and the lower lid's edge of each eye, corner to corner."""
INNER_LIPS = (60, 61, 62, 63, 64)
"""Landmarks along the upper lip's inner edge, corner to corner."""
LIP_EDGES = (INNER_LIPS, (60, 67, 66, 65, 64))
"""The same of both lips."""
LID_POINTS, LID_SOFTNESS = 9, 1.0
"""Points between two landmarks of an edge; how far, in half cells, an edge's motion is mixed with the other's."""
LASH_CELLS, LASH_FADE = 2, 2
"""Cells around an eyeball that move with the edge of its lid, and how often that is spread by one cell more."""
LINE_REACH = 1.5
"""A cell whose centre is so near to a line, in cells, belongs to it."""
DEPTH_UNIT, DEPTH_LIMIT = 10.0, 5.0
"""The surface network sees and corrects depths in units of so many cm, and corrects them by at most so many."""
CORRECTION_CELLS = 8
"""Depth and weight are corrected in squares of so many cells a side, smoothly in between."""
BEHIND_LIDS = 1.0
"""An open eye counts as so many cm behind its lids, which may close over it."""


@dataclass(frozen=True)
class Edges:
    """Lines of points on the head, in any shape (...).

    rest (..., 3) cm without expression; motion (E, ..., 3) cm: what each coefficient adds; weight (...).
    """

    rest: Tensor
    motion: Tensor
    weight: Tensor


@dataclass(frozen=True)
class HeadDrawing:
    """The fitted head drawn into the portrait's grid of s x s cells, and carried on smoothly where it does not reach.

    depth (s, s) cm away from the camera about the neck pivot; weight (s, s): how rigidly it follows the head; face,
    eye, mouth (s, s): 1 where the mesh, an eyeball, or what lies behind the lips is seen; lips (s, s): the line between
    the lips; motion (E, 3, s, s) cm: what each expression coefficient adds, fading out around the face; gaze
    (G, 3, s, s): the same of the eyeballs for glances. lid_edges: of two eyes the upper and the lower lid, 4 points
    each, corner to corner; lip_edges: inside of both lips, 5 points each.
    """

    depth: Tensor
    weight: Tensor
    face: Tensor
    eye: Tensor
    mouth: Tensor
    lips: Tensor
    motion: Tensor
    gaze: Tensor
    lid_edges: Edges
    lip_edges: Edges


@dataclass(frozen=True)
class PortraitSurface:
    """A portrait as a surface that can be moved, on a grid of s x s cells.

    rest (3, s, s) cm: each cell's point on the person without expression, about the neck pivot; the portrait's own
    expression and pose bring it back to its cell. eyeball (3, s, s): the same of eyeballs, which only glances move;
    glances (G,): which coefficients those are. figure (s, s) in [0, 1]: person, not background. The rest as in
    `HeadDrawing`, weight corrected. head: the fitted mesh and its pose; own: what the motion extractor saw of it.
    reach: how far the picture goes on to the left, up, right and down, in halves of the portrait's side.
    """

    rest: Tensor
    eyeball: Tensor
    glances: Tensor
    weight: Tensor
    figure: Tensor
    eye: Tensor
    mouth: Tensor
    lips: Tensor
    motion: Tensor
    gaze: Tensor
    lid_edges: Edges
    lip_edges: Edges
    head: FittedHead
    own: HeadMotion
    reach: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


@torch.no_grad()
def fit_portrait(warp: ReferenceWarp, picture: Tensor, own: HeadMotion, motion: Tensor) -> FittedHead:
    """The head mesh fitted to a square portrait (1, 3, H, H) in [0, 1].

    own (1, ...) and motion (1, T, D): what the motion networks see in it; the fit begins with them.
    """
    points, spread = find_landmarks(warp.landmarks, picture)
    return fit_head(warp.mesh, points, spread, warp.expression(motion)[0].float(), own.angles[0].float())


@torch.no_grad()
def build_surface(warp: ReferenceWarp, picture: Tensor, head: FittedHead, own: HeadMotion) -> PortraitSurface:
    """The surface of a portrait (1, 3, H, H) in [0, 1] from its fitted head; own (1, ...): its head motion."""
    drawing = draw_head(warp.mesh, head, warp.config.grid)
    small = F.interpolate(picture, size=warp.config.grid, mode="area")
    given = surface_inputs(small, drawing).to(warp.dtype)
    told = warp.surface(given)[0].float()
    surface = shape_surface(drawing, told, head, own, warp.mesh.glances.long())
    return replace(surface, figure=refine_figure(small, surface.figure, drawing.face))


def surface_inputs(picture: Tensor, drawing: HeadDrawing) -> Tensor:
    """What the surface network sees: (1, 7, s, s) of a portrait (1, 3, s, s) in [0, 1] and its drawn head."""
    around = torch.stack([drawing.face, drawing.eye, drawing.weight, drawing.depth / DEPTH_UNIT])[None]
    return torch.cat([picture * 2 - 1, around], dim=1)


def shape_surface(
    drawing: HeadDrawing, told: Tensor, head: FittedHead, own: HeadMotion, glances: Tensor
) -> PortraitSurface:
    """The surface with hair, neck, shoulders and background as the surface network tells them, (3, s, s).

    Told are the figure, and corrections of weight and depth where the mesh does not reach; differentiable in it.
    """
    loose, side = 1 - drawing.face, drawing.depth.shape[-1]
    # Neighbours off the mesh move alike: else hair tears.
    coarse = F.avg_pool2d(told[None, 1:], CORRECTION_CELLS)
    stiffer, deeper = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)[0]
    depth = drawing.depth + DEPTH_LIMIT * torch.tanh(DEPTH_UNIT / DEPTH_LIMIT * deeper) * loose
    weight = torch.sigmoid(torch.logit(drawing.weight.clamp(0.01, 0.99)) + 4 * stiffer * loose)
    points = _unposed(identity_grid(depth.shape[-1], depth), depth, weight, head).movedim(-1, 0)
    return PortraitSurface(
        rest=points - torch.einsum("e,echw->chw", head.expression, drawing.motion),
        eyeball=points,
        glances=glances,
        weight=weight,
        figure=torch.sigmoid(4 * told[0]),
        eye=drawing.eye,
        mouth=drawing.mouth,
        lips=drawing.lips,
        motion=drawing.motion,
        gaze=drawing.gaze,
        lid_edges=drawing.lid_edges,
        lip_edges=drawing.lip_edges,
        head=head,
        own=own,
    )


def draw_head(mesh: FaceMesh, head: FittedHead, side: int) -> HeadDrawing:
    """The fitted head drawn into the portrait's grid."""
    drawn = project(head.vertices(head.expression), mesh.weight, head.rotation, head.scale, head.translation)
    corners = mesh.triangles.long()
    points = torch.cat([drawn, drawn[corners].mean(1)])[None]  # vertices and the middles of triangles
    winner, known = nearest_points(points[..., :2], points[..., 2], side)
    parts = torch.cat([mesh.part, mesh.part[corners[:, 0]]])[winner[0]].view(1, 1, side, side)
    eyeball, behind = (parts == EYE) * known, (parts == MOUTH) * known

    def shown(values: Tensor) -> Tensor:
        """Values (V, C) of the vertices at the cells: (1, C, side, side)."""
        middles = torch.cat([values, values[corners].mean(1)])
        return middles[winner[0]].T.reshape(1, -1, side, side)

    about = shown(torch.cat([drawn[:, 2:], mesh.weight[:, None]], dim=1))
    depth, weight = fill(about * known, known)[0]
    edge = F.max_pool2d(eyeball, 3, 1, 1) * known
    lashes = F.max_pool2d(eyeball, 2 * LASH_CELLS + 1, 1, LASH_CELLS)
    for _ in range(LASH_FADE):  # the skin beyond is stretched, not the lashes
        lashes = torch.maximum(lashes, F.avg_pool2d(lashes, 3, 1, 1))
    near = _fade(known)
    moved = head.expressions.movedim(0, 1).flatten(1)  # (V, E * 3)
    solid = known * (1 - edge)
    motion = _fill_coarsely(shown(moved) * solid, solid)
    motion = torch.lerp(motion, _lid_motion(mesh, head, drawn, side), lashes * known) * near
    glances = head.expressions[mesh.glances.long()].movedim(0, 1).flatten(1)
    gaze = _fill_coarsely(shown(glances) * eyeball, eyeball) * near
    return HeadDrawing(
        depth,
        weight,
        known[0, 0],
        _with_rim(eyeball)[0, 0],
        behind[0, 0],
        _line(drawn[mesh.landmarks.long()[torch.tensor(INNER_LIPS)]][:, :2], side),
        motion.view(-1, 3, side, side),
        gaze.view(-1, 3, side, side),
        _edges(mesh, head, torch.tensor(LID_EDGES).view(2, 2, 4)),
        _edges(mesh, head, torch.tensor(LIP_EDGES)),
    )


def _with_rim(eyeball: Tensor) -> Tensor:
    """The eyeballs (1, 1, s, s) and the wet rim of the lower lid, which a closed lid hides as well."""
    return torch.maximum(eyeball, F.pad(eyeball, (0, 0, 1, 0))[:, :, :-1])


def _edges(mesh: FaceMesh, head: FittedHead, marks: Tensor) -> Edges:
    """Lines along landmarks, whose numbers are `marks` (...)."""
    vertices = mesh.landmarks.long()[marks]
    return Edges(head.neutral[vertices], head.expressions[:, vertices], mesh.weight[vertices])


def _fill_coarsely(values: Tensor, weight: Tensor) -> Tensor:
    """`fill`, at half the side where nothing is known."""
    coarse, share = F.avg_pool2d(values, 2), F.avg_pool2d(weight, 2)
    known = (share > 0).float()
    coarse = fill(coarse / share.clamp(min=1e-6) * known, known)
    wider = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return values + (1 - weight) * wider


def _lid_motion(mesh: FaceMesh, head: FittedHead, drawn: Tensor, side: int) -> Tensor:
    """What each coefficient adds at the nearest edge of a lid, which moves more than the skin beside it.

    (1, E * 3, s, s).
    """
    marks = mesh.landmarks.long()[torch.tensor(LID_EDGES)]  # (edges, 4)
    share = torch.linspace(0, 1, LID_POINTS, device=drawn.device)[None, None, :, None]

    def between(values: Tensor) -> Tensor:
        """(edges, 4, C) -> (N, C)."""
        return torch.lerp(values[:, :-1, None], values[:, 1:, None], share).flatten(0, 2)

    places = between(drawn[marks][..., :2])
    moved = between(head.expressions.movedim(0, 1)[marks].flatten(2))  # (N, E * 3)
    cells = identity_grid(side, places).flatten(0, 1)
    nearness = torch.softmax(-torch.cdist(cells, places) * side / LID_SOFTNESS, dim=1)
    return (nearness @ moved).T.view(1, -1, side, side)


def _line(points: Tensor, side: int) -> Tensor:
    """1 in the cells within one of a line through points (N, 2), 0 elsewhere: (s, s)."""
    share = torch.linspace(0, 1, 2 * LID_POINTS, device=points.device)[None, :, None]
    places = torch.lerp(points[:-1, None], points[1:, None], share).flatten(0, 1)
    near = torch.cdist(identity_grid(side, places).flatten(0, 1), places).amin(1) * side / 2
    return (near < LINE_REACH).float().view(side, side)


def _fade(known: Tensor) -> Tensor:
    """1 on the mesh, fading to 0 around it: (1, 1, s, s)."""
    faded = known
    for _ in range(6):
        faded = torch.maximum(known, F.avg_pool2d(faded, 3, 1, 1))
    return faded


def _unposed(places: Tensor, depth: Tensor, weight: Tensor, head: FittedHead) -> Tensor:
    """Points (s, s, 3) before the pose that lie at places (s, s, 2) of the picture, depth (s, s) cm, after it."""
    magnified = head.scale / (1 + depth / CAMERA_DISTANCE)
    posed = torch.cat([(places - head.translation) / magnified[..., None], depth[..., None]], dim=-1)
    share = weight[..., None, None]
    blend = share * head.rotation + (1 - share) * torch.eye(3, device=depth.device)
    # row vectors: posed = point @ blend
    points: Tensor = torch.linalg.solve(blend.transpose(-1, -2), posed[..., None])
    return points[..., 0]
