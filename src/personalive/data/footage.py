"""One video of a talking person -> clips for training: one shot, one face, the product's own square around the head.

Every frame at 25 a second is accounted for: it is in a clip, or left out for one of REASONS.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from personalive.data.landmarks import box_of_detection
from personalive.data.shards import FloatArray, PersonRecord
from personalive.data.shots import CutDetector
from personalive.errors import ConfigError, InputError
from personalive.media.frames import Pixels
from personalive.media.video import VideoFrame, read_video
from personalive.motion.face_crop import Crop, SteadyConfig, SteadyCrop
from personalive.motion.face_finder import FaceBox, FaceFinder

FPS = 25
_LONGEST_SHOWN = 0.5  # seconds; a longer hole between two frames is a jump
_ROUNDING = 1e-3  # seconds: some files round times to milliseconds
REASONS = {
    "no_face": "no face",
    "several_faces": "several faces",
    "too_small": "face too small",
    "cut_off": "head cut off by the frame",
    "frozen": "frozen picture",
    "cut": "cut short by a cut",
    "too_short": "too short a rest",
}
"""Why frames are left out, and the words for it."""


@dataclass(frozen=True)
class FootageConfig:
    """What a clip is. Sizes in pixels."""

    size: int = 128
    """Side of the pictures."""

    frames: int = 40
    """Frames of a clip, at 25 a second."""

    clips: int = 20
    """The most that are taken from one file, from its beginning, so that no talk of hours outweighs the others."""

    smallest: float = 0.75
    """Side that the head's square must have in the video, in `size`: less would only be blown up."""

    beyond: float = 0.2
    """How far the square may reach beyond the frame on any edge, in its sides."""

    slowest: float = 20.0
    """Frames per second below which a video is left out: at 25 its motion would stutter."""

    still: float = 0.4
    """Mean absolute difference of two pictures, of 255, below which nothing has moved."""

    look_every: int = 10
    """The whole frame is searched for faces in every n-th frame: is ours there, and no other one in its square?"""

    lost_after: int = 3
    """Searches (one in 5 frames) without success after which the face counts as lost; the product waits longer."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.frames < 4 or self.clips < 1:
            raise ConfigError(
                f"clips of {self.frames} frames of {self.size} pixels, {self.clips} a file: at least 4, 16 and 1"
            )


@dataclass
class Account:
    """What became of a video's frames at 25 a second."""

    clips: int = 0
    frames: Counter[str] = field(default_factory=Counter)
    """By reason, and "used": in a clip."""

    def leave_out(self, reason: str, count: int) -> None:
        """Counts frames that come into no clip."""
        if count:
            self.frames[reason] += count


class UnusableVideoError(InputError):
    """A video that decodes but is of no use as a whole."""


def cut_clips(
    path: Path, name: str, person: str, config: FootageConfig, account: Account, finder: FaceFinder | None = None
) -> Iterator[PersonRecord]:
    """The clips of one video in order, motion unknown; `account` says afterwards what became of the rest.

    `name` is the video's, for the records' names; `person` is who it shows. Raises InputError for a video that cannot
    be read or is of no use as a whole.
    """
    finder = finder or FaceFinder()
    prefix = hashlib.sha256(name.encode()).hexdigest()[:12]
    with read_video(path) as video:
        if video.info.rate < config.slowest:
            raise UnusableVideoError(
                f"{path} has {float(video.info.rate):.1f} frames a second; at least {config.slowest:.0f} are needed"
            )
        for shot in _shots(at_rate(video), CutDetector(), config, finder, account):
            account.frames["used"] += len(shot)
            yield _record(f"{prefix}-{account.clips:03d}", person, shot)
            account.clips += 1
            if account.clips == config.clips:
                return


def at_rate(frames: Iterable[VideoFrame], rate: int = FPS) -> Iterator[tuple[int, Pixels]]:
    """Frames of any rate at `rate` a second, numbered: at every tick the picture that a viewer sees.

    A frame is shown until the next one; over half a second without any, the numbers jump and nothing is repeated.
    """
    tick = 0
    last: VideoFrame | None = None
    period = 1 / rate
    for frame in frames:
        if last is not None:
            period = min(frame.time - last.time, _LONGEST_SHOWN)
            while tick / rate < last.time + period - _ROUNDING:
                yield tick, last.pixels
                tick += 1
            tick = max(tick, math.ceil((frame.time - _ROUNDING) * rate))
        last = frame
    while last is not None and tick / rate < last.time + period - _ROUNDING:
        yield tick, last.pixels
        tick += 1


@dataclass(frozen=True)
class _Moment:
    """One frame of a clip to be."""

    picture: Pixels  # (size, size, 3)
    crop: Crop
    beyond: float  # how far the square reaches beyond the frame, in its sides
    faces: tuple[FaceBox, ...] | None  # of the whole frame, where it was searched


def _shots(
    frames: Iterable[tuple[int, Pixels]],
    cuts: CutDetector,
    config: FootageConfig,
    finder: FaceFinder,
    account: Account,
) -> Iterator[list[_Moment]]:
    """Runs of `config.frames` frames within a shot, with a face that can be used."""
    clip: list[_Moment] = []
    steady = _follow(finder, config)
    expected = 0
    for number, frame in frames:
        if cuts.is_cut(frame) or number != expected:
            account.leave_out("cut", len(clip))
            clip, steady = [], _follow(finder, config)
        expected = number + 1
        crop = steady.update(frame)
        if not crop.found:
            account.leave_out("no_face", len(clip) + 1)
            clip = []
            continue
        look = len(clip) % config.look_every == 0
        faces = tuple(finder.find(frame)) if look else None
        clip.append(_Moment(crop.cut(frame, config.size), crop, _beyond(crop, frame), faces))
        if len(clip) == config.frames:
            reason = _unusable(clip, config)
            if reason is None:
                yield clip
            else:
                account.leave_out(reason, len(clip))
            clip = []
    account.leave_out("too_short", len(clip))


def _follow(finder: FaceFinder, config: FootageConfig) -> SteadyCrop:
    """The product's own crop; it only gives up a face sooner."""
    return SteadyCrop(finder, config=SteadyConfig(lost_after=config.lost_after))


def _beyond(crop: Crop, frame: Pixels) -> float:
    height, width = frame.shape[:2]
    square, half = crop.square, crop.square.side / 2
    out = max(half - square.x, square.x + half - width, half - square.y, square.y + half - height)
    return float(max(0.0, out) / square.side)


def _unusable(clip: list[_Moment], config: FootageConfig) -> str | None:
    """The reason to leave a clip out, or None."""
    looks = [(moment, moment.faces) for moment in clip if moment.faces is not None]
    if not any(_is_there(moment, faces) for moment, faces in looks):
        return "no_face"  # what was followed is no face: it was seen in its surroundings only
    if any(_has_company(moment, faces) for moment, faces in looks):
        return "several_faces"
    if min(moment.crop.square.side for moment in clip) < config.smallest * config.size:
        return "too_small"
    if max(moment.beyond for moment in clip) > config.beyond:
        return "cut_off"
    pictures = np.stack([moment.picture for moment in clip]).astype(np.int16)
    moved = np.abs(np.diff(pictures, axis=0)).mean((1, 2, 3)) >= config.still
    return None if moved.mean() >= 0.5 else "frozen"


def _is_there(moment: _Moment, faces: tuple[FaceBox, ...]) -> bool:
    ours = moment.crop.face
    return ours is not None and any(face.overlap(ours) > 0.25 for face in faces)


def _has_company(moment: _Moment, faces: tuple[FaceBox, ...]) -> bool:
    """Whether another face of some size has its middle in the square."""
    ours, square = moment.crop.face, moment.crop.square
    assert ours is not None
    return any(
        face.overlap(ours) < 0.25
        and face.side > ours.side / 3
        and max(abs(face.x - square.x), abs(face.y - square.y)) < square.side / 2
        for face in faces
    )


def _record(name: str, person: str, clip: list[_Moment]) -> PersonRecord:
    count = len(clip)
    return PersonRecord(
        name=name,
        person=person,
        images=np.stack([moment.picture for moment in clip]),
        face_box=_face_boxes(clip),
        group=np.zeros(count, np.int32),
        kind=("clip",) * count,
        truth=None,
    )


def _face_boxes(clip: list[_Moment], window: int = 5) -> FloatArray:
    """Face boxes (F, 4) in the pictures' [-1, 1]: a face is detected in every 5th frame only, so a running mean."""
    rows = []
    for moment in clip:
        face, square = moment.crop.face, moment.crop.square
        assert face is not None
        box = box_of_detection(face.x, face.y, face.side)
        rows.append((box - [square.x, square.y, square.x, square.y]) * 2 / square.side)
    padded = np.pad(np.stack(rows), ((window // 2, window // 2), (0, 0)), mode="edge")  # (F + 4, 4)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).mean(-1), np.float32)
