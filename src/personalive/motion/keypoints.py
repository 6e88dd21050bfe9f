"""Head pose arithmetic: posed keypoints, retargeting to a reference, the keypoint drawing, the face box.

The equations stand in docs/model.md, sections 2.3 to 2.6.

Everything here is a function of tensors and works for any leading shape written (...). Image coordinates: x right,
y down; a keypoint coordinate in [-1, 1] spans the picture, and pixel i covers [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.config import KeypointConfig, StreamConfig
from personalive.contracts import HeadMotion
from personalive.device import constant
from personalive.errors import ConfigError

COLOURS = (
    (255, 0, 0),
    (255, 255, 0),
    (0, 255, 0),
    (0, 255, 255),
    (0, 0, 255),
    (255, 0, 255),
    (255, 0, 85),
)
"""8-bit RGB of the drawn keypoints, in the order of `KeypointConfig.drawn`; a longer list starts again."""

SCALE_RATIO_LIMIT = 4.0
"""A driving head counts as at most this many times larger or smaller than it was in the first driving frame."""

MIN_BOX_FRACTION = 16
"""A face box narrower or lower than size / 16 is taken for a failure: no face that small carries expression."""


@dataclass(frozen=True)
class MotionGains:
    """How strongly a driver moves the portrait; 1 copies, 0 ignores, changes count from the first driving frame.

    `rotation` scales how far the angles have turned since the first driving frame, which itself is followed as it is
    (1, the published value, is plain absolute rotation). `translation` and `scale` do the same for the head's
    place and size, which start at the reference's. `expression` scales how far the motion tokens are from the
    reference's own. Range 0..2 each; ConfigError otherwise.
    """

    rotation: float = 1.0
    translation: float = 0.5
    scale: float = 0.0
    expression: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rotation", "translation", "scale", "expression"):
            value = getattr(self, name)
            if not 0.0 <= value <= 2.0:
                raise ConfigError(f"the {name} gain is {value}; choose a number from 0 to 2")

    @classmethod
    def of(cls, config: StreamConfig) -> MotionGains:
        """The gains that a model was made for."""
        return cls(translation=config.translation_gain, scale=config.scale_gain)


def rotation(angles: Tensor) -> Tensor:
    """Angles (..., 3) pitch, yaw, roll in degrees -> matrices (..., 3, 3) to multiply row vectors with from the right.

    (Rz(roll) Ry(yaw) Rx(pitch)) transposed, written out (docs/model.md, section 2.3).
    """
    pitch, yaw, roll = torch.deg2rad(angles).unbind(-1)
    cp, sp, cy, sy, cr, sr = pitch.cos(), pitch.sin(), yaw.cos(), yaw.sin(), roll.cos(), roll.sin()
    columns = (
        (cr * cy, sr * cy, -sy),
        (cr * sy * sp - sr * cp, sr * sy * sp + cr * cp, cy * sp),
        (cr * sy * cp + sr * sp, sr * sy * cp - cr * sp, cy * cp),
    )
    return torch.stack([torch.stack(column, dim=-1) for column in columns], dim=-2)  # (..., 3, 3)


def pose_keypoints(head: HeadMotion) -> Tensor:
    """Canonical keypoints in the head's pose: (..., 21, 3). Translation moves x and y; z keeps its own zero."""
    turned = head.keypoints @ rotation(head.angles) * head.scale.unsqueeze(-1)
    flat = torch.cat([head.translation[..., :2], torch.zeros_like(head.translation[..., :1])], dim=-1)
    return turned + flat.unsqueeze(-2)  # (..., 21, 3) + (..., 1, 3)


def retarget(
    reference: HeadMotion,
    first: HeadMotion,
    driving: HeadMotion,
    translation_gain: float,
    scale_gain: float,
    rotation_gain: float = 1.0,
    relative: bool = False,
) -> HeadMotion:
    """The reference's head moved as the driver moves; leading shapes broadcast, the result has the driving one's.

    Canonical keypoints are the reference's; angles = first + rotation_gain * (driving - first), which is absolute
    rotation at 1 (as published, and then to the last bit); translation = reference + gain * (driving - first); scale
    = reference * (driving / first)^gain, the ratio kept within SCALE_RATIO_LIMIT (gain 0 as published).
    relative: the reference's head turns from its own angles as the driver's turns from the first (not as published).
    """
    shape = driving.scale.shape[:-1]
    angles = torch.lerp(first.angles.expand_as(driving.angles), driving.angles, rotation_gain)
    if relative:  # angle by angle: a driver whose first frame is tilted does not mix a turn with a nod
        angles = reference.angles + angles - first.angles
    translation = reference.translation + translation_gain * (driving.translation - first.translation)
    scale = reference.scale.expand_as(driving.scale)
    if scale_gain:
        tiny = torch.finfo(driving.scale.dtype).tiny
        ratio = driving.scale.clamp(min=tiny) / first.scale.clamp(min=tiny)
        scale = scale * ratio.clamp(1 / SCALE_RATIO_LIMIT, SCALE_RATIO_LIMIT) ** scale_gain
    keypoints = reference.keypoints.expand(*shape, *reference.keypoints.shape[-2:])
    return HeadMotion(keypoints, angles, translation, scale)


def interpolate(reference: HeadMotion, first: HeadMotion, steps: int) -> HeadMotion:
    """From the reference's pose (1, ...) towards the retargeted first driving pose (1, ...): `steps` heads.

    Head i has weight i / steps, so the first is the reference and the last falls one short of the target (docs/model.md
    3.3; the paper writes (i - 1) / (MN - 1)). A retargeted first frame shares the reference's translation and
    scale, so as published only the angles change; a stream that changes portraits midway arrives at other targets.
    """
    weights = lead_in_weights(steps, reference.angles)[:, None]  # (steps, 1)
    return HeadMotion(
        reference.keypoints.expand(steps, -1, -1),
        reference.angles + weights * (first.angles - reference.angles),
        reference.translation + weights * (first.translation - reference.translation),
        reference.scale + weights * (first.scale - reference.scale),
    )


def lead_in_weights(steps: int, like: Tensor) -> Tensor:
    """i / steps for i = 0..steps-1, (steps,), in the dtype and on the device of `like`."""
    return torch.arange(steps, dtype=like.dtype, device=like.device) / max(steps, 1)


def draw(keypoints: Tensor, size: int, config: KeypointConfig) -> Tensor:
    """Posed keypoints (N, 21, 3) -> pictures (N, 3, size, size) in [0, 1] for the pose guider.

    Coloured discs without antialiasing as published, or soft blobs (`KeypointConfig.soft`), which are differentiable;
    overlapping colours add up and are clamped. Points outside the picture are cut at its border.
    """
    points = _drawn(keypoints, config)  # (N, K, 2)
    chosen = tuple(COLOURS[i % len(COLOURS)] for i in range(len(config.drawn)))
    colours = constant(chosen, points.device, points.dtype) / 255  # (K, 3)
    drawing = _draw_blobs if config.soft else _draw_discs
    return drawing(points, colours, size, config.radius).clamp(0, 1)


def _draw_discs(points: Tensor, colours: Tensor, size: int, radius: float) -> Tensor:
    """Every pixel whose index lies within `radius` of the truncated centre, each disc adding its colour."""
    reach = int(radius)
    span = torch.arange(-reach, reach + 1, device=points.device)
    dy, dx = (grid.reshape(-1) for grid in torch.meshgrid(span, span, indexing="ij"))
    inside_disc = (dx * dx + dy * dy) <= radius * radius
    centres = _pixel_indices(points, size)  # (N, K, 2)
    x = centres[..., :1] + dx  # (N, K, P)
    y = centres[..., 1:] + dy
    visible = inside_disc & (x >= 0) & (x < size) & (y >= 0) & (y < size)
    places = (y * size + x).masked_fill(~visible, 0).flatten(1)  # (N, K * P)
    amounts = visible[:, None].to(points.dtype) * colours.T[None, :, :, None]  # (N, 3, K, P)
    count = points.shape[0]
    canvas = points.new_zeros(count, 3, size * size)
    canvas = canvas.scatter_add(2, places[:, None].expand(-1, 3, -1), amounts.flatten(2))
    return canvas.view(count, 3, size, size)


def _draw_blobs(points: Tensor, colours: Tensor, size: int, radius: float) -> Tensor:
    """Gaussians of standard deviation `radius` around exact centres; separable, so one small matrix product each."""
    centres = (points + 1) / 2 * size  # (N, K, 2) in pixels
    middle = torch.arange(size, dtype=points.dtype, device=points.device) + 0.5  # pixel i covers [i, i + 1)
    profile = torch.exp((centres[..., None] - middle).square() / (-2 * radius * radius))  # (N, K, 2, size)
    across, down = profile.unbind(2)  # (N, K, size) each
    tinted = down[:, None] * colours.T[None, :, :, None]  # (N, 3, K, size)
    return tinted.transpose(2, 3) @ across[:, None]  # (N, 3, size, K) @ (N, 1, K, size)


def _pixel_indices(points: Tensor, size: int) -> Tensor:
    """Coordinates in [-1, 1] -> pixel indices (int64), truncated towards zero; far or broken ones end outside."""
    pixels = torch.nan_to_num((points + 1) / 2 * size, nan=-size, posinf=4 * size, neginf=-4 * size)
    return pixels.clamp(-4 * size, 4 * size).long()


def face_box(keypoints: Tensor, size: int, config: KeypointConfig) -> Tensor:
    """The face's place in its picture from the frame's OWN posed keypoints (N, 21, 3): int64 (N, 4) x1, y1, x2, y2.

    Side = (mean y - smallest y) * 2 * box_scale, laid a little above the mean of the drawn keypoints, cut to
    0..size-1 and truncated (docs/model.md, section 2.6). The published rule can give an empty box or a sliver, when the
    keypoints fall together or leave the picture: where a side would be shorter than size / 16 the box is the whole
    picture here.
    """
    pixels = _pixel_indices(_drawn(keypoints, config), size).to(keypoints.dtype)
    centre = pixels.mean(dim=1)  # (N, 2)
    side = (centre[:, 1] - pixels[..., 1].amin(dim=1)) * 2 * config.box_scale  # (N,)
    corners = torch.cat([centre - config.box_before * side[:, None], centre + config.box_after * side[:, None]], dim=1)
    box = corners.clamp(0, size - 1).long()  # (N, 4)
    sides = box[:, 2:] - box[:, :2]
    sound = (sides >= max(1, size // MIN_BOX_FRACTION)).all(dim=1, keepdim=True)
    return torch.where(sound, box, constant((0, 0, size - 1, size - 1), box.device))


def _drawn(keypoints: Tensor, config: KeypointConfig) -> Tensor:
    """Of posed keypoints (N, 21, 3) those that are drawn, (N, K, 2)."""
    return keypoints[..., :2].index_select(1, constant(tuple(config.drawn), keypoints.device))


def crop_faces(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Crop images (N, 3, H, W) to boxes (N, 4), x2 and y2 exclusive, and resize each to (N, 3, side, side).

    Bilinear with half-pixel centres and no antialiasing, as torch's interpolate with align_corners=False, but for
    boxes of different sizes at once and without reading them back from the device. Differentiable in the images.
    """
    x1, y1, x2, y2 = boxes.unbind(1)  # (N,) each
    left, right, across = _sample_line(x1, x2, side, images.dtype)
    top, bottom, down = _sample_line(y1, y2, side, images.dtype)
    across, down = across[:, None, None, :], down[:, None, :, None]
    upper = torch.lerp(_pick(images, top, left), _pick(images, top, right), across)
    lower = torch.lerp(_pick(images, bottom, left), _pick(images, bottom, right), across)
    return torch.lerp(upper, lower, down)


def _sample_line(start: Tensor, stop: Tensor, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Where `side` samples of [start, stop) fall: lower index, upper index and weight of the upper, (N, side) each."""
    length = (stop - start)[:, None]
    steps = torch.arange(side, dtype=torch.float32, device=start.device) + 0.5
    place = ((length.float() / side) * steps - 0.5).clamp(min=0)
    lower = torch.minimum(place.long(), length - 1)
    upper = torch.minimum(lower + 1, length - 1)
    return lower + start[:, None], upper + start[:, None], (place - lower).to(dtype)


def _pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """images[n, :, rows[n, i], columns[n, j]] as (N, 3, I, J)."""
    batch = torch.arange(images.shape[0], device=images.device)[:, None, None]
    return images.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
