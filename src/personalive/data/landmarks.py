"""Where eyes and mouth are, and what they do: known to a renderer, else by the mean face in the box around the face.

Loss weights by region need no more than that. Real video has a face box from the detector and no landmarks; the 68
landmarks of a mean, frontal, calm face are put into it. On 5,120 rendered frames the middles of eyes and mouth are
missed by 0.10 of the box's width in the mean: 0.05 up to 10 degrees of yaw, 0.22 beyond 40.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from personalive.data.shards import FloatArray, PersonRecord

# The 68 landmarks (iBUG's order) in a face box, x and y in thousandths of its sides: means over the portrait frames of
# 128 rendered people (standard deviations 0.03 and 0.01), both halves of the face averaged.
# fmt: off
_MEAN_FACE = np.array([
    71, 406, 75, 503, 91, 592, 110, 678, 156, 778, 238, 862, 310, 903, 402, 929, 500, 946, 598, 929, 690, 903, 762, 862,
    844, 778, 890, 678, 909, 592, 925, 503, 929, 406, 142, 331, 191, 292, 260, 276, 346, 277, 425, 290, 575, 290,
    654, 277, 740, 276, 809, 292, 858, 331, 500, 396, 500, 449, 500, 499, 500, 560, 419, 634, 461, 634, 500, 638,
    539, 634, 581, 634, 223, 413, 258, 392, 325, 388, 385, 421, 329, 428, 259, 429, 615, 421, 675, 388, 742, 392,
    777, 413, 741, 429, 671, 428, 337, 744, 388, 713, 452, 698, 500, 702, 548, 698, 612, 713, 663, 744, 617, 775,
    568, 789, 500, 794, 432, 789, 383, 775, 357, 743, 434, 739, 500, 741, 566, 739, 643, 743, 570, 743, 500, 745,
    430, 743,
]).reshape(68, 2) / 1000
# fmt: on

# The face box of a shard (landmarks with a margin and the forehead) around the detector's square, in its sides from
# its centre: x1, y1, x2, y2, measured on the same 128 frames (standard deviations 0.03).
_BOX_AROUND_DETECTION = np.array([-0.452, -0.566, 0.452, 0.618])

EXPRESSION = ("mouth", "blink", "smile", "brow")
"""Mouth opening, eye closure, mouth width, brow height, all over the face's size."""

_PAIRS = {"mouth": ((62, 66),), "blink": ((37, 41), (38, 40), (43, 47), (44, 46)), "smile": ((48, 54),)}


def landmarks_of(person: PersonRecord) -> FloatArray:
    """The 68 landmarks of every frame (F, 68, 2) in [-1, 1]: the ground truth, or estimated from the face boxes."""
    return estimate_landmarks(person.face_box) if person.truth is None else person.truth.landmarks


def estimate_landmarks(face_box: NDArray[np.floating]) -> FloatArray:
    """Landmarks (F, 68, 2) of a calm frontal face in boxes (F, 4), any unit."""
    low, high = face_box[:, None, :2], face_box[:, None, 2:]
    return np.asarray(low + _MEAN_FACE * (high - low), np.float32)


def box_of_detection(x: float, y: float, side: float) -> FloatArray:
    """The face box (4,) that goes with a detected square (motion.face_finder.FaceBox), same unit."""
    return np.asarray(np.array([x, y, x, y]) + _BOX_AROUND_DETECTION * side, np.float32)


def truth_signals(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """The four signals (F, 4) of EXPRESSION from landmarks (F, 68, 2), any unit.

    Distances over the face's size: outer eye corners apart plus the length of the nose, which no expression moves.
    Blink is minus the mean lid opening; brow the height of the brows over the middle between the eye's corners.
    """
    points = np.asarray(landmarks, np.float64)

    def apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(first - second, axis=-1))

    size = np.maximum(apart(points[:, 36], points[:, 45]) + apart(points[:, 27], points[:, 33]), 1e-6)
    mouth, lids, smile = (
        np.mean([apart(points[:, a], points[:, b]) for a, b in pairs], axis=0) for pairs in _PAIRS.values()
    )
    eyes = (points[:, (36, 42)] + points[:, (39, 45)]) / 2  # (F, 2, 2) middle of each eye
    brow = apart(points[:, (19, 24)], eyes).mean(-1)
    return np.asarray(np.stack([mouth, -lids, smile, brow], axis=-1) / size[:, None])
