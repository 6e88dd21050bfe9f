"""Finds faces in a frame with OpenCV's Haar cascades (they come with opencv-python-headless 4: no download)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import cv2.data
import numpy as np
import numpy.typing as npt

from personalive.media.frames import Pixels

_Grey: TypeAlias = npt.NDArray[Any]  # (H, W) uint8; OpenCV's stubs promise less
_Affine: TypeAlias = npt.NDArray[Any]  # (2, 3) float64


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
class FinderConfig:
    """Haar detection. Sides in pixels of the shrunken grey image that is searched."""

    quick: tuple[int, int] = (240, 30)
    """Longest side of the image, and the smallest face searched for in it: an eighth."""

    thorough: tuple[int, int] = (640, 28)
    """The same where the quick search found too little: faces down to 1/23 of the longest side."""

    near_face: int = 48
    """Side to which an expected face is brought when only its surroundings are searched."""

    near_reach: float = 1.0
    """How far these surroundings reach from the face's centre, in its sides."""

    near_ratio: float = 1.5
    """How much larger or smaller than expected a face may be there."""

    tilt: float = 20.0
    """Degrees by which the image is turned either way where no upright face is found."""

    scale_step: float = 1.1
    neighbours: int = 5
    near_neighbours: int = 3
    """Overlapping detections that make a face: fewer where one is expected, since less can be mistaken for it."""

    lax: tuple[int, int] = (320, 40)
    """As `quick`, for the likeliest place of something that is no clear face: at least an eighth of the picture."""

    lax_step: float = 1.05

    profile_more: int = 2
    """So many more for a profile, which that cascade sees in many a pattern."""


class FaceFinder:
    """Finds faces: frontal ones, else tilted ones, else profiles. One finder for one thread."""

    def __init__(self, config: FinderConfig | None = None) -> None:
        """Loads the cascades and keeps OpenCV to one thread (its pool costs more than it brings at these sizes)."""
        self._config = config or FinderConfig()
        cv2.setNumThreads(1)
        self._frontal = _cascade("haarcascade_frontalface_alt.xml")
        self._profile = _cascade("haarcascade_profileface.xml")

    def find(self, frame: Pixels, *, wanted: int = 1, thorough: bool = False) -> list[FaceBox]:
        """All faces in a (H, W, 3) uint8 RGB frame, largest first; an empty list when there is none.

        `thorough` goes on to small and tilted faces when fewer than `wanted` were found: for portraits; several
        times slower where there is no face.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        faces: list[FaceBox] = []
        for longest, smallest in (self._config.quick, self._config.thorough) if thorough else (self._config.quick,):
            scale = min(1.0, longest / max(grey.shape))
            found = self._search(_scaled(grey, scale), self._config.neighbours, smallest, None, tilted=thorough)
            if len(found) > len(faces):
                faces = [FaceBox(face.x / scale, face.y / scale, face.side / scale) for face in found]
            if len(faces) >= wanted:
                break
        return faces

    def find_near(self, frame: Pixels, expected: FaceBox) -> FaceBox | None:
        """The face that overlaps `expected` most, of about its size, searched in its surroundings only: quick."""
        config = self._config
        reach = config.near_reach * expected.side
        height, width = frame.shape[:2]
        left, top = max(0, int(expected.x - reach)), max(0, int(expected.y - reach))
        right, bottom = min(width, int(expected.x + reach)), min(height, int(expected.y + reach))
        if right <= left or bottom <= top:
            return None
        grey = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
        scale = min(1.0, config.near_face / expected.side)
        smallest = round(expected.side * scale / config.near_ratio)
        largest = round(expected.side * scale * config.near_ratio)
        found = self._search(_scaled(grey, scale), config.near_neighbours, smallest, largest, tilted=True)
        faces = [FaceBox(left + face.x / scale, top + face.y / scale, face.side / scale) for face in found]
        return max(faces, key=expected.overlap, default=None)

    def likeliest(self, frame: Pixels) -> FaceBox | None:
        """The place that looks most like a face in a (H, W, 3) uint8 RGB frame in which `find` finds none.

        Upright and tilted, up to twice as far; by the most overlapping detections, of which one is enough. None: none.
        """
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        longest, smallest = self._config.lax
        scale = min(1.0, longest / max(grey.shape))
        small = _scaled(grey, scale)
        found: list[tuple[int, FaceBox]] = []
        for degrees in (turns * self._config.tilt for turns in (0, -1, 1, -2, 2)):
            turned, back = _turned(small, degrees, mirrored=False)
            boxes, counts = self._frontal.detectMultiScale2(
                turned, scaleFactor=self._config.lax_step, minNeighbors=1, minSize=(smallest, smallest)
            )
            found += [(int(count), _moved_back(box, back)) for box, count in zip(boxes, counts, strict=True)]
        if not found:
            return None
        _, face = max(found, key=lambda one: (one[0], one[1].side))
        return FaceBox(face.x / scale, face.y / scale, face.side / scale)

    def _search(
        self, grey: _Grey, neighbours: int, smallest: int, largest: int | None, *, tilted: bool
    ) -> list[FaceBox]:
        """Faces in pixels of `grey`, largest first: the first kind of which there is any."""
        kinds = [(self._frontal, 0.0, False)]
        if tilted:
            kinds += [(self._frontal, -self._config.tilt, False), (self._frontal, self._config.tilt, False)]
        kinds += [(self._profile, 0.0, False), (self._profile, 0.0, True)]  # it knows profiles to one side only
        largest = max(grey.shape) if largest is None else largest
        for cascade, degrees, mirrored in kinds:
            turned, back = _turned(grey, degrees, mirrored)
            more = self._config.profile_more if cascade is self._profile else 0
            boxes = cascade.detectMultiScale(
                turned,
                scaleFactor=self._config.scale_step,
                minNeighbors=neighbours + more,
                minSize=(smallest, smallest),
                maxSize=(largest, largest),
            )
            if len(boxes):
                faces = [_moved_back(box, back) for box in boxes]
                return sorted(faces, key=lambda face: face.side, reverse=True)
        return []


def _turned(grey: _Grey, degrees: float, mirrored: bool) -> tuple[_Grey, _Affine]:
    """`grey` turned about its centre or mirrored, and the (2, 3) map from its pixels back to those of `grey`."""
    height, width = grey.shape
    if mirrored:
        return cv2.flip(grey, 1), np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0]])
    if degrees == 0.0:
        return grey, np.eye(2, 3)
    there = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(grey, there, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return turned, cv2.invertAffineTransform(there)


def _moved_back(box: Sequence[int], back: _Affine) -> FaceBox:
    """A detection (left, top, width, height) as a face where it is in the image before `_turned`."""
    left, top, width, height = (float(value) for value in box)
    x, y = back @ np.array([left + width / 2, top + height / 2, 1.0])
    return FaceBox(float(x), float(y), width)


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
