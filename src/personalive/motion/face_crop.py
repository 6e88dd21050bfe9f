"""Where the head is, and the square around it: for a portrait once, for a driver steadily.

The networks are trained on heads that fill their frame in one way; `FramingConfig` brings any picture to it.
Detection is OpenCV's Haar cascades (they come with opencv-python-headless 4, no download): quick and jittery.
`SteadyCrop` keeps the jitter away from the picture and the head's motion in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from personalive.errors import FaceNotFoundError
from personalive.media.frames import Pixels, resize_picture

_Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FaceBox:
    """A square around a face (brows to chin, ear to ear), in pixels of the frame: centre and side."""

    x: float
    y: float
    side: float

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union, 0 to 1."""
        reach = (self.side + other.side) / 2
        shared = 1.0
        for distance in (abs(self.x - other.x), abs(self.y - other.y)):
            shared *= max(0.0, min(reach - distance, self.side, other.side))
        return shared / (self.side**2 + other.side**2 - shared)


@dataclass(frozen=True)
class Square:
    """A square of the frame, in its pixels: centre and side. It may reach beyond the frame."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class FramingConfig:
    """From a face box to the square in which the networks expect the head."""

    side: float = 1.46
    """Side of the square divided by the side of the face box."""

    right: float = 0.0
    down: float = 0.0
    """From the centre of the face box to the centre of the square, in sides of the face box."""

    def square(self, face: FaceBox) -> Square:
        """The head-and-shoulders square of a face."""
        return Square(face.x + self.right * face.side, face.y + self.down * face.side, self.side * face.side)


@dataclass(frozen=True)
class FinderConfig:
    """Haar detection. Sides in pixels of the shrunken grey image unless said otherwise."""

    work_sides: tuple[int, ...] = (320, 640)
    """Longest side of the image searched; the next is tried only when nothing was found in the one before."""

    min_face: int = 28
    """Smallest face searched for, a little above the cascades' own window of 20 or 24."""

    near_face: int = 56
    """Side to which an expected face is brought when only its surroundings are searched."""

    near_reach: float = 1.0
    """How far around an expected face its surroundings reach, in its sides from its centre."""

    scale_step: float = 1.1
    neighbours: int = 5
    profile_neighbours: int = 8


class FaceFinder:
    """Finds upright faces: frontal ones, or, where there is none, profiles to either side. Not safe between threads."""

    def __init__(self, config: FinderConfig | None = None) -> None:
        """Loads the cascades and keeps OpenCV to one thread (its pool costs more than it brings at these sizes)."""
        self._config = config or FinderConfig()
        cv2.setNumThreads(1)
        self._frontal = _cascade("haarcascade_frontalface_alt2.xml")
        self._profile = _cascade("haarcascade_profileface.xml")

    def find(self, frame: Pixels) -> list[FaceBox]:
        """All faces in a (H, W, 3) uint8 RGB frame, largest first; an empty list when there is none."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        for side in self._config.work_sides:
            scale = min(1.0, side / max(grey.shape))
            faces = self._search(_scaled(grey, scale), self._config.min_face, None)
            if faces:
                return [FaceBox(face.x / scale, face.y / scale, face.side / scale) for face in faces]
            if scale == 1.0:
                break
        return []

    def find_near(self, frame: Pixels, expected: FaceBox) -> FaceBox | None:
        """The face that overlaps `expected` most, searched in its surroundings only: several times quicker."""
        reach = self._config.near_reach * expected.side
        height, width = frame.shape[:2]
        left, top = max(0, int(expected.x - reach)), max(0, int(expected.y - reach))
        right, bottom = min(width, int(expected.x + reach)), min(height, int(expected.y + reach))
        if right <= left or bottom <= top:
            return None
        grey = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self._config.near_face / expected.side)
        side = expected.side * scale
        found = self._search(_scaled(grey, scale), round(side / 1.5), round(side * 1.5))
        faces = [FaceBox(left + face.x / scale, top + face.y / scale, face.side / scale) for face in found]
        return max(faces, key=expected.overlap, default=None)

    def _search(self, grey: _Grey, smallest: int, largest: int | None) -> list[FaceBox]:
        """Faces in pixels of `grey`, largest first. Profiles only where nobody looks at the camera."""
        neighbours, profile_neighbours = self._config.neighbours, self._config.profile_neighbours
        faces = self._detect(self._frontal, grey, neighbours, smallest, largest)
        if not faces:
            faces = self._detect(self._profile, grey, profile_neighbours, smallest, largest)
        if not faces:  # the cascade knows profiles to one side only
            mirrored = self._detect(self._profile, cv2.flip(grey, 1), profile_neighbours, smallest, largest)
            faces = [FaceBox(grey.shape[1] - face.x, face.y, face.side) for face in mirrored]
        return sorted(faces, key=lambda face: face.side, reverse=True)

    def _detect(
        self, cascade: cv2.CascadeClassifier, grey: _Grey, neighbours: int, smallest: int, largest: int | None
    ) -> list[FaceBox]:
        limit = {} if largest is None else {"maxSize": (largest, largest)}
        boxes = cascade.detectMultiScale(
            grey, scaleFactor=self._config.scale_step, minNeighbors=neighbours, minSize=(smallest, smallest), **limit
        )
        return [FaceBox(x + width / 2, y + height / 2, float(width)) for x, y, width, height in boxes]


def _cascade(name: str) -> cv2.CascadeClassifier:
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / name))
    if cascade.empty():
        raise RuntimeError(f"OpenCV comes without {name}; install opencv-python-headless<5")
    return cascade


def _scaled(grey: _Grey, scale: float) -> _Grey:
    """Shrunk by averaging; left alone at scale 1."""
    if scale == 1.0:
        return grey
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
