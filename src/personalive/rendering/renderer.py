"""Drawing a person on an off-screen OpenGL surface (moderngl over EGL; Mesa's software rasteriser is enough)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalive.errors import PersonaLiveError
from personalive.rendering import hair_shaders, shaders
from personalive.rendering.avatar import Person
from personalive.rendering.background import paint_background
from personalive.rendering.face_model import FaceModel, FloatArray
from personalive.rendering.figure import build_layers
from personalive.rendering.ground_truth import NECK_PIVOT, SHOULDER_SHARE, Camera, Pose, world_rotation
from personalive.rendering.layers import Layer, Strands, Surface
from personalive.rendering.mesh import HeadMesh, build_head_mesh, resting_normals
from personalive.rendering.program import Program, bake_occlusion
from personalive.rendering.skin import HEIGHT, WIDTH, SkinPainter
from personalive.rendering.textures import SIDE
from personalive.rendering.views import (
    FAR,
    NEAR,
    eyes_pushed_back,
    gaze_angles,
    gaze_rotation,
    orthographic,
    perspective,
)

Array = NDArray[np.float64]

SHADOW_SIDE = 384  # pixels
COARSE_HAIR_SIZE = 200  # pixels; larger pictures get more and finer strands
TEETH_TINT, GUMS_TINT = (0.88, 0.83, 0.76), (0.66, 0.33, 0.32)
INNER_LIPS = (62, 66)  # landmarks in the middle of the upper and the lower lip's inner edge
OPEN_MOUTH = 0.12  # cm between the lips from which on their inside is drawn


class RenderingUnavailableError(PersonaLiveError):
    """This machine cannot open an off-screen OpenGL context."""


@dataclass(frozen=True)
class DrawnLayer:
    """A layer of the current person on the graphics card."""

    layer: Layer
    content: Any  # buffer of the layer's vertices
    index: Any  # buffer of its triangles
    array: Any  # vertex array of the picture's program
    offsets: Any  # buffer of how far the expression moves each vertex, for anchored strands; else None


class Renderer:
    """Draws one person at a time. Not thread safe. Holds graphics memory until `close`.

    Raises:
        RenderingUnavailableError: moderngl is not installed or there is no EGL.
    """

    def __init__(self, model: FaceModel, size: int, supersample: int = 2, camera: Camera | None = None) -> None:
        self.size, self.supersample = size, supersample
        self._camera = camera or Camera()
        self.head: HeadMesh = build_head_mesh(model)
        self._painter = SkinPainter(self.head)
        self._gl, self._context = _open_context()
        with self._context:  # the current context may be another renderer's
            self._create_targets()
            self._create_programs()
            self._create_head_arrays()
        self._person: Person | None = None
        self._owned: list[Any] = []
        self.layers: tuple[DrawnLayer, ...] = ()

    def set_person(self, person: Person) -> None:
        """Take up a person: shape, paint, hair, clothes, light and backdrop."""
        with self._context:
            self._set_person(person)

    @property
    def camera(self) -> Camera:
        """The camera that pictures are taken with."""
        return self._camera

    @property
    def context(self) -> Any:
        """The OpenGL context: `with renderer.context` makes it the current one."""
        return self._context

    @property
    def person(self) -> Person:
        """The person that `set_person` took up. Raises RuntimeError where there is none."""
        if self._person is None:
            raise RuntimeError("set_person comes first")
        return self._person

    def set_camera(self, camera: Camera) -> None:
        """Take the following pictures with `camera`."""
        self._camera = camera
        with self._context:  # uniforms written without the current context are lost without an error
            self._set_camera_uniforms()

    def close(self) -> None:
        """Give the graphics context back; the renderer is of no use afterwards."""
        self._context.release()

    def _set_person(self, person: Person) -> None:
        for resource in self._owned:
            resource.release()
        self._owned = []
        model = self.head.model
        shape = np.tensordot(person.identity, model.identity_deltas, axes=1)  # (V, 3)
        self.neutral: FloatArray = person.proportions.apply(model, model.vertices + shape)
        self._mobility = person.proportions.factors(model)[:, None]  # (V, 1)
        paint = self._keep(self._context.texture((WIDTH, HEIGHT), 4, self._painter.paint(person).tobytes()))
        paint.build_mipmaps()
        paint.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
        paint.repeat_x, paint.repeat_y = True, False
        self._paint = paint
        self._backdrop = self._keep(self._context.texture((SIDE, SIDE), 3, paint_background(person.seed).tobytes()))
        self._backdrop.build_mipmaps()
        self._backdrop.filter = (self._gl.LINEAR_MIPMAP_LINEAR, self._gl.LINEAR)
        self._backdrop.repeat_x = self._backdrop.repeat_y = False
        detail = max(1.0, self.size / COARSE_HAIR_SIZE)
        self.layers = tuple(self._upload(layer) for layer in build_layers(self.head, person, self.neutral, detail))
        self._person = person
        self._set_person_uniforms(person)

    def expressed(self, coefficients: NDArray[np.floating]) -> FloatArray:
        """Vertices (V, 3) of the current person with expression coefficients (E,), before the pose, cm."""
        active = np.flatnonzero(coefficients)
        if len(active) == 0:
            return self.neutral
        deltas = self.head.model.expression_deltas
        shift = np.float32(coefficients[active[0]]) * deltas[active[0]]
        for place in active[1:]:
            shift += np.float32(coefficients[place]) * deltas[place]
        return np.asarray(self.neutral + self._mobility * shift, np.float32)

    def lip_gap(self, vertices: FloatArray) -> float:
        """How far the lips of vertices (V, 3) are apart, cm."""
        upper, lower = (vertices[self.head.model.landmark_vertices[mark], 1] for mark in INNER_LIPS)
        return float(upper - lower)

    def render(self, coefficients: NDArray[np.floating], pose: Pose) -> NDArray[np.uint8]:
        """Picture (size, size, 3), RGB, of the current person with expression coefficients (E,) in [0, 1]."""
        if self._person is None:
            raise RuntimeError("set_person comes before render")
        vertices = self.expressed(coefficients)
        with self._context:
            return self._render(vertices, coefficients, pose)

    def _render(self, vertices: FloatArray, coefficients: NDArray[np.floating], pose: Pose) -> NDArray[np.uint8]:
        normals = self.head.normals(vertices)
        self._moving.write(np.concatenate([vertices, normals], axis=1, dtype=np.float32).tobytes())
        rotation = world_rotation(pose)
        for program in self._posed_programs:
            program.matrix("head_rotation", rotation)
            program.vectors("head_shift", pose.shift)
        self._set_eyes(coefficients)
        self._draw_shadow()
        self._draw_picture(vertices)
        return self._read()

    def read_depth(self) -> FloatArray:
        """How far what the last picture shows lies before the camera, cm: (S, S), S the supersampled side."""
        side = self.size * self.supersample
        with self._context:
            raw = np.frombuffer(self._depth.read(alignment=1), np.float32).reshape(side, side)[::-1]
        return np.asarray(2 * FAR * NEAR / (FAR + NEAR - (2 * raw - 1) * (FAR - NEAR)), np.float32)

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _keep(self, resource: Any) -> Any:
        """Remember a resource of the current person, to release it with the next."""
        self._owned.append(resource)
        return resource

    def _create_targets(self) -> None:
        context, side = self._context, self.size * self.supersample
        self._depth = context.depth_texture((side, side))
        self._target = context.framebuffer([context.texture((side, side), 4)], self._depth)
        self._shadow_map = context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self._shadow_map.compare_func = "<="
        self._shadow_map.filter = (self._gl.LINEAR, self._gl.LINEAR)
        self._shadow_target = context.framebuffer([], self._shadow_map)

    def _create_programs(self) -> None:
        def program(vertex: str, fragment: str) -> Program:
            return Program(self._context, vertex, fragment)

        self._skin = program(shaders.SURFACE_VERTEX, shaders.SKIN_FRAGMENT)
        self._eye = program(shaders.EYE_VERTEX, shaders.EYE_FRAGMENT)
        self._mouth = program(shaders.SURFACE_VERTEX, shaders.MOUTH_FRAGMENT)
        self._cloth = program(shaders.SURFACE_VERTEX, shaders.CLOTH_FRAGMENT)
        self._lash = program(hair_shaders.LASH_VERTEX, hair_shaders.LASH_FRAGMENT)
        self._strands = program(hair_shaders.HAIR_VERTEX, hair_shaders.HAIR_FRAGMENT)
        self._shadow = program(shaders.SHADOW_VERTEX, shaders.SHADOW_FRAGMENT)
        self._background = program(shaders.BACKGROUND_VERTEX, shaders.BACKGROUND_FRAGMENT)
        self._lit_programs = (self._skin, self._eye, self._mouth, self._cloth, self._strands)
        self._posed_programs = (*self._lit_programs, self._lash, self._shadow)
        for each in self._posed_programs:
            each.vectors("neck_pivot", NECK_PIVOT)
            each.number("shoulder_share", SHOULDER_SHARE)
        for each in self._lit_programs:
            each.number("shadow_map", 1)
        self._set_camera_uniforms()
        # a texel per pixel keeps the paint free of shimmer at small sizes
        pixels_around = self.size * self.supersample * 1.6
        level = max(0.0, float(np.log2(WIDTH / pixels_around)))
        self._skin.number("paint_level", level)
        self._skin.number("bump_strength", 1.3 * 2.0 ** (-0.5 * level))
        self._eye.vectors("eye_centre", self.head.eye_centres)

    def _set_camera_uniforms(self) -> None:
        view = perspective(self._camera)
        for each in self._posed_programs:
            if each is not self._shadow:  # that one looks from the light
                each.matrix("view_projection", view)
        for each in self._lit_programs:
            each.vectors("camera", self._camera.position)

    def _create_head_arrays(self) -> None:
        context, head = self._context, self.head
        vertices = head.model.vertices
        self._moving = context.buffer(reserve=len(vertices) * 24, dynamic=True)
        occlusion = bake_occlusion(self._gl, context, head)
        columns = [vertices, head.weight[:, None], occlusion[:, None], head.eye_side[:, None], head.vertex_uv]
        fixed = context.buffer(np.concatenate(columns, axis=1).astype(np.float32).tobytes())
        moving = (self._moving, "3f 3f", "position", "normal")
        index = {part: context.buffer(faces.tobytes()) for part, faces in head.triangles.items()}

        def array(program: Program, part: str, *content: tuple[Any, ...]) -> Any:
            return context.vertex_array(program.handle, list(content), index[part])

        surface = (fixed, "3f 1f 1f 12x", "rest", "weight", "occlusion")
        self._skin_array = array(self._skin, "skin", moving, surface)
        self._eye_array = array(
            self._eye, "eyes", moving, (fixed, "3f 1f 1f 1f 8x", "rest", "weight", "occlusion", "side")
        )
        plain = (fixed, "3f 1f 16x", "rest", "weight")
        # teeth and gums move almost rigidly: their resting normals serve every expression
        still = context.buffer(resting_normals(head, ("teeth", "gums")).tobytes())
        in_mouth = ((self._moving, "3f 12x", "position"), (still, "3f", "normal"), plain)
        self._teeth_array = array(self._mouth, "teeth", *in_mouth)
        self._gums_array = array(self._mouth, "gums", *in_mouth)
        self._lash_array = array(
            self._lash, "lashes", (self._moving, "3f 12x", "position"), (fixed, "12x 1f 8x 2f", "weight", "uv")
        )
        self._shadow_array = array(
            self._shadow, "skin", (self._moving, "3f 12x", "position"), (fixed, "12x 1f 16x", "weight")
        )
        corners = context.buffer(np.array([-1, -1, 1, -1, -1, 1, 1, 1], np.float32).tobytes())
        self._background_array = context.vertex_array(self._background.handle, [(corners, "2f", "corner")])

    # ---- a person -----------------------------------------------------------------------------------------------

    def _upload(self, layer: Layer) -> DrawnLayer:
        content = self._keep(self._context.buffer(layer.vertices.tobytes()))
        index = self._keep(self._context.buffer(layer.triangles.tobytes()))
        offsets = None
        layout: list[tuple[Any, ...]]
        if isinstance(layer, Surface):
            program, layout = self._cloth, [(content, "3f 3f 3f 1f", "position", "normal", "rest", "weight")]
        else:
            names = ("position", "strand", "outward", "half_width", "shade", "occlusion", "weight")
            program, layout = self._strands, [(content, "3f 3f 3f 1f 1f 1f 1f", *names)]
            if layer.anchors is not None:
                offsets = self._keep(self._context.buffer(reserve=len(layer.vertices) * 12, dynamic=True))
                layout.append((offsets, "3f", "offset"))
        array = self._keep(self._context.vertex_array(program.handle, layout, index))
        return DrawnLayer(layer, content, index, array, offsets)

    def _set_person_uniforms(self, person: Person) -> None:
        light = person.lighting
        light_view = orthographic(light.directions[0], 20.0)
        for program in self._lit_programs:
            program.vectors("light_direction", light.directions)
            program.vectors("light_colour", light.colours)
            program.vectors("sky_above", light.above)
            program.vectors("sky_below", light.below)
            program.matrix("light_view", light_view)
        self._shadow.matrix("view_projection", light_view)
        self._skin.number("gloss", person.gloss)
        self._skin.number("collar", person.clothes.collar)
        self._eye.vectors("iris_colour", person.iris)
        self._eye.number("iris_radius", person.iris_radius)
        self._eye.number("pupil_radius", person.pupil_radius)
        self._lash.vectors("tint", np.minimum(person.hair, 0.2) * 0.25)
        self._lash.number("strength", 0.75 if person.feminine else 0.45)

    # ---- a frame ------------------------------------------------------------------------------------------------

    def _set_eyes(self, coefficients: NDArray[np.floating]) -> None:
        """Turn the irises (the eyeLook shapes move only the lids) and keep the balls behind closing lids."""
        index = self.head.model.expression_index
        left, right = gaze_angles(coefficients, index)
        self._eye.matrix("gaze_left", gaze_rotation(*left).T)
        self._eye.matrix("gaze_right", gaze_rotation(*right).T)
        self._eye.number("pushed_back", eyes_pushed_back(coefficients, index))

    def _draw_shadow(self) -> None:
        self._context.enable(self._gl.DEPTH_TEST)
        self._shadow_target.use()
        self._shadow_target.clear()
        self._shadow_array.render()

    def _draw_picture(self, vertices: FloatArray) -> None:
        context, gl = self._context, self._gl
        self._shadow_map.use(1)
        self._target.use()
        self._target.clear(0.0, 0.0, 0.0, 1.0)
        context.disable(gl.DEPTH_TEST)
        self._backdrop.use(0)
        self._background_array.render(gl.TRIANGLE_STRIP)
        context.enable(gl.DEPTH_TEST)
        for drawn in self.layers:
            if isinstance(drawn.layer, Strands):  # first, because they hide much of the costlier skin
                self._draw_strands(drawn, drawn.layer, vertices)
        self._paint.use(0)
        context.enable(gl.CULL_FACE)
        self._skin_array.render()
        context.disable(gl.CULL_FACE)
        self._eye_array.render()
        for drawn in self.layers:
            if isinstance(drawn.layer, Surface):
                self._draw_surface(drawn, drawn.layer)
        gap = self.lip_gap(vertices)
        if gap > OPEN_MOUTH:
            self._draw_mouth(gap)
        context.enable(gl.BLEND)
        self._lash_array.render()
        context.disable(gl.BLEND)

    def _draw_strands(self, drawn: DrawnLayer, layer: Strands, vertices: FloatArray) -> None:
        if layer.anchors is not None:
            drawn.offsets.write(layer.anchors.offsets(vertices - self.neutral).tobytes())
        self._strands.vectors("tint", layer.tint)
        drawn.array.render()

    def _draw_surface(self, drawn: DrawnLayer, layer: Surface) -> None:
        self._cloth.vectors("first_colour", layer.colour)
        self._cloth.vectors("second_colour", layer.second_colour)
        self._cloth.number("pattern", layer.pattern)
        self._cloth.number("stripes", layer.stripes)
        drawn.array.render()

    def _draw_mouth(self, gap: float) -> None:
        self._mouth.number("mouth_gap", gap)
        for array, tint, shine in ((self._teeth_array, TEETH_TINT, 0.3), (self._gums_array, GUMS_TINT, 0.4)):
            self._mouth.number("teeth", float(array is self._teeth_array))
            self._mouth.number("tint", tint)
            self._mouth.number("shine", shine)
            array.render()

    def _read(self) -> NDArray[np.uint8]:
        """The picture, averaged down and with its first row on top."""
        side, step = self.size * self.supersample, self.supersample
        raw = np.frombuffer(self._target.read(components=3, alignment=1), np.uint8).reshape(side, side, 3)[::-1]
        total = np.zeros((self.size, self.size, 3), np.uint16)
        for row in range(step):
            for column in range(step):
                total += raw[row::step, column::step]
        return np.asarray((total + step * step // 2) // (step * step), np.uint8)


def _open_context() -> tuple[Any, Any]:
    """The moderngl module and an off-screen context."""
    try:
        import moderngl
    except ImportError as error:
        raise RenderingUnavailableError("rendering needs moderngl: pip install 'personalive[render]'") from error
    try:
        return moderngl, moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]  # its stub
    except Exception as error:  # moderngl raises plain Exception
        hint = "install libegl1 and libgl1-mesa-dri"
        raise RenderingUnavailableError(f"no off-screen OpenGL here ({hint}): {error}") from error
