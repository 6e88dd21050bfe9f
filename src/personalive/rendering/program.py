"""Shader programs, and the one baking pass: how much of the sky each part of the head sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalive.rendering import shaders
from personalive.rendering.face_model import FloatArray
from personalive.rendering.mesh import HeadMesh
from personalive.rendering.views import orthographic, sphere

OCCLUSION_VIEWS, OCCLUSION_SIDE = 96, 256


class Program:
    """A shader program whose unused uniforms may be set without harm."""

    def __init__(self, context: Any, vertex: str, fragment: str) -> None:
        self.handle = context.program(vertex_shader=vertex, fragment_shader=fragment)

    def matrix(self, name: str, value: NDArray[np.floating]) -> None:
        """Set a mat3 or mat4 from its rows."""
        if name in self.handle:
            self.handle[name].write(np.ascontiguousarray(value.T, np.float32).tobytes())  # GL keeps columns

    def matrices(self, name: str, values: Sequence[NDArray[np.floating]]) -> None:
        """Set an array of mat3 or mat4 from their rows."""
        if name in self.handle:
            self.handle[name].write(np.concatenate([value.T for value in values]).astype(np.float32).tobytes())

    def vectors(self, name: str, value: NDArray[np.floating]) -> None:
        """Set a vec3 or an array of vec3; what the compiler cut off an array is dropped."""
        if name in self.handle:
            rows = np.asarray(value, np.float32).reshape(-1, 3)  # (N, 3)
            self.handle[name].write(rows[: self.handle[name].array_length].tobytes())

    def number(self, name: str, value: Any) -> None:
        """Set a scalar, an int, or an array of scalars."""
        if name in self.handle:
            self.handle[name].value = value


def bake_occlusion(gl: Any, context: Any, head: HeadMesh) -> FloatArray:
    """Share (V,) of the sky each vertex of the mean head sees, from depth maps along many directions."""
    vertices = head.model.vertices
    program = Program(context, shaders.OCCLUSION_VERTEX, shaders.SHADOW_FRAGMENT)
    depth = context.depth_texture((OCCLUSION_SIDE, OCCLUSION_SIDE))
    target = context.framebuffer([], depth)
    points = context.buffer(vertices.astype(np.float32).tobytes())
    faces = context.buffer(np.concatenate([head.triangles["skin"], head.triangles["eyes"]]).tobytes())
    array = context.vertex_array(program.handle, [(points, "3f", "position")], faces)
    normals = head.normals(vertices)
    probe = vertices + 0.16 * normals
    seen, total = np.zeros(len(vertices)), np.full(len(vertices), 1e-6)
    context.enable(gl.DEPTH_TEST)
    for direction in sphere(OCCLUSION_VIEWS):
        view = orthographic(direction, 24.0)
        program.matrix("view", view)
        target.use()
        target.clear()
        array.render()
        nearest = np.frombuffer(depth.read(alignment=1), np.float32).reshape(OCCLUSION_SIDE, OCCLUSION_SIDE)
        place = probe @ view[:3, :3].T * 0.5 + 0.5
        column, row = (place[:, :2] * OCCLUSION_SIDE).astype(int).clip(0, OCCLUSION_SIDE - 1).T
        facing = np.maximum(normals @ direction, 0)
        seen += facing * (place[:, 2] < nearest[row, column] + 0.004)
        total += facing
    for resource in (array, points, faces, target, depth):
        resource.release()
    return np.asarray(seen / total, np.float32)
