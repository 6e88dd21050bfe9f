"""Eyes, nose tip and mouth in a frame, by which a face is brought to where a recognition network expects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import cv2.data
import numpy as np

from personalive.errors import WeightsError
from personalive.evaluation.mesh import MeshTracker
from personalive.evaluation.networks import file_hash
from personalive.evaluation.yardstick import Array, face_boxes
from personalive.media.frames import Pixels
from personalive.motion.face_finder import FaceBox

FacePoints: TypeAlias = Callable[[Pixels], Array | None]
"""A frame (H, W, 3) -> eyes, nose tip and mouth corners (5, 2) in pixels, left in the picture first; None: no face."""

_MESH_EYES, _MESH_NOSE, _MESH_MOUTH = ((33, 133), (362, 263)), 1, (61, 291)

EYES = np.array([[-0.185, -0.094], [0.182, -0.094]])
"""Where the eyes lie from the middle of the detector's square, in its sides, the left of the picture first: the median
over 8 portraits and 33 frames of real drivers and outputs (standard deviation .02), read by mediapipe's mesh."""

MOUTH = 0.415
"""From the middle between the eyes down to that of the mouth corners, in sides of the square (deviation .04)."""

_NEAR = 0.09  # sides of the square by which an eye may lie away from EYES
_SIDE = 200  # pixels to which the square is brought for the search of eyes
_ROWS = (20, 120)  # of these: where eyes can be


def yunet(path: Path) -> FacePoints:
    """Return what finds the five points of the largest face, by OpenCV's FaceDetectorYN from a YuNet ONNX file.

    Raises WeightsError for another kind of file.
    """
    file_hash(path)
    try:
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.6)
    except cv2.error as error:
        raise WeightsError(f"{path} is not a YuNet network that OpenCV reads") from error

    def points(frame: Pixels) -> Array | None:
        detector.setInputSize((frame.shape[1], frame.shape[0]))
        _, faces = detector.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if faces is None or not len(faces):
            return None
        largest = max(faces, key=lambda face: float(face[2] * face[3]))
        return np.asarray(largest[4:14], np.float64).reshape(5, 2)

    return points


def mesh_points(mesh: MeshTracker) -> FacePoints:
    """Return what finds the five points by a face mesh: an eye lies in the middle of its corners."""

    def points(frame: Pixels) -> Array | None:
        found = mesh.points(frame)[:, :2]
        if np.isnan(found).any():
            return None
        eyes = [found[list(corners)].mean(0) for corners in _MESH_EYES]
        return np.stack([*eyes, found[_MESH_NOSE], *found[list(_MESH_MOUTH)]])

    return points


def detected_points(frames: Pixels) -> list[Array | None]:
    """Return eyes and middle of the mouth (3, 2) in frames (F, H, W, 3) of one video, by OpenCV's cascades alone.

    An eye that is not found lies where it does in a mean face; the mouth follows from eyes and square. None: no face.
    """
    boxes = face_boxes(frames)
    if boxes is None:
        return [None] * len(frames)
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_eye_tree_eyeglasses.xml"))
    return [_in_box(frame, box, cascade) for frame, box in zip(frames, boxes, strict=True)]


def _in_box(frame: Pixels, box: FaceBox, cascade: cv2.CascadeClassifier) -> Array:
    scale = _SIDE / box.side
    to_cut = np.array([[scale, 0, _SIDE / 2 - box.x * scale], [0, scale, _SIDE / 2 - box.y * scale - _ROWS[0]]])
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    size = (_SIDE, _ROWS[1] - _ROWS[0])
    cut: Any = cv2.warpAffine(grey, to_cut, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found = cascade.detectMultiScale(cut, 1.05, 3, minSize=(30, 30), maxSize=(80, 80))
    seen = [((x + w / 2) / _SIDE - 0.5, (y + _ROWS[0] + h / 2) / _SIDE - 0.5) for x, y, w, h in found]
    eyes = np.stack([_nearest(usual, seen) for usual in EYES])
    across = eyes[1] - eyes[0]
    down = np.array([-across[1], across[0]]) / np.linalg.norm(across)
    points = np.concatenate([eyes, [eyes.mean(0) + MOUTH * down]])
    return np.asarray(points * box.side + (box.x, box.y))


def _nearest(usual: Array, seen: Sequence[tuple[float, float]]) -> Array:
    """The seen eye nearest to its usual place, or that place where none is near."""
    near = [np.array(eye) for eye in seen if np.hypot(*(np.array(eye) - usual)) < _NEAR]
    return min(near, key=lambda eye: float(np.hypot(*(eye - usual))), default=usual)
