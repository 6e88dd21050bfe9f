"""Matrices that look at the head: the camera, the lights, and where the eyes turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from personalive.rendering.ground_truth import Camera

Array = NDArray[np.float64]

NEAR, FAR = 25.0, 170.0  # cm
GAZE_ACROSS, GAZE_UPDOWN = 0.52, 0.36  # radians an eye turns per unit of an eyeLook coefficient


def gaze_angles(
    coefficients: NDArray[np.floating], index: dict[str, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Turn of the left and of the right eye: (to the picture's right, up), radians, from the eyeLook coefficients."""

    def value(name: str) -> float:
        return float(coefficients[index[name]])

    left = (value("eyeLookOut_L") - value("eyeLookIn_L"), value("eyeLookUp_L") - value("eyeLookDown_L"))
    right = (value("eyeLookIn_R") - value("eyeLookOut_R"), value("eyeLookUp_R") - value("eyeLookDown_R"))
    return (left[0] * GAZE_ACROSS, left[1] * GAZE_UPDOWN), (right[0] * GAZE_ACROSS, right[1] * GAZE_UPDOWN)


def eyes_pushed_back(coefficients: NDArray[np.floating], index: dict[str, int]) -> tuple[float, float]:
    """How far the left and the right eyeball are drawn behind their place, cm: closing lids must not cut into them."""

    def closed(side: str) -> float:
        return max(
            float(coefficients[index[f"eyeBlink_{side}"]]), 0.5 * float(coefficients[index[f"eyeSquint_{side}"]])
        )

    return 0.03 + 0.13 * closed("L"), 0.03 + 0.13 * closed("R")


def gaze_rotation(across: float, up: float) -> Array:
    """Rotation (3, 3) that takes +z to the looking direction."""
    ca, sa, cu, su = np.cos(across), np.sin(across), np.cos(up), np.sin(up)
    sideways = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    upwards = np.array([[1, 0, 0], [0, cu, su], [0, -su, cu]])
    return np.asarray(sideways @ upwards)


def perspective(camera: Camera) -> Array:
    """World -> clip space (4, 4), rows."""
    focal = camera.focal
    projection = np.array(
        [
            [focal, 0, 0, 0],
            [0, focal, 0, 0],
            [0, 0, -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
            [0, 0, -1, 0],
        ]
    )
    view = np.eye(4)
    view[:3, 3] = [0, -camera.height, -camera.distance]
    return np.asarray(projection @ view)


def orthographic(direction: Array, extent: float) -> Array:
    """Look from `direction` at the origin, seeing `extent` cm to every side and 40 cm of depth each way; rows."""
    helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.95 else np.array([1.0, 0.0, 0.0])
    right = np.cross(helper, direction)
    right = right / np.linalg.norm(right)
    up = np.cross(direction, right)
    view = np.eye(4)
    view[0, :3], view[1, :3], view[2, :3] = right / extent, up / extent, -direction / 40.0
    return view


def sphere(count: int) -> Array:
    """Directions (count, 3) spread evenly by the golden angle."""
    number = np.arange(count)
    z = 1 - 2 * (number + 0.5) / count
    turn = number * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(turn), z, flat * np.sin(turn)], axis=-1)
