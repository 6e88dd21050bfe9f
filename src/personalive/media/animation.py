"""Animated pictures: WebP in (FFmpeg's decoder does not know moving WebP), GIF and WebP out. Neither holds sound."""

from __future__ import annotations

import logging
import struct
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from xml.sax.saxutils import escape

import av
import numpy as np
from av.container import OutputContainer
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from personalive.errors import InputError
from personalive.media.frames import MAX_PIXELS, Pixels, flatten_alpha

logger = logging.getLogger(__name__)

_MILLISECOND = Fraction(1, 1000)
_GIF_TICK = Fraction(1, 100)
_GIF_MIN_DELAY = 2  # ticks: viewers show anything quicker at 10 frames/s
_DEFAULT_DELAY = 100  # ms, what browsers give a WebP frame without one

_VP8X_XMP = 0x04  # the flag that says an XMP chunk follows

_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>'
)


def is_webp(path: Path) -> bool:
    """True when the file begins as a WebP picture does, whatever its name."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


class WebpSource:
    """The frames of a WebP file through PIL, one decoded at a time (the compressed file stays in memory)."""

    has_audio = False
    time_base = _MILLISECOND

    def __init__(self, path: Path) -> None:
        try:
            self._image = Image.open(path, formats=["WEBP"])
        except Exception as error:
            raise InputError(f"{path} is not a WebP that can be read; save it again") from error
        if self._image.width * self._image.height > MAX_PIXELS:
            self._image.close()
            raise InputError(f"{path} is {self._image.width}x{self._image.height} pixels; make it smaller")
        self.frames: int | None = getattr(self._image, "n_frames", 1)
        self.damaged = 0
        first_delay = self._delay() if self._show(0) else _DEFAULT_DELAY
        self.rate = Fraction(1000, first_delay)
        self.seconds: float | None = None

    def close(self) -> None:
        """Closes the file."""
        self._image.close()

    def pictures(self) -> Generator[tuple[Pixels, int], None, None]:
        """RGB frames on white with their times in milliseconds; stops at the first that cannot be decoded."""
        time = 0
        for index in range(self.frames or 0):
            if not self._show(index):
                self.damaged += 1
                return
            yield flatten_alpha(np.array(self._image.convert("RGBA"))), time
            time += self._delay()

    def _show(self, index: int) -> bool:
        try:
            self._image.seek(index)
            self._image.load()
        except Exception as error:  # PIL's decoder raises OSError, EOFError, ValueError for damaged files
            logger.debug("frame %d: %s", index, error)
            return False
        return True

    def _delay(self) -> int:
        return int(self._image.info.get("duration") or _DEFAULT_DELAY)


class GifSink:
    """An endless GIF, 256 colours chosen anew for every frame. Memory: a frame. Times are rounded to 1/100 s.

    Frames that come less than 20 ms after the last one are left out: viewers would slow them to 10 a second.
    """

    def __init__(self, path: Path, width: int, height: int, comment: str) -> None:
        self._path = path
        self._comment = comment
        self._container, self._stream = _open_encoder(path, "gif", "gif", "pal8", width, height, _GIF_TICK, {})
        self._palette = _palette_graph(width, height)
        self._last = -_GIF_MIN_DELAY
        self._skipped = 0

    def write(self, pixels: Pixels, time: float) -> None:
        """One (H, W, 3) frame at `time` seconds."""
        tick = round(time / float(_GIF_TICK))
        if tick < self._last + _GIF_MIN_DELAY:
            self._skipped += 1
            return
        self._last = tick
        self._palette.push(_frame(pixels, tick, _GIF_TICK))
        for frame in _drain(self._palette):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Flushes, closes and marks the file."""
        self._palette.push(None)
        for frame in _drain(self._palette):
            self._container.mux(self._stream.encode(frame))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        _add_gif_comment(self._path, self._comment)
        if self._skipped:
            logger.warning("GIF shows at most 50 frames a second: %d frames left out", self._skipped)

    def abort(self) -> None:
        """Closes the file in whatever state it is."""
        self._container.close()


class WebpSink:
    """An endless lossy WebP. Memory: a frame, and the compressed file until it is written at the end."""

    def __init__(self, path: Path, width: int, height: int, comment: str) -> None:
        self._path = path
        self._comment = comment
        self._container, self._stream = _open_encoder(
            path, "webp", "libwebp_anim", "yuv420p", width, height, _MILLISECOND, {"quality": "85"}
        )
        self._last = -1

    def write(self, pixels: Pixels, time: float) -> None:
        """One (H, W, 3) frame at `time` seconds, to the millisecond."""
        self._last = max(round(time * 1000), self._last + 1)
        frame = _frame(pixels, self._last, _MILLISECOND).reformat(format="yuv420p")
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Flushes, closes and marks the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        _add_webp_xmp(self._path, _XMP.format(escape(self._comment)).encode())

    def abort(self) -> None:
        """Closes the file in whatever state it is."""
        self._container.close()


def _open_encoder(
    path: Path, container_format: str, codec: str, pixel_format: str, width: int, height: int, tick: Fraction,
    options: dict[str, str],
) -> tuple[OutputContainer, VideoStream]:  # fmt: skip
    """An output file with one picture stream; loop=0 is for ever in both formats."""
    container = av.open(f"file:{path}", mode="w", format=container_format, options={"loop": "0"})
    try:
        stream: VideoStream = container.add_stream(codec, rate=25, options=options)  # type: ignore[assignment]
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = tick
    except BaseException:
        container.close()
        raise
    return container, stream


def _frame(pixels: Pixels, tick: int, time_base: Fraction) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.pts, frame.time_base = tick, time_base
    return frame


def _palette_graph(width: int, height: int) -> Graph:
    """RGB frames in, 256-colour frames out: a palette for each frame, ordered dither (steady from frame to frame)."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=_GIF_TICK)
    split = graph.add("split")
    choose = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=3")
    source.link_to(split)
    split.link_to(choose, 0, 0)
    split.link_to(use, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _drain(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):  # nothing ready yet; nothing left
            return
        assert isinstance(frame, VideoFrame)
        yield frame


def _add_gif_comment(path: Path, comment: str) -> None:
    """Puts a comment extension before the trailer byte, which FFmpeg's writer cannot do. Blocks of up to 255 bytes."""
    text = comment.encode("ascii", "replace")
    blocks = [text[i : i + 255] for i in range(0, len(text), 255)]
    extension = b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\x00"
    with path.open("r+b") as file:
        file.seek(-1, 2)
        if file.read(1) != b"\x3b":
            raise OSError("the GIF has no trailer")
        file.seek(-1, 2)
        file.write(extension + b"\x3b")


def _add_webp_xmp(path: Path, xmp: bytes) -> None:
    """Appends an XMP chunk to a WebP file and mends its header: the flag in VP8X and the RIFF size.

    A file of one frame comes without VP8X (encoder and muxer choose the simple form); it gets one.
    """
    chunk = b"XMP " + struct.pack("<I", len(xmp)) + xmp + b"\x00" * (len(xmp) % 2)
    with path.open("r+b") as file:
        head = file.read(21)
        if head[12:16] == b"VP8X":
            file.seek(20)
            file.write(bytes([head[20] | _VP8X_XMP]))
        else:
            with Image.open(path) as image:
                width, height = image.size
            file.seek(12)
            picture = file.read()  # one compressed frame
            file.seek(12)
            sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
            file.write(b"VP8X" + struct.pack("<IB3x", 10, _VP8X_XMP) + sides + picture)
        file.seek(0, 2)
        file.write(chunk)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))
