"""The offline job: one picture and a driving video in, an animated portrait out, frame for frame in step.

`prepare` does everything that needs no network, so that a bad input is refused before a large model is loaded;
`animate` streams: what it holds are the frames inside the model's window, whatever the video's length.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from personalive.config import ModelConfig
from personalive.errors import ConfigError, InputError
from personalive.gallery import find_driving, find_portrait
from personalive.media.completeness import check_complete
from personalive.media.frames import Pixels, load_picture, resize_picture, side_by_side
from personalive.media.video import VideoInfo, read_video
from personalive.media.video_writer import VideoWriter, check_output
from personalive.motion.face_crop import (
    Crop,
    FramingConfig,
    Square,
    SteadyCrop,
    find_first_face,
    find_head,
    frame_portrait,
)
from personalive.motion.face_finder import FaceBox, FaceFinder
from personalive.motion.keypoints import MotionGains
from personalive.stream import Painting, begin_together

if TYPE_CHECKING:
    from personalive.pipeline import PersonaLive

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called after each frame with the frames written so far and how many there will be (estimated; None: unknown)."""

DEFAULT_OUTPUT = "animated.mp4"


@dataclass(frozen=True)
class AnimateOptions:
    """How to animate. Faces are counted from the largest, 0; a gain of None is the model's own (see MotionGains).

    `crop` "auto" finds the head in picture and driver and cuts both to it, "none" takes them as they are: squares,
    framed like the training pictures. `max_frames` None: the whole video. `force`: a picture without a human face is
    tried at the likeliest place of one (see `face_crop.find_head`).
    """

    seed: int = 0
    max_frames: int | None = None
    crop: Literal["auto", "none"] = "auto"
    face: int = 0
    driver_face: int = 0
    side_by_side: bool = False
    rotation_gain: float | None = None
    translation_gain: float | None = None
    scale_gain: float | None = None
    overwrite: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise ConfigError(f"max_frames is {self.max_frames}; choose 1 or more")
        if self.crop not in ("auto", "none"):
            raise ConfigError(f"crop is {self.crop!r}; choose auto or none")
        if min(self.face, self.driver_face) < 0:
            raise ConfigError("faces are counted from 0, the largest; choose 0 or more")

    def gains(self, own: MotionGains) -> MotionGains:
        """A model's own gains with those replaced that are given. Raises ConfigError for one out of range."""
        given = {"rotation": self.rotation_gain, "translation": self.translation_gain, "scale": self.scale_gain}
        return dataclasses.replace(own, **{name: gain for name, gain in given.items() if gain is not None})


@dataclass(frozen=True)
class Job:
    """Inputs that were looked at and found good, and where the result goes."""

    picture: Pixels
    head: Square | None
    """Where to cut the picture; None: nowhere, and the driver neither."""

    driving: Path
    first_face: tuple[int, FaceBox] | None
    """The first driving frame with a face, and the face; None with `crop` "none"."""

    output: Path
    options: AnimateOptions


@dataclass(frozen=True)
class AnimatedVideo:
    """What was written: `seconds` is the video's length, `rate` its average frames per second, `took` the seconds of
    work, `without_face` the frames in which the driver's face was lost and the motion held."""

    path: Path
    frames: int
    seconds: float
    rate: float
    width: int
    height: int
    without_face: int
    took: float


@dataclass(frozen=True)
class _Driven:
    """A driving frame on its way: what drives (None: hold), what side-by-side shows, and its time in seconds."""

    pixels: Pixels | None
    shown: Pixels
    time: float


def prepare(
    portrait: str | Path,
    driving: str | Path,
    output: str | Path = DEFAULT_OUTPUT,
    options: AnimateOptions | None = None,
) -> Job:
    """Checks the output's place, reads the picture, opens the video, finds the faces. Writes nothing.

    portrait, driving: paths, or a built-in portrait's name and "builtin" (see `gallery`).
    Raises InputError, FaceNotFoundError, OutputError, ConfigError: one line each that says what to do.
    """
    options = options or AnimateOptions()
    portrait_path, driving_path = find_portrait(portrait), find_driving(driving)
    output = check_output(output, options.overwrite, (portrait_path, driving_path))
    picture = load_picture(portrait_path)
    with read_video(driving_path, options.max_frames) as video:
        check_complete(video.info, options.max_frames)
        if options.crop == "none":
            _require_square(str(portrait_path), picture.shape[1], picture.shape[0])
            _require_square(str(driving_path), video.info.width, video.info.height)
            return Job(picture, None, driving_path, None, output, options)
        finder = FaceFinder()
        head = find_head(picture, finder, face=options.face, name=str(portrait_path), force=options.force)
        if not head.found:
            logger.warning("no human face that can be read in %s; trying the likeliest place of it", portrait_path)
        frames = (frame.pixels for frame in video)
        first = find_first_face(frames, finder, face=options.driver_face, name=str(driving_path))
    return Job(picture, head.square, driving_path, first, output, options)


def animate(model: PersonaLive, job: Job, progress: Progress | None = None) -> AnimatedVideo:
    """Does the job: the output has exactly the driver's frames with their times, and in MP4 its sound.

    It appears complete or not at all: on any error, and on Ctrl-C, an older file of that name stays as it was.
    Raises OutputError where it cannot be written and ConfigError for a gain out of range.
    """
    began, options, side = time.monotonic(), job.options, model.config.output_size
    framed = None if job.head is None else frame_portrait(job.picture, job.head, side)
    portrait = resize_picture(job.picture, side) if framed is None else framed.pixels
    stream = model.start(framed or portrait, options.seed, options.gains(MotionGains.of(model.config.stream)))
    inside: deque[_Driven] = deque()  # not yet written; at most stream.delay_frames + 1, and a chunk
    paintings: deque[Painting] = deque()  # at most one is still being painted when the next one begins
    without_face, last = 0, 0.0
    with read_video(job.driving, options.max_frames) as video:
        info, total = video.info, _expected(video.info, options.max_frames)
        with _writer(job, info, side) as writer:
            for driven in _drive(job, ((frame.pixels, frame.time) for frame in video), model.config):
                without_face += driven.pixels is None
                last = driven.time
                inside.append(driven)
                stream.feed(driven.pixels)
                if stream.ready:
                    paintings += begin_together([stream], model.beside)
                while paintings and (len(paintings) > 1 or paintings[0].ready):
                    _write(paintings.popleft().frames(), inside, portrait, options, writer)
                if progress is not None:
                    progress(writer.frames, total)
            for painting in paintings:
                _write(painting.frames(), inside, portrait, options, writer)
            _write(stream.flush(), inside, portrait, options, writer)
    if progress is not None:
        progress(writer.frames, writer.frames)
    if without_face:
        logger.warning("%s: %d of %d frames show no face; the motion held", job.driving, without_face, writer.frames)
    seconds, took = last + float(1 / info.rate), time.monotonic() - began
    width = _width(options, side)
    return AnimatedVideo(job.output, writer.frames, seconds, writer.frames / seconds, width, side, without_face, took)


def _writer(job: Job, info: VideoInfo, side: int) -> VideoWriter:
    options, width = job.options, _width(job.options, side)
    sound = job.driving if info.has_audio and job.output.suffix.lower() == ".mp4" else None
    return VideoWriter(
        job.output, width, side, rate=info.rate, time_base=info.time_base, audio_from=sound, overwrite=options.overwrite
    )


def _drive(job: Job, frames: Iterator[tuple[Pixels, float]], config: ModelConfig) -> Iterator[_Driven]:
    """Every driving frame at the side that drives the model, and as it is shown; cut to the head where the job says so.

    A frame that is not shown is not made at the output's side.
    """
    side, shown_side = config.driver_size, config.output_size if job.options.side_by_side else config.driver_size
    if job.first_face is None:
        for pixels, moment in frames:
            resized = resize_picture(pixels, side)
            yield _Driven(resized, resized if side == shown_side else resize_picture(pixels, shown_side), moment)
        return
    index, face = job.first_face
    # Until the first face there is nothing to follow: the portrait rests, the square waits where the face will be.
    waiting = Crop(FramingConfig().square(face), found=False)
    steady = SteadyCrop(FaceFinder(), face=job.options.driver_face, start=face)
    for number, (pixels, moment) in enumerate(frames):
        crop = steady.update(pixels) if number >= index else waiting
        cut = crop.cut(pixels, side)
        yield _Driven(cut if crop.found else None, cut if side == shown_side else crop.cut(pixels, shown_side), moment)


def _write(
    painted: Pixels, inside: deque[_Driven], portrait: Pixels, options: AnimateOptions, writer: VideoWriter
) -> None:
    """Painted frames, oldest first, each with the time of the driving frame that it belongs to."""
    for result in painted:
        driven = inside.popleft()
        row = side_by_side(portrait, driven.shown, result) if options.side_by_side else result
        writer.write(row, driven.time)


def _width(options: AnimateOptions, side: int) -> int:
    return 3 * side if options.side_by_side else side


def _expected(info: VideoInfo, max_frames: int | None) -> int | None:
    counts = [count for count in (info.frames, max_frames) if count is not None]
    return min(counts) if info.frames is not None else None


def _require_square(name: str, width: int, height: int) -> None:
    if width != height:
        raise InputError(f"{name} is {width}x{height} pixels, not square; crop it, or let --crop auto do it")
