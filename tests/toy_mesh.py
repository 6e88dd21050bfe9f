"""A made-up head mesh with the usual 68 landmarks in a face's places, and a warp around it: no tests here."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from personalive.config import FaceMeshConfig, LandmarkConfig, PoseGuiderConfig, WarpConfig
from personalive.data.landmarks import estimate_landmarks
from personalive.models.face_mesh import SKIN, FaceMesh
from personalive.models.reference_warp import ReferenceWarp

COLUMNS, ROWS = 25, 31
JAW, BLINK_LEFT, BLINK_RIGHT, SMILE = range(4)
"""Expressions; eight glances follow, which move nothing here."""
IDENTITIES, EXPRESSIONS, LANDMARKS = 4, 12, 128
CONFIG = FaceMeshConfig(
    vertices=68 + COLUMNS * ROWS,
    triangles=2 * (COLUMNS - 1) * (ROWS - 1),
    identities=IDENTITIES,
    expressions=EXPRESSIONS,
    landmarks=LANDMARKS,
)
WARP = WarpConfig(
    enabled=True,
    grid=32,
    output_size=64,
    mesh=CONFIG,
    landmarks=LandmarkConfig(image_size=32, channels=(8, 8, 8, 8, 8), landmarks=LANDMARKS),
    expression_hidden=8,
    surface_channels=(8, 8),
    guider=PoseGuiderConfig((4, 4, 8, 8), 8, 0, 6),
    compositor_channels=(8, 8),
)


def toy_mesh() -> FaceMesh:
    """A face-shaped patch of an egg: 68 landmarks, then a grid of ROWS x COLUMNS vertices."""
    x, y = np.meshgrid(np.linspace(-7, 7, COLUMNS), np.linspace(-9, 9, ROWS))
    marks = estimate_landmarks(np.array([[-7.0, -9.0, 7.0, 9.0]]))[0]
    flat = np.concatenate([marks, np.stack([x, y], -1).reshape(-1, 2)])
    across, down = torch.from_numpy(flat).float().unbind(1)
    mesh = FaceMesh(CONFIG)
    egg = -10 * (1 - (across / 9).square() - (down / 13).square()).clamp(min=0.05).sqrt()
    nose = near(across, down, 0, 1, 1.5)
    content: dict[str, Tensor] = {
        "mean": torch.stack([across, down - 8, egg - 2.0 * nose - 2], dim=1),
        "weight": torch.ones(len(flat)),
        "part": torch.full((len(flat),), SKIN, dtype=torch.uint8),
        "triangles": _triangles(),
        "landmarks": torch.cat([torch.arange(68), torch.linspace(68, len(flat) - 1, LANDMARKS - 68).int()]).int(),
        "glances": torch.arange(4, 12).int(),
        "blinks": torch.tensor([BLINK_LEFT, BLINK_RIGHT]).int(),
    }
    for name, shapes in (("identity", _identities(across, down)), ("expression", _expressions(across, down))):
        scale = shapes.abs().amax((1, 2)).clamp(min=1e-6) / 127
        content |= {f"{name}_levels": (shapes / scale[:, None, None]).round().to(torch.int8), f"{name}_scale": scale}
    mesh.load_state_dict(content)
    return mesh


def toy_warp(tokens: int = 8) -> ReferenceWarp:
    """A warp around the toy mesh with fresh networks, at rest."""
    warp = ReferenceWarp(WARP, tokens, 8)
    warp.mesh.load_state_dict(toy_mesh().state_dict())
    return warp.eval().requires_grad_(False)


def near(across: Tensor, down: Tensor, x: float, y: float, reach: float) -> Tensor:
    """1 at a place in the plane of the face, cm, fading over `reach`."""
    return torch.exp(-((across - x) ** 2 + (down - y) ** 2) / reach**2)


def _identities(across: Tensor, down: Tensor) -> Tensor:
    """Wider and shorter, a longer nose, a wider jaw, brows further down: (4, V, 3)."""
    shapes = torch.zeros(IDENTITIES, len(across), 3)
    shapes[0, :, 0], shapes[0, :, 1] = 0.06 * across, -0.06 * down
    shapes[1, :, 2] = -0.8 * near(across, down, 0, 1, 2.5)
    shapes[2, :, 0] = 0.12 * across * torch.sigmoid(down - 4)
    shapes[3, :, 1] = 0.5 * near(across, down, 0, -4, 4)
    return shapes


def _expressions(across: Tensor, down: Tensor) -> Tensor:
    """The jaw, two upper lids that come down to the lower ones, the mouth's corners: (12, V, 3)."""
    shapes = torch.zeros(EXPRESSIONS, len(across), 3)
    shapes[JAW, :, 1] = 2.0 * torch.sigmoid(3 * (down - 4.7))
    for place, x in ((BLINK_LEFT, 2.5), (BLINK_RIGHT, -2.5)):
        shapes[place, :, 1] = 0.7 * near(across, down, x, -2.0, 1.6) * (down < -1.65)
    for x in (-2.3, 2.3):
        shapes[SMILE, :, 0] += 0.3 * x * near(across, down, x, 4.5, 1.2)
        shapes[SMILE, :, 1] -= 0.8 * near(across, down, x, 4.5, 1.2)
    return shapes


def _triangles() -> Tensor:
    corner = [68 + row * COLUMNS + column for row, column in itertools.product(range(ROWS - 1), range(COLUMNS - 1))]
    start = torch.tensor(corner)
    upper = torch.stack([start, start + 1, start + COLUMNS], dim=1)
    lower = torch.stack([start + 1, start + COLUMNS + 1, start + COLUMNS], dim=1)
    return torch.cat([upper, lower]).short()
