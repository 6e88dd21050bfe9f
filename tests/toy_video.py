"""Small videos made with PyAV alone, and how to look at one: fixtures of the video tests, no tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from personalive.media.frames import Pixels
from personalive.media.video import VideoFrame, read_video

WIDTH, HEIGHT = 64, 48


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """A dark frame with a bright top left quarter; the bottom right quarter's brightness tells the index."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[: height // 2, : width // 2] = (230, 60, 60)
    pixels[height // 2 :, width // 2 :] = 40 + 5 * (index % 40)
    return pixels


def index_of(pixels: Pixels) -> int:
    height, width = pixels.shape[:2]
    return round((float(pixels[height // 2 + 4 : -4, width // 2 + 4 : -4].mean()) - 40) / 5)


def make_video(
    path: Path,
    frames: int = 10,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    ticks: list[int] | None = None,
    rate: int = 10,
    time_base: Fraction = Fraction(1, 1000),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    sound: str | None = None,
    sound_seconds: float = 0.0,
    beep_at: float = 0.0,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    draw: Callable[[int], Pixels] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video made with PyAV, independent of our writer. Sound: silence with a tone of 0.1 s at `beep_at`."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        audio: Any = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for index in range(frames):
            pixels = draw(index) if draw else picture(index, *size)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = ticks[index] if ticks else round(index / (rate * time_base))
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            for samples in beep(sound_seconds, beep_at):
                container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path


def beep(seconds: float, at: float, rate: int = 48000) -> Iterator[av.AudioFrame]:
    time = np.arange(round(seconds * rate)) / rate
    wave = np.where((time >= at) & (time < at + 0.1), np.sin(2 * np.pi * 1000 * time) * 0.5, 0.0).astype(np.float32)
    for start in range(0, len(wave), 4800):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 4800], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def hear(path: Path) -> tuple[float | None, float, str]:
    """When the tone is first heard, when the sound ends (seconds after the picture's start), and the codec."""
    with av.open(str(path)) as container:
        picture_stream, stream = container.streams.video[0], container.streams.audio[0]
        assert picture_stream.time_base is not None
        start = float((picture_stream.start_time or 0) * picture_stream.time_base)
        first, end = None, 0.0
        for frame in container.decode(stream):
            samples = np.abs(frame.to_ndarray().astype(np.float64)).max(axis=0)
            loud = np.flatnonzero(samples > 0.1)
            if first is None and len(loud):
                first = frame.time + loud[0] / frame.sample_rate - start
            end = frame.time + frame.samples / frame.sample_rate - start
        return first, end, stream.codec_context.codec.canonical_name


def all_frames(path: Path) -> list[VideoFrame]:
    with read_video(path) as video:
        return list(video)
