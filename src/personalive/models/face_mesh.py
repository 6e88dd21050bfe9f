"""The morphable head mesh that the reference warp moves: a mean shape, identity and expression displacements.

Axes are those of a picture: x right, y down, z away from the camera. Units are centimetres about the neck pivot, the
point around which a head turns. The numbers come from a rendering face model (`rendering/face_mesh.py`, ICT-FaceKit).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from personalive.config import FaceMeshConfig

SKIN, EYE, MOUTH = 1, 2, 3
"""What a vertex belongs to. MOUTH is what lies behind the lips: teeth and the mouth's inner walls."""

GLANCES = 8
"""In, out, up and down of two eyes."""

CAMERA_DISTANCE = 82.0
"""Distance in cm from which a face is taken to be seen; it decides how much nearer parts are magnified."""


class FaceMesh(nn.Module):
    """V vertices, I identity and E expression shapes, T triangles, K landmarks; buffers only, nothing that learns.

    The displacements are stored as 8-bit numbers with one scale a shape, 127 being the largest displacement of it.
    """

    mean: Tensor  # (V, 3) cm
    identity_levels: Tensor  # (I, V, 3) int8
    identity_scale: Tensor  # (I,) cm per level, for one standard deviation
    expression_levels: Tensor  # (E, V, 3) int8
    expression_scale: Tensor  # (E,) cm per level, for a coefficient of 1
    weight: Tensor  # (V,) how rigidly a vertex follows the head: 1 on the head, 0 on the shoulders
    part: Tensor  # (V,) uint8: SKIN, EYE or MOUTH
    triangles: Tensor  # (T, 3) int16 vertex numbers
    landmarks: Tensor  # (K,) int32 vertex numbers
    glances: Tensor  # (8,) int32: which expressions turn the eyes
    blinks: Tensor  # (2,) int32: which expressions close the eye at x > 0 (the person's left), and the other

    def __init__(self, config: FaceMeshConfig) -> None:
        super().__init__()
        vertices, shape = config.vertices, (config.vertices, 3)
        buffers = {
            "mean": torch.zeros(shape),
            "identity_levels": torch.zeros(config.identities, *shape, dtype=torch.int8),
            "identity_scale": torch.zeros(config.identities),
            "expression_levels": torch.zeros(config.expressions, *shape, dtype=torch.int8),
            "expression_scale": torch.zeros(config.expressions),
            "weight": torch.zeros(vertices),
            "part": torch.zeros(vertices, dtype=torch.uint8),
            "triangles": torch.zeros(config.triangles, 3, dtype=torch.int16),
            "landmarks": torch.zeros(config.landmarks, dtype=torch.int32),
            "glances": torch.zeros(GLANCES, dtype=torch.int32),
            "blinks": torch.zeros(2, dtype=torch.int32),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        self.config = config

    def identities(self, vertices: Tensor | None = None) -> Tensor:
        """Identity displacements (I, v, 3) in cm of some vertices (v,), or of all."""
        return _displacements(self.identity_levels, self.identity_scale, vertices)

    def expressions(self, vertices: Tensor | None = None) -> Tensor:
        """Expression displacements (E, v, 3) in cm of some vertices (v,), or of all."""
        return _displacements(self.expression_levels, self.expression_scale, vertices)


def _displacements(levels: Tensor, scale: Tensor, vertices: Tensor | None) -> Tensor:
    chosen = levels if vertices is None else levels[:, vertices.long()]
    return chosen.float() * scale.float()[:, None, None]


def project(vertices: Tensor, weight: Tensor, rotation: Tensor, scale: Tensor, translation: Tensor) -> Tensor:
    """Posed and projected vertices (..., V, 3): x and y in picture coordinates [-1, 1], z in cm away from the camera.

    vertices (..., V, 3) cm about the neck pivot; weight (V,): the neck's blend between head and shoulders; rotation
    (..., 3, 3) for row vectors; scale (..., 1) picture units per cm at the neck pivot's depth; translation (..., 2).
    """
    turned = vertices @ rotation
    share = weight[:, None]
    posed = turned * share + vertices * (1 - share)
    magnified = scale[..., None] / (1 + posed[..., 2:] / CAMERA_DISTANCE)  # (..., V, 1)
    return torch.cat([posed[..., :2] * magnified + translation[..., None, :], posed[..., 2:]], dim=-1)
