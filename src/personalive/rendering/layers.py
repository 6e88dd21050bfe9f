"""What is drawn of a person besides the head, as vertices and triangles, and the parts of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.face_model import FloatArray, IntArray
from personalive.rendering.ground_truth import head_weight

Array = NDArray[np.float64]


class Part(IntEnum):
    """What a pixel shows."""

    BACKGROUND = 0
    SKIN = 1
    EYE = 2
    MOUTH = 3  # the inside: teeth, gums, tongue, throat
    CLOTH = 4
    HAIR = 5
    GLASSES = 6
    HAT = 7
    BEARD = 8


@dataclass(frozen=True)
class Surface:
    """A closed or open surface of cloth, metal or the like: N vertices, M triangles."""

    part: Part
    vertices: FloatArray  # (N, 10): position, normal, place for the pattern, head weight
    triangles: IntArray  # (M, 3)
    colour: Array  # (3,) sRGB
    second_colour: Array  # (3,) sRGB
    pattern: int  # of shaders.CLOTH_FRAGMENT
    stripes: float  # per cm


@dataclass(frozen=True)
class Anchors:
    """Where strands hold on to the head, so that they move with its expression."""

    corners: IntArray  # (n, 3) vertices of the triangle each strand grows from
    shares: FloatArray  # (n, 3) barycentric
    repeats: int  # vertices of a strand

    def offsets(self, shift: NDArray[np.floating]) -> FloatArray:
        """Shift (N, 3) of every strand vertex where the head's vertices shift by (V, 3), cm."""
        moved = (shift[self.corners] * self.shares[..., None]).sum(1)  # (n, 3)
        return np.repeat(moved, self.repeats, axis=0).astype(np.float32)


@dataclass(frozen=True)
class Strands:
    """Ribbons of hair: N vertices, M triangles."""

    part: Part
    vertices: FloatArray  # (N, hair.VERTEX_FLOATS)
    triangles: IntArray  # (M, 3)
    tint: Array  # (3,) sRGB
    anchors: Anchors | None = None


Layer = Surface | Strands


def surface_vertices(points: NDArray[np.floating], normals: NDArray[np.floating]) -> FloatArray:
    """Vertices (N, 10) of a Surface that follows head and shoulders as skin at the same place would."""
    return np.concatenate([points, normals, points, head_weight(points)[:, None]], axis=1).astype(np.float32)
