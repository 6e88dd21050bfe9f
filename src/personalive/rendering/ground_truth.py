"""Pose, camera, and the exact motion signals of a rendered frame, in the convention of the motion extractor.

Pictures are normalised to [-1, 1], x right, y down. Angles are degrees with R = (Rz(roll) Ry(yaw) Rx(pitch))^T and
keypoints as row vectors: keypoints = canonical @ R * scale + t (PersonaLive; LivePortrait's implicit keypoints).
The renderer's own world is in centimetres with y up and z towards the camera: image axes are (x, -y, -z) of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Array = NDArray[np.float64]

KEYPOINTS = 21
# Which of the 68 landmarks each keypoint is. The drawn seven (1, 2, 3, 4, 12, 15, 20) are the outer eye corners, nose
# tip, mouth corners, chin and nose root; the others spread over the rigid head: cheeks and jaw, brows, nose, lips.
KEYPOINT_LANDMARKS = (33, 36, 45, 30, 48, 0, 16, 3, 13, 19, 24, 39, 54, 42, 51, 8, 57, 21, 22, 28, 27)
TO_IMAGE_AXES: Array = np.array([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera looking along -z, square picture."""

    field_of_view: float = 20.0  # degrees, whole picture
    height: float = 1.6  # cm above the head's origin (which lies between nose and ears)
    distance: float = 82.0  # cm in front of it

    @property
    def focal(self) -> float:
        """Focal length in half picture widths."""
        return float(1.0 / np.tan(np.radians(self.field_of_view) / 2.0))

    @property
    def position(self) -> Array:
        """(3,) place of the camera in world centimetres."""
        return np.array([0.0, self.height, self.distance])

    def project(self, points: NDArray[np.floating]) -> Array:
        """World points (..., 3), cm -> picture positions (..., 2) in [-1, 1], x right, y down."""
        depth = self.distance - np.asarray(points[..., 2], np.float64)
        x = points[..., 0] * self.focal / depth
        y = (self.height - points[..., 1]) * self.focal / depth
        return np.stack([x, y], axis=-1)


@dataclass(frozen=True)
class Pose:
    """Head pose: angles in degrees (PersonaLive's convention) and a shift in world centimetres."""

    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    right: float = 0.0
    up: float = 0.0
    nearer: float = 0.0

    @property
    def angles(self) -> tuple[float, float, float]:
        """(pitch, yaw, roll), degrees."""
        return self.pitch, self.yaw, self.roll

    @property
    def shift(self) -> Array:
        """(3,) shift of the head in world centimetres."""
        return np.array([self.right, self.up, self.nearer])


NECK_PIVOT: Array = np.array([0.0, -5.0, 0.0])  # the head turns about this point, cm
SHOULDER_SHARE = 0.3  # how much of the head's shift the shoulders follow


def rotation(pitch: float, yaw: float, roll: float) -> Array:
    """R (3, 3) of the row-vector convention: keypoints @ R. Angles in degrees."""
    p, y, r = np.radians([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray((about_z @ about_y @ about_x).T)


def world_rotation(pose: Pose) -> Array:
    """The same rotation for column vectors in world axes: world' = world_rotation @ world."""
    flip = np.diag(TO_IMAGE_AXES)
    return np.asarray(flip @ rotation(*pose.angles).T @ flip)


def head_weight(rest: NDArray[np.floating]) -> Array:
    """How rigidly points (..., 3) of the resting figure follow the head: 1 on the head, 0 on the shoulders."""
    along = np.clip((rest[..., 1] + 0.4 * rest[..., 2] + 13.0) / 8.0, 0.0, 1.0)
    return np.asarray(along * along * (3.0 - 2.0 * along), np.float64)


def apply_pose(points: NDArray[np.floating], weight: NDArray[np.floating], pose: Pose) -> Array:
    """Move points (N, 3), cm, with weights (N,) by `pose`; the neck blends linearly. The shader does the same."""
    offset = np.asarray(points, np.float64) - NECK_PIVOT
    turned = offset @ world_rotation(pose).T
    share = weight[:, None]
    followed = SHOULDER_SHARE + (1 - SHOULDER_SHARE) * share
    return np.asarray(turned * share + offset * (1 - share) + NECK_PIVOT + pose.shift * followed)


def canonical_keypoints(landmarks: NDArray[np.floating], camera: Camera) -> FloatArray:
    """A person's keypoints (21, 3) at rest from the expressionless landmarks (68, 3), cm.

    Image axes, origin at the neck pivot (so that a turning head needs no translation), in units that make the scale
    about 1 for a head at the default distance.
    """
    points = np.asarray(landmarks, np.float64)[list(KEYPOINT_LANDMARKS)]
    unit = camera.focal / (camera.distance - points[:, 2].mean())
    return np.asarray((points - NECK_PIVOT) * TO_IMAGE_AXES * unit, np.float32)


@dataclass(frozen=True)
class Similarity:
    """The best scale and translation of one frame, and what they leave unexplained (perspective)."""

    scale: float
    translation: FloatArray  # (2,)
    residual: float  # mean distance in normalised units


def fit_similarity(canonical: NDArray[np.floating], keypoints: NDArray[np.floating], pose: Pose) -> Similarity:
    """Least squares of (canonical @ R * scale)[:, :2] + t against keypoints (21, 2), with R given by the pose."""
    turned = (np.asarray(canonical, np.float64) @ rotation(*pose.angles))[:, :2]
    mean, target_mean = turned.mean(0), keypoints.mean(0)
    centred, target = turned - mean, keypoints - target_mean
    scale = float((centred * target).sum() / (centred * centred).sum())
    translation = target_mean - mean * scale
    residual = np.linalg.norm(turned * scale + translation - keypoints, axis=1).mean()
    return Similarity(scale, np.asarray(translation, np.float32), float(residual))


def face_box(landmarks: NDArray[np.floating]) -> FloatArray:
    """Box (4,) x1, y1, x2, y2 in [-1, 1] around projected landmarks (68, 2), with a margin and the forehead."""
    low, high = landmarks.min(0), landmarks.max(0)
    width, height = high - low
    margin = np.array([0.08 * width, 0.40 * height, 0.08 * width, 0.08 * height])
    box = np.concatenate([low - margin[:2], high + margin[2:]])
    return np.asarray(np.clip(box, -1.0, 1.0), np.float32)
