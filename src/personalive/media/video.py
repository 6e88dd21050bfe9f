"""Videos in: the frames of any file that FFmpeg (through PyAV) decodes, one at a time, upright, RGB, with their times.

`video_writer.py` is the way out. Nothing here holds more than the frame in hand and the decoder's few, so a clip of
any length costs the same memory. Interlaced video is not deinterlaced and HDR is not tone-mapped.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame as DecodedFrame
from av.video.stream import VideoStream

from personalive.errors import InputError
from personalive.media.animation import WebpSource, is_webp
from personalive.media.frames import MAX_PIXELS, MIN_SIDE, Pixels, flatten_alpha, resize_to

logger = logging.getLogger(__name__)

DEFAULT_RATE = Fraction(25)
"""Frames per second where a file does not say."""

EXACT_COLOURS = 0x4 | 0x2000 | 0x4000 | 0x40000
"""libswscale's flags bicubic, full chroma in and out, accurate rounding: without them colours drift by about -1."""

_HD_HEIGHT = 720  # untagged video is BT.709 from this height on, BT.601 below: the usual convention
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_ENDS_EARLY = 0.5  # seconds missing at the end that are worth a warning


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself, and the size of its first decoded frame (upright, square pixels).

    `rate` is the average in frames per second; `seconds` is the file's claim and `frames` the estimate that follows
    from it, None where there is no claim; every `VideoFrame.time` is a multiple of `time_base` (seconds).
    """

    path: Path
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int | None
    seconds: float | None
    has_audio: bool


@dataclass(frozen=True)
class VideoFrame:
    """One frame: `pixels` uint8 RGB (H, W, 3), `time` in seconds after the start of the video stream, `index`."""

    pixels: Pixels
    time: float
    index: int


class _Source(Protocol):
    """A decoder of one kind of file."""

    rate: Fraction
    time_base: Fraction
    frames: int | None
    seconds: float | None
    has_audio: bool
    damaged: int

    def pictures(self) -> Generator[tuple[Pixels, int], None, None]:
        """(pixels, ticks of time_base after the start), in order."""
        ...

    def close(self) -> None: ...


class VideoReader:
    """The frames of a video file in order; iterate once, inside `with` or to the end.

    Opening decodes the first frame, so that a file that cannot be used is refused here: InputError for a missing or
    empty file, a folder, no video inside (sound only, cover art), nothing decodable, frames below 32 pixels a side or
    above 64 megapixels. A video that breaks off later yields what can be decoded and logs a warning.
    Frames keep their own times (variable frame rate), which always increase. A change of size within the video is
    resized to the first frame's.
    """

    def __init__(self, path: str | Path, max_frames: int | None = None) -> None:
        """Opens `path`; iteration stops after `max_frames` frames."""
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames must be positive, not {max_frames}")
        self._path = check_file(path, "video")
        self._max_frames = max_frames
        self._source: _Source = WebpSource(self._path) if is_webp(self._path) else _FFmpegSource(self._path)
        self._pictures = self._source.pictures()
        try:
            self._next = next(self._pictures, None)
            if self._next is None:
                raise InputError(f"{path}: no frame of this video can be decoded; it may be cut short")
            self.info = self._describe(self._next[0])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        self._pictures.close()
        self._source.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yields the remaining frames, then closes the file."""
        size = (self.info.height, self.info.width)
        index, last = 0, -1
        try:
            while self._next is not None:
                pixels, tick = self._next
                last = max(tick, last + 1)
                yield VideoFrame(resize_to(pixels, *size), float(last * self.info.time_base), index)
                index += 1
                if index == self._max_frames:
                    return
                self._next = next(self._pictures, None)
            self._warn_if_damaged(index, float(last * self.info.time_base))
        finally:
            self.close()

    def _describe(self, first: Pixels) -> VideoInfo:
        height, width = first.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise InputError(f"{self._path} is {width}x{height} pixels; at least {MIN_SIDE} a side are needed")
        source = self._source
        return VideoInfo(
            self._path, width, height, source.rate, source.time_base, source.frames, source.seconds, source.has_audio
        )

    def _warn_if_damaged(self, frames: int, last_time: float) -> None:
        """Says so when the end of the file came before the end that it had announced."""
        missing = (self.info.seconds or 0.0) - last_time - float(1 / self.info.rate)
        if self._source.damaged or missing > _ENDS_EARLY:
            logger.warning(
                "%s is damaged or cut short: %d frames decoded, %d errors, about %.1f s missing at the end",
                self._path, frames, self._source.damaged, max(0.0, missing),
            )  # fmt: skip


def read_video(path: str | Path, max_frames: int | None = None) -> VideoReader:
    """`with read_video(path) as video: for frame in video: ...`; see VideoReader for what it refuses."""
    return VideoReader(path, max_frames)


def probe(path: str | Path) -> VideoInfo:
    """Size, rate and length of a video; decodes one frame. Raises InputError like VideoReader."""
    with VideoReader(path) as video:
        return video.info


def check_file(path: str | Path, what: str) -> Path:
    """`path` if it is a file with something in it, else InputError calling it a `what`."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a {what}; name a {what} file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path of the {what}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if empty:
        raise InputError(f"{path} is an empty file; choose another {what}")
    return path


def open_media(path: Path) -> InputContainer:
    """Opens a local media file for reading; never a URL, and nothing that the file may refer to outside this disk."""
    try:
        # "file:" so that a colon in a name is no protocol
        return av.open(f"file:{path}", mode="r", container_options={"protocol_whitelist": "file"})
    except (FFmpegError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a video that can be read (not what its name says, or cut short); use MP4, WebM or MOV"
        ) from error


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first moving-picture stream; a cover picture is none. Raises InputError where there is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    what = "sound only" if container.streams.audio else "no pictures"
    raise InputError(f"{path} holds {what}, no video; choose a file with a video stream")


class _FFmpegSource:
    """Every kind of file but WebP: demuxed and decoded by PyAV."""

    def __init__(self, path: Path) -> None:
        self._container = open_media(path)
        try:
            self._stream = find_video_stream(self._container, path)
        except InputError:
            self._container.close()
            raise
        stream = self._stream
        stream.thread_type = "AUTO"  # type: ignore[assignment,unused-ignore]  # PyAV takes the name; not all its stubs do
        if stream.width * stream.height > MAX_PIXELS:
            self._container.close()
            raise InputError(f"{path} is {stream.width}x{stream.height} pixels; make it smaller")
        self.rate = plausible_rate(stream)
        self.time_base = stream.time_base or 1 / self.rate
        self.has_audio = bool(self._container.streams.audio)
        self.seconds = _claimed_seconds(self._container, stream)
        # stream.frames counts those that an edit list hides, too
        self.frames = round(self.seconds * self.rate) if self.seconds else stream.frames or None
        self.damaged = 0

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def pictures(self) -> Generator[tuple[Pixels, int], None, None]:
        """Upright RGB frames with their ticks. Packets that cannot be decoded are counted and passed over."""
        start = self._stream.start_time
        nominal = max(1, round(1 / (self.rate * self.time_base)))
        tick = -nominal
        for frame in self._frames():
            if frame.pts is None:
                tick += nominal
            else:
                start = frame.pts if start is None else start
                tick = frame.pts - start
            try:
                pixels = _upright_rgb(frame, _pixel_aspect(self._stream))
            except (FFmpegError, ValueError) as error:
                self._count_damage(error)
                continue
            yield pixels, tick

    def _frames(self) -> Generator[DecodedFrame, None, None]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:  # the container itself is broken from here on
                self._count_damage(error)
                packet = None
            try:
                yield from self._stream.decode(packet)
            except FFmpegError as error:
                if not isinstance(error, av.error.EOFError):
                    self._count_damage(error)
            if packet is None:
                return

    def _count_damage(self, error: Exception) -> None:
        self.damaged += 1
        logger.debug("passed over: %s", error)


def plausible_rate(stream: VideoStream) -> Fraction:
    """The average frame rate in frames per second, or DEFAULT_RATE where the file has none or nonsense."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and Fraction(1, 10) <= rate <= 1000:
            return Fraction(rate)
    return DEFAULT_RATE


def _claimed_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and not container.streams.audio:  # else it may be the length of the sound
        return container.duration / av.time_base
    return None


def _pixel_aspect(stream: VideoStream) -> float:
    """Width of a pixel divided by its height; 1 where unknown or absurd."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect and Fraction(1, 8) <= aspect <= 8 else 1.0


def _upright_rgb(frame: DecodedFrame, pixel_aspect: float) -> Pixels:
    """A decoded frame of any pixel format as (H, W, 3) uint8 RGB: 8 bits, on white, square pixels, rotated upright."""
    transparent = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    source = "ITU709" if frame.colorspace == _UNSPECIFIED and frame.height >= _HD_HEIGHT else None
    pixels: Pixels = frame.reformat(
        width=max(1, round(frame.width * pixel_aspect)),
        height=frame.height,
        format="rgba" if transparent else "rgb24",
        src_colorspace=source,
        interpolation=EXACT_COLOURS,
    ).to_ndarray()  # type: ignore[assignment]  # rgb24 and rgba are always uint8
    if transparent:
        pixels = flatten_alpha(pixels)
    turns = round(frame.rotation / 90) % 4  # counterclockwise quarter turns
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
