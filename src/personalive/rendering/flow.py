"""Exact backward flow between two frames of a rendered person: where in the reference each pixel is to be found.

The target's geometry is drawn once more with every vertex's place in the reference frame as an attribute. A pixel is
visible in the reference where the reference shows the same part at the same depth there. The background stands still.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalive.data.geometry import pixel_grid
from personalive.rendering import flow_shaders
from personalive.rendering.face_model import FloatArray
from personalive.rendering.ground_truth import NECK_PIVOT, SHOULDER_SHARE, Pose, world_rotation
from personalive.rendering.layers import Part, Strands
from personalive.rendering.program import Program
from personalive.rendering.renderer import OPEN_MOUTH, DrawnLayer, Renderer
from personalive.rendering.views import eyes_pushed_back, gaze_angles, gaze_rotation, perspective

Frame = tuple[NDArray[np.floating], Pose]
"""Expression coefficients (E,) and pose."""

# How far apart two depths of the same part may lie and still be the same place, cm.
DEPTH_TOLERANCE: dict[Part, float] = {
    Part.BACKGROUND: np.inf,
    Part.SKIN: 0.45,
    Part.EYE: 0.6,
    Part.MOUTH: 0.5,
    Part.CLOTH: 0.8,
    Part.HAIR: 1.5,
    Part.GLASSES: 0.5,
    Part.HAT: 0.8,
    Part.BEARD: 0.9,
}
_TOLERANCES = np.array([DEPTH_TOLERANCE[part] for part in Part])
TORN = 0.03  # neighbouring pixels that move so much apart belong to different things; the picture is 2 wide
_FAR = 1e4  # cm, the background's depth


@dataclass(frozen=True)
class BackwardFlow:
    """Of a target frame, towards a reference frame; S x S pixels."""

    flow: FloatArray  # (S, S, 2) x right, y down: where the pixel is in the reference picture, in [-1, 1] or beyond
    visible: NDArray[np.bool_]  # (S, S) the reference shows that place
    part: NDArray[np.uint8]  # (S, S) what the target shows, numbers of Part


class FlowRenderer:
    """Draws flow and parts of the person that a Renderer holds, with that renderer's camera. Not thread safe."""

    def __init__(self, renderer: Renderer, size: int) -> None:
        self.size = size
        self._renderer = renderer
        self._layers: tuple[DrawnLayer, ...] | None = None
        self._arrays: list[tuple[DrawnLayer, Any, Any]] = []
        with renderer.context as context:
            side = (size, size)
            self._target = context.framebuffer([context.texture(side, 4, dtype="f4")], context.depth_renderbuffer(side))
            self._create_programs(context)
            self._create_head_arrays(context)

    def flows(self, reference: Frame, targets: Iterable[Frame]) -> list[BackwardFlow]:
        """The backward flow of each target towards the reference."""
        own = self._draw(reference, reference)
        return [_backward_flow(self._draw(target, reference), own) for target in targets]

    def parts(self, frame: Frame) -> NDArray[np.uint8]:
        """What each pixel of a frame shows (S, S), numbers of Part."""
        return self._draw(frame, frame)[..., 3].astype(np.uint8)

    def _create_programs(self, context: Any) -> None:
        self._head = Program(context, flow_shaders.HEAD_VERTEX, flow_shaders.FRAGMENT)
        self._eye = Program(context, flow_shaders.EYE_VERTEX, flow_shaders.FRAGMENT)
        self._surface = Program(context, flow_shaders.SURFACE_VERTEX, flow_shaders.FRAGMENT)
        self._strands = Program(context, flow_shaders.STRANDS_VERTEX, flow_shaders.FRAGMENT)
        self._programs = (self._head, self._eye, self._surface, self._strands)
        for each in self._programs:
            each.vectors("neck_pivot", NECK_PIVOT)
            each.number("shoulder_share", SHOULDER_SHARE)
            each.number("mouth_part", float(Part.MOUTH))
            each.number("skin", False)
        self._eye.vectors("eye_centre", self._renderer.head.eye_centres)
        self._eye.number("part", float(Part.EYE))

    def _create_head_arrays(self, context: Any) -> None:
        head = self._renderer.head
        rest = head.model.vertices
        self._here = context.buffer(reserve=len(rest) * 12, dynamic=True)
        self._there = context.buffer(reserve=len(rest) * 12, dynamic=True)
        columns = np.concatenate([rest, head.weight[:, None], head.eye_side[:, None]], axis=1)
        fixed = context.buffer(columns.astype(np.float32).tobytes())
        moving = [(self._here, "3f", "position"), (self._there, "3f", "position_there")]
        self._head_arrays = {}
        for name in ("skin", "teeth", "gums"):
            index = context.buffer(head.triangles[name].tobytes())
            layout = [*moving, (fixed, "3f 1f 4x", "rest", "weight")]
            self._head_arrays[name] = context.vertex_array(self._head.handle, layout, index)
        index = context.buffer(head.triangles["eyes"].tobytes())
        layout = [*moving, (fixed, "3f 1f 1f", "rest", "weight", "side")]
        self._eye_array = context.vertex_array(self._eye.handle, layout, index)

    def _take_up_layers(self, context: Any) -> None:
        """Make arrays of the current person's layers out of the buffers that the renderer draws from."""
        for _, array, offsets in self._arrays:
            array.release()
            if offsets is not None:
                offsets.release()
        self._arrays = []
        for drawn in self._renderer.layers:
            layout: list[tuple[Any, ...]]
            offsets = None
            if isinstance(drawn.layer, Strands):
                program = self._strands
                layout = [(drawn.content, "3f 3f 12x 1f 8x 1f", "position", "strand", "half_width", "weight")]
                if drawn.offsets is not None:
                    offsets = context.buffer(reserve=len(drawn.layer.vertices) * 12, dynamic=True)
                    layout += [(drawn.offsets, "3f", "offset"), (offsets, "3f", "offset_there")]
            else:
                program, layout = self._surface, [(drawn.content, "3f 24x 1f", "position", "weight")]
            self._arrays.append((drawn, context.vertex_array(program.handle, layout, drawn.index), offsets))
        self._layers = self._renderer.layers

    def _draw(self, target: Frame, reference: Frame) -> FloatArray:
        """(S, S, 4): x and y in the reference, depth there in cm, part."""
        renderer = self._renderer
        here, there = renderer.expressed(target[0]), renderer.expressed(reference[0])
        with renderer.context as context:
            if self._layers is not renderer.layers:
                self._take_up_layers(context)
            self._here.write(here.astype(np.float32).tobytes())
            self._there.write(there.astype(np.float32).tobytes())
            self._set_uniforms(target, reference)
            self._target.use()
            self._target.clear(0.0, 0.0, _FAR, 0.0)
            context.enable(context.DEPTH_TEST)
            self._draw_head(context, renderer.lip_gap(here) > OPEN_MOUTH)
            self._draw_layers(here - renderer.neutral, there - renderer.neutral)
            raw = np.frombuffer(self._target.read(components=4, alignment=1, dtype="f4"), np.float32)
        values: FloatArray = raw.reshape(self.size, self.size, 4)[::-1].copy()  # the first row on top
        background = values[..., 3] == Part.BACKGROUND
        values[background, :2] = pixel_grid(self.size)[background]
        return values

    def _set_uniforms(self, target: Frame, reference: Frame) -> None:
        camera, (face, pose), (face_there, pose_there) = self._renderer.camera, target, reference
        for each in self._programs:
            each.matrix("view_projection", perspective(camera))
            each.vectors("camera", camera.position)
            each.matrix("head_rotation", world_rotation(pose))
            each.vectors("head_shift", pose.shift)
            each.matrix("reference_rotation", world_rotation(pose_there))
            each.vectors("reference_shift", pose_there.shift)
            each.number("collar", self._renderer.person.clothes.collar)
        index = self._renderer.head.model.expression_index
        turns = zip(gaze_angles(face, index), gaze_angles(face_there, index), strict=True)
        self._eye.matrices("carry", [gaze_rotation(*then) @ gaze_rotation(*now).T for now, then in turns])
        self._eye.number("eye_scale", 1.0 + self._renderer.person.proportions.eyes)
        self._eye.number("pushed_back", eyes_pushed_back(face, index))
        self._eye.number("pushed_back_there", eyes_pushed_back(face_there, index))

    def _draw_head(self, context: Any, open_mouth: bool) -> None:
        self._head.number("skin", True)
        self._head.number("part", float(Part.SKIN))
        context.enable(context.CULL_FACE)
        self._head_arrays["skin"].render()
        context.disable(context.CULL_FACE)
        self._eye_array.render()
        self._head.number("skin", False)
        self._head.number("part", float(Part.MOUTH))
        if open_mouth:
            self._head_arrays["teeth"].render()
            self._head_arrays["gums"].render()

    def _draw_layers(self, shift: FloatArray, shift_there: FloatArray) -> None:
        for drawn, array, offsets in self._arrays:
            layer = drawn.layer
            if isinstance(layer, Strands) and layer.anchors is not None:
                drawn.offsets.write(layer.anchors.offsets(shift).tobytes())
                offsets.write(layer.anchors.offsets(shift_there).tobytes())
            program = self._strands if isinstance(layer, Strands) else self._surface
            program.number("part", float(layer.part))
            array.render()


def halved_flow(found: BackwardFlow) -> FloatArray:
    """The flow (S / 2, S / 2, 2) for cells of two by two pixels.

    The mean where a cell shows one part that moves as one; else the movement of a pixel of the part that it shows most.
    """
    half = found.part.shape[0] // 2
    moves = _cells(found.flow - pixel_grid(2 * half), half)  # (half, half, 4, 2)
    part = _cells(found.part, half)
    common = (part[..., :, None] == part[..., None, :]).sum(-1).argmax(-1)[..., None, None]
    chosen = np.take_along_axis(moves, common, axis=2)[:, :, 0]
    as_one = (part == part[..., :1]).all(-1) & (np.ptp(moves, axis=2).max(-1) < TORN)
    return np.asarray(np.where(as_one[..., None], moves.mean(2), chosen) + pixel_grid(half), np.float32)


def _cells(values: NDArray[Any], half: int) -> NDArray[Any]:
    """(2h, 2h, ...) -> (h, h, 4, ...): the pixels of each cell."""
    rest = values.shape[2:]
    blocks = values.reshape(half, 2, half, 2, *rest).swapaxes(1, 2)  # (h, h, 2, 2, ...)
    return np.asarray(blocks.reshape(half, half, 4, *rest))


def _backward_flow(values: FloatArray, own: FloatArray) -> BackwardFlow:
    """From what `_draw` gives for the target (S, S, 4), and for the reference itself."""
    size = len(values)
    flow, depth, part = values[..., :2], values[..., 2], values[..., 3].astype(np.uint8)
    column, row = np.moveaxis(np.floor((flow + 1) / 2 * size).astype(int), -1, 0)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    seen = np.zeros(part.shape, bool)
    for down in (-1, 0, 1):  # depth jumps within a pixel: a neighbour that fits is enough
        for right in (-1, 0, 1):
            there = own[(row + down).clip(0, size - 1), (column + right).clip(0, size - 1)]
            seen |= (there[..., 3] == part) & (np.abs(there[..., 2] - depth) < _TOLERANCES[part])
    shown = own[row.clip(0, size - 1), column.clip(0, size - 1), 3]
    visible = np.where(part == Part.BACKGROUND, shown == Part.BACKGROUND, seen) & inside
    return BackwardFlow(flow.copy(), visible, part)
