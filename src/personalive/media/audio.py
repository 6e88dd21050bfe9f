"""The driver's sound, carried into the output: copied as it is where MP4 can hold it, else re-encoded as AAC."""

from __future__ import annotations

import logging
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from personalive.errors import InputError
from personalive.media.video import find_video_stream, open_media

logger = logging.getLogger(__name__)

COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
"""Codecs that players expect in MP4. Others that it may hold (Opus, FLAC) are refused by common players."""

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_PREROLL = 0.1  # seconds of sound before the first frame that a decoder may need to warm up; hidden by an edit list
_GAP = 0.05  # seconds by which sample times may disagree with the count before silence is put in or sound left out


class AudioTrack:
    """One sound track on its way from a media file into an open MP4 container, in step with the picture.

    Times are seconds after the start of the source's VIDEO stream, so picture and sound stay as far apart as they
    were. Holds one packet. Sound that breaks off or cannot be decoded ends early with a warning.
    """

    def __init__(self, path: Path, output: OutputContainer) -> None:
        """Adds a stream to `output` (before anything is written to it). Raises InputError if there is no sound."""
        self._path = path
        self._input = open_media(path)
        try:
            if not self._input.streams.audio:
                raise InputError(f"{path} holds no sound")
            source = self._input.streams.audio[0]
            self._base = source.time_base or Fraction(1, source.rate)
            self._offset = _video_start(self._input, path)
            self._packets = self._read(source)
            self._waiting = next(self._packets, None)
            kind = _Copy if _can_copy(source) else _Encoding
            self._writer: _Copy | _Encoding = kind(source, output, self._offset)
        except BaseException:
            self._input.close()
            raise

    def advance(self, until: float) -> None:
        """Writes the sound that begins before `until` seconds."""
        while self._waiting is not None:
            assert self._waiting.pts is not None
            time = float(self._waiting.pts * self._base - self._offset)
            if time >= until:
                break
            if time >= -_PREROLL:
                self._writer.write(self._waiting)
            self._waiting = next(self._packets, None)
        self._writer.release(until)

    def finish(self, until: float) -> None:
        """Writes what is left before `until` seconds, the length of the picture, and ends the track."""
        self.advance(until)
        self._writer.finish(until)
        self.close()

    def close(self) -> None:
        """Closes the source. Safe to call twice."""
        self._packets.close()
        self._input.close()

    def _read(self, source: AudioStream) -> Generator[Packet[AudioStream], None, None]:
        try:
            for packet in self._input.demux(source):
                if packet.pts is not None and packet.dts is not None:  # the last one is PyAV's empty flush packet
                    yield packet
        except FFmpegError as error:
            logger.warning("the sound of %s breaks off: %s", self._path, error)


class _Copy:
    """Packets as they are, moved in time."""

    def __init__(self, source: AudioStream, output: OutputContainer, offset: Fraction) -> None:
        self._output = output
        self._stream = output.add_stream_from_template(source)
        self._shift = round(offset / (source.time_base or Fraction(1, source.rate)))

    def write(self, packet: Packet[AudioStream]) -> None:
        assert packet.pts is not None
        assert packet.dts is not None
        packet.pts -= self._shift
        packet.dts -= self._shift
        packet.stream = self._stream
        self._output.mux(packet)

    def release(self, until: float) -> None:
        """Nothing is held back: a packet is the smallest piece."""

    def finish(self, until: float) -> None:
        """Nothing is held back."""


class _Encoding:
    """Decoded, mixed down to at most two channels, encoded as AAC; continuous from 0, cut to the sample."""

    def __init__(self, source: AudioStream, output: OutputContainer, offset: Fraction) -> None:
        self._output = output
        self._source = source
        self._offset = offset
        self._rate = source.rate if source.rate in _AAC_RATES else 48000
        self._layout = "mono" if source.layout.nb_channels == 1 else "stereo"
        self._stream = output.add_stream("aac", rate=self._rate, layout=self._layout)
        self._resampler = AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
        self._held = np.zeros((self._stream.layout.nb_channels, 0), np.float32)  # (channels, samples) not yet due
        self._encoded = 0
        self._warned = False

    def write(self, packet: Packet[AudioStream] | None) -> None:
        """Decodes one packet (None: what the decoder still holds) and keeps its samples until they are due."""
        try:
            for frame in self._source.codec_context.decode(packet):
                time = None if frame.time is None else frame.time - float(self._offset)
                self._place(self._resampler.resample(frame), time)
        except FFmpegError as error:
            if not self._warned:
                logger.warning("some of the sound cannot be decoded and is left out: %s", error)
            self._warned = True

    def release(self, until: float) -> None:
        """Encodes the samples before `until` seconds."""
        due = min(max(0, round(until * self._rate) - self._encoded), self._held.shape[1])
        if due:
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(self._held[:, :due]), format="fltp", layout=self._layout
            )
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._encoded, Fraction(1, self._rate)
            self._output.mux(self._stream.encode(frame))
            self._held = self._held[:, due:]
            self._encoded += due

    def finish(self, until: float) -> None:
        """Encodes what is left before `until` seconds and empties the encoder."""
        self.write(None)
        self._place(self._resampler.resample(None), None)
        self.release(until)
        self._output.mux(self._stream.encode(None))

    def _place(self, pieces: list[AudioFrame], time: float | None) -> None:
        """Appends samples that begin at `time`: silence fills a gap before them, an overlap is left out."""
        arrays = [piece.to_ndarray().astype(np.float32, copy=False) for piece in pieces]
        samples: npt.NDArray[np.float32] = np.concatenate([self._held[:, :0], *arrays], axis=1)
        end = self._encoded + self._held.shape[1]
        gap = 0 if time is None else round(time * self._rate) - end
        if abs(gap) <= _GAP * self._rate and end > 0:
            gap = 0
        silence = np.zeros((samples.shape[0], max(0, gap)), np.float32)
        self._held = np.concatenate([self._held, silence, samples[:, max(0, -gap) :]], axis=1)


def _can_copy(source: AudioStream) -> bool:
    context = source.codec_context
    # AAC from a broadcast stream has no header to copy
    name = context.codec.canonical_name  # of the format; `context.name` names the decoder, e.g. mp3float
    return name in COPIED_CODECS and (name != "aac" or context.extradata is not None)


def _video_start(container: InputContainer, path: Path) -> Fraction:
    """When the picture begins on the file's own clock, in seconds; 0 for a file of sound only."""
    try:
        stream = find_video_stream(container, path)
    except InputError:
        return Fraction(0)
    return (stream.start_time or 0) * (stream.time_base or Fraction(0))
