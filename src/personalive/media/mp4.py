"""H.264 MP4 out: yuv420p, BT.709, index in front (faststart), the driver's times and sound."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from personalive.errors import InputError
from personalive.media.audio import AudioTrack
from personalive.media.frames import Pixels
from personalive.media.video import EXACT_COLOURS

logger = logging.getLogger(__name__)

_BT709 = 1  # the code for primaries, transfer curve and matrix alike (ITU-T H.273)
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
_MAX_TIMESCALE = 2**31 - 1


class Mp4Sink:
    """An MP4 file being written. Memory: the encoder's look-ahead (some dozens of frames)."""

    def __init__(
        self, path: Path, width: int, height: int, rate: Fraction, time_base: Fraction, audio_from: Path | None,
        crf: int, comment: str,
    ) -> None:  # fmt: skip
        self._path = path
        self._pad = ((0, height % 2), (0, width % 2), (0, 0))  # yuv420p halves both sides
        self._rate = rate
        self._base = time_base if time_base.denominator <= _MAX_TIMESCALE else Fraction(1, 90000)
        self._last = -1
        self._frames = 0
        self._nominal = max(1, round(1 / (rate * self._base)))  # ticks of one frame, for the last one
        self._sound: AudioTrack | None = None
        self._container = av.open(f"file:{path}", mode="w", format="mp4", options={"movflags": "+faststart"})
        try:
            self._container.metadata["comment"] = comment
            self._stream = self._add_picture(width + width % 2, height + height % 2, crf)
            if audio_from is not None:
                self._sound = self._add_sound(audio_from)
        except BaseException:
            self._container.close()
            raise

    def write(self, pixels: Pixels, time: float) -> None:
        """One (H, W, 3) frame at `time` seconds, and the sound up to there."""
        tick = max(round(time / self._base), self._last + 1)
        self._last = tick
        padded = np.pad(pixels, self._pad, mode="edge") if self._pad != ((0, 0), (0, 0), (0, 0)) else pixels
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", interpolation=EXACT_COLOURS
        )
        frame.pts, frame.time_base = tick, self._base
        self._mux(frame)
        self._frames += 1
        if self._sound is not None:
            self._sound.advance(float(tick * self._base))

    def finish(self) -> None:
        """Flushes everything, writes the index and reads it back."""
        self._mux(None)
        if self._sound is not None:
            self._sound.finish(float((self._last + self._nominal) * self._base))
        self._container.close()
        with av.open(f"file:{self._path}") as written:
            found = written.streams.video[0].frames
        if found != self._frames:
            raise OSError(f"the file holds {found} of {self._frames} frames")

    def abort(self) -> None:
        """Closes the files in whatever state they are."""
        if self._sound is not None:
            self._sound.close()
        self._container.close()

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._nominal  # only the last one counts: the others last until the next
            self._container.mux(packet)

    def _add_picture(self, width: int, height: int, crf: int) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = self._base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        return stream

    def _add_sound(self, path: Path) -> AudioTrack | None:
        try:
            return AudioTrack(path, self._container)
        except InputError as error:  # a driver without sound, or one that only PIL reads
            logger.info("no sound: %s", error)
        except FFmpegError as error:
            logger.warning("the sound of %s is left out: %s", path, error)
        return None
