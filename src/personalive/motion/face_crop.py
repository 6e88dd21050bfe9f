"""Where the head is, and the square around it: for a portrait once, for a driver steadily.

The networks are trained on heads that fill their frame in one way; `FramingConfig` brings any picture to it.
Detection (face_finder.py) is quick and jittery; `SteadyCrop` keeps the jitter away from the picture and the head's
motion in it.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from personalive.errors import FaceNotFoundError
from personalive.media.frames import Pixels, resize_picture
from personalive.motion.face_finder import FaceBox, FaceFinder


@dataclass(frozen=True)
class Square:
    """A square of the frame, in its pixels: centre and side. It may reach beyond the frame."""

    x: float
    y: float
    side: float

    def moved_inside(self, height: int, width: int, limit: float) -> Square:
        """Moved towards a frame of that size by at most `limit` of its side, so that less lies beyond the frame."""
        return Square(self._inside(self.x, width, limit), self._inside(self.y, height, limit), self.side)

    def _inside(self, centre: float, length: int, limit: float) -> float:
        half, most = self.side / 2, limit * self.side
        nearest = min(max(centre, half), length - half) if self.side <= length else length / 2
        return centre + min(max(nearest - centre, -most), most)


@dataclass(frozen=True)
class FramingConfig:
    """From a face box to the square in which the networks expect the head.

    Measured on the rendered training people: over the first, nearly frontal frame of 94 of them (128 px; all 94 found)
    the face box is 0.693 +- 0.003 of the frame wide and centred at 0.502 +- 0.003 across and 0.493 +- 0.002 down
    (mean +- standard error; standard deviations 0.033, 0.030 and 0.021).
    """

    side: float = 1.443
    """Side of the square divided by the side of the face box: 1 / 0.693."""

    down: float = 0.011
    """From the centre of the face box down to the centre of the square, in sides of the face box."""

    inside: float = 0.08
    """How far a portrait's square may move, in its sides, to stay on the picture instead of showing its border."""

    def square(self, face: FaceBox) -> Square:
        """The head-and-shoulders square of a face."""
        return Square(face.x, face.y + self.down * face.side, self.side * face.side)


def crop_square(frame: Pixels, square: Square, size: int) -> Pixels:
    """The square of a (H, W, 3) frame as (size, size, 3). Beyond the frame its border pixels are repeated.

    The square is taken at whole pixels and resized with PIL's Lanczos filter.
    """
    side = max(1, round(square.side))
    top, left = round(square.y - square.side / 2), round(square.x - square.side / 2)
    height, width = frame.shape[:2]
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        part = frame[top : top + side, left : left + side]
    else:
        rows = (top + np.arange(side)).clip(0, height - 1)
        columns = (left + np.arange(side)).clip(0, width - 1)
        part = frame[rows[:, None], columns[None, :]]  # (side, side, 3)
    return resize_picture(part, size)


AROUND = 1.5
"""Side of what is known around a framed portrait, over its own."""


@dataclass(frozen=True)
class FramedPortrait:
    """A picture framed on the face, and what lies around: hair that comes into view when a head nods.

    pixels (H, H, 3): what the networks see; around (A, A, 3), A = AROUND * H: the wider square about the same middle,
    border pixels repeated where the picture ends; reach: how far the picture itself goes to the left, up, right and
    down of the middle, in halves of H.
    """

    pixels: Pixels
    around: Pixels
    reach: tuple[float, float, float, float]


def square_of(portrait: Pixels | FramedPortrait) -> Pixels:
    """The square (H, H, 3) of a portrait with or without its surroundings."""
    return portrait.pixels if isinstance(portrait, FramedPortrait) else portrait


def frame_portrait(picture: Pixels, square: Square, size: int) -> FramedPortrait:
    """The square of a (H, W, 3) picture as (size, size, 3) with its surroundings."""
    height, width = picture.shape[:2]
    half = square.side / 2
    edges = (square.x, square.y, width - square.x, height - square.y)
    left, up, right, down = (min(max(edge / half, 1.0), AROUND) for edge in edges)
    wide = Square(square.x, square.y, AROUND * square.side)
    around = crop_square(picture, wide, round(AROUND * size))
    return FramedPortrait(crop_square(picture, square, size), around, (left, up, right, down))


@dataclass(frozen=True)
class HeadPlace:
    """The head-and-shoulders square of a portrait. `found` False: no human face was found, the square is a guess."""

    square: Square
    found: bool


def find_head(
    picture: Pixels,
    finder: FaceFinder,
    *,
    face: int = 0,
    framing: FramingConfig | None = None,
    name: str = "the picture",
    force: bool | None = None,
) -> HeadPlace:
    """Return where the head of a portrait is. `face` counts faces from the largest, 0.

    force: a picture without a human face (an animal, a drawing, an object) has a guess instead: the place that looks
    most like a face, else the largest square in the middle. None: as False, where the user cannot ask for it. Raises
    FaceNotFoundError, calling the picture `name`, when it has no such face and nothing is forced.
    """
    framing = framing or FramingConfig()
    height, width = picture.shape[:2]
    faces = finder.find(picture, wanted=face + 1, thorough=True)
    if face < len(faces):
        return HeadPlace(framing.square(faces[face]).moved_inside(height, width, framing.inside), True)
    if faces:
        raise FaceNotFoundError(f"{name}: only {len(faces)} found where face {face} (from 0) is asked for; choose less")
    if not force:
        advice = "use a picture of one upright face that looks at the camera"
        advice += "" if force is None else ", or --force to try this one"
        raise FaceNotFoundError(f"no human face that can be read in {name}: {advice}")
    guess = finder.likeliest(picture)
    if guess is None:
        return HeadPlace(Square(width / 2, height / 2, min(height, width)), False)
    return HeadPlace(framing.square(guess).moved_inside(height, width, framing.inside), False)


def find_first_face(
    frames: Iterable[Pixels],
    finder: FaceFinder,
    *,
    face: int = 0,
    every: int = 5,
    name: str = "the driving video",
) -> tuple[int, FaceBox]:
    """The index of the first frame, of every `every`-th, with enough faces for `face`, and that face.

    Goes through `frames` up to there. Raises FaceNotFoundError, calling the video `name`, at their end; pass the
    frames of the first seconds only (`read_video(path, max_frames)`) to give up early.
    """
    for index, frame in enumerate(frames):
        if index % every == 0:
            faces = finder.find(frame, wanted=face + 1, thorough=index % (4 * every) == 0)
            if face < len(faces):
                return index, faces[face]
    which = "no face" if face == 0 else f"no frame with {face + 1} faces"
    raise FaceNotFoundError(f"{name}: {which} was found; use a video of an upright face that looks at the camera")


@dataclass(frozen=True)
class SteadyConfig:
    """How the driver's square follows the face. Frames are counted, so offline and live agree."""

    every: int = 5
    """The face is looked for in every n-th frame."""

    zone: float = 0.15
    """How far the face may move, in sides of the square, before the square follows."""

    size_zone: float = 1.3
    """How many times larger or smaller the face may become before the square does."""

    follow: float = 0.06
    """Part of the way that a following square covers in a frame: half of it in 11 frames."""

    lost_after: int = 6
    """Searches without success (30 frames) after which the face counts as lost: a face turned far is missed often."""


@dataclass(frozen=True)
class Crop:
    """Where to cut a driving frame. `found` False: there is no face at present, `square` is the last place of one.

    `face` is the face as it was last detected, up to a few frames ago; None before there was any.
    """

    square: Square
    found: bool
    face: FaceBox | None = None

    def cut(self, frame: Pixels, size: int) -> Pixels:
        """The square of `frame` as (size, size, 3)."""
        return crop_square(frame, self.square, size)


class SteadyCrop:
    """The square around one driver's head, frame after frame, from the past only: the same live and offline.

    The first face found fixes the square. While the face stays within a zone around its first place, which any
    detector's jitter does, the square does not move at all; beyond, it follows slowly by as much as the face is out.
    The face is the one that overlaps the last found; after a loss, the one nearest to it, where the square then jumps
    if need be. Before any face was found the square is the largest in the middle of the frame.
    """

    def __init__(
        self,
        finder: FaceFinder,
        *,
        face: int = 0,
        start: FaceBox | None = None,
        framing: FramingConfig | None = None,
        config: SteadyConfig | None = None,
    ) -> None:
        """`face` counts faces from the largest, 0; `start` is a face known from the first frame or a later one."""
        self._finder = finder
        self._face = face
        self._framing = framing or FramingConfig()
        self._config = config or SteadyConfig()
        self._frames = 0
        self._misses = 0 if start else self._config.lost_after
        self._last = start
        self._recent: deque[FaceBox] = deque(maxlen=3)
        self._square = self._goal = self._framing.square(start) if start else None

    @property
    def ever_found(self) -> bool:
        """True once there was a face."""
        return self._last is not None

    def update(self, frame: Pixels) -> Crop:
        """Takes the next (H, W, 3) frame and says where to cut it."""
        if self._frames % self._config.every == 0:
            self._look(frame)
        self._frames += 1
        if self._square is None or self._goal is None:
            height, width = frame.shape[:2]
            return Crop(Square(width / 2, height / 2, min(height, width)), found=False)
        self._square = _towards(self._square, self._goal, self._config.follow)
        return Crop(self._square, self._misses < self._config.lost_after, self._last)

    def _look(self, frame: Pixels) -> None:
        lost = self._misses >= self._config.lost_after
        face = self._acquire(frame) if lost else self._again(frame)
        if face is None:
            self._misses += 1
            return
        self._misses = 0
        self._last = face
        if lost:
            self._recent.clear()
        self._recent.append(face)
        self._goal = self._follow(lost)

    def _acquire(self, frame: Pixels) -> FaceBox | None:
        """A face in the whole frame: by size at first, later the nearest to the one that was lost."""
        thorough = (self._frames // self._config.every) % 4 == 0  # costs several times more where there is no face
        faces = self._finder.find(frame, wanted=self._face + 1 if self._last is None else 1, thorough=thorough)
        last = self._last
        if last is None:
            return faces[self._face] if self._face < len(faces) else None
        return min(faces, key=lambda face: (face.x - last.x) ** 2 + (face.y - last.y) ** 2, default=None)

    def _again(self, frame: Pixels) -> FaceBox | None:
        """The face that was there at the last search; never another one beside it."""
        assert self._last is not None
        near = self._finder.find_near(frame, self._last)
        if near is not None and near.overlap(self._last) > 0:
            return near
        candidates = [face for face in self._finder.find(frame) if face.overlap(self._last) > 0]
        return max(candidates, key=self._last.overlap, default=None)

    def _follow(self, afresh: bool) -> Square:
        """Where the square should go: nowhere while the face is in its zone, else so far that it is just in it."""
        ideal = self._framing.square(_median(self._recent))
        if self._square is None or (afresh and self._outside(ideal, self._square)):
            self._square = ideal
            return ideal
        old = self._square
        zone, ratio = self._config.zone * old.side, self._config.size_zone
        return Square(
            min(max(old.x, ideal.x - zone), ideal.x + zone),
            min(max(old.y, ideal.y - zone), ideal.y + zone),
            min(max(old.side, ideal.side / ratio), ideal.side * ratio),
        )

    def _outside(self, ideal: Square, old: Square) -> bool:
        zone, ratio = self._config.zone * old.side, self._config.size_zone
        far = max(abs(ideal.x - old.x), abs(ideal.y - old.y)) > zone
        return far or not 1 / ratio <= ideal.side / old.side <= ratio


def _median(faces: Iterable[FaceBox]) -> FaceBox:
    """The median place and size: one false detection among three does not move anything."""
    listed = list(faces)
    return FaceBox(*(statistics.median(getattr(face, name) for face in listed) for name in ("x", "y", "side")))


def _towards(old: Square, goal: Square, part: float) -> Square:
    """A `part` of the way from one square to another; exactly the old one where they agree."""
    return Square(
        old.x + part * (goal.x - old.x), old.y + part * (goal.y - old.y), old.side + part * (goal.side - old.side)
    )
