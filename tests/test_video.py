"""Videos in and out: every file a user may hand us, times, sound, and an output that is complete or not there."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from personalive.errors import InputError, OutputError
from personalive.media import mp4
from personalive.media.frames import Pixels
from personalive.media.video import VideoFrame, VideoInfo, probe, read_video
from personalive.media.video_writer import AI_COMMENT, VideoWriter, check_output

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


def copy_video(source: Path, target: Path, max_frames: int | None = None, **options: Any) -> VideoInfo:
    """The way the product goes: the driver's frames, times and sound to an output."""
    with (
        read_video(source, max_frames) as video,
        VideoWriter(
            target, video.info.width, video.info.height, rate=video.info.rate, time_base=video.info.time_base,
            audio_from=source, **options,
        ) as writer,
    ):  # fmt: skip
        for frame in video:
            writer.write(frame.pixels, frame.time)
    return probe(target)


def all_frames(path: Path) -> list[VideoFrame]:
    with read_video(path) as video:
        return list(video)


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


class TestReading:
    def test_frames_times_and_colours(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "a.mp4")
        frames = all_frames(path)
        assert [frame.index for frame in frames] == list(range(10))
        assert [index_of(frame.pixels) for frame in frames] == list(range(10))
        assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(10)], abs=1e-9)
        assert frames[0].pixels.dtype == np.uint8
        np.testing.assert_allclose(frames[0].pixels[10, 10], (230, 60, 60), atol=6)

    def test_probe(self, tmp_path: Path) -> None:
        info = probe(make_video(tmp_path / "a.mp4", sound="aac", sound_seconds=1.0))
        assert (info.width, info.height, info.frames, info.has_audio) == (WIDTH, HEIGHT, 10, True)
        assert info.rate == 10
        assert info.seconds == pytest.approx(1.0)
        assert not probe(make_video(tmp_path / "b.mp4")).has_audio

    def test_max_frames(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "a.mp4")
        with read_video(path, 3) as video:
            assert [frame.index for frame in video] == [0, 1, 2]
        with pytest.raises(ValueError, match="positive"):
            read_video(path, 0)

    def test_variable_frame_rate_keeps_times(self, tmp_path: Path) -> None:
        ticks = [0, 40, 80, 500, 533, 900, 901, 1500]
        path = make_video(tmp_path / "a.mkv", len(ticks), ticks=ticks)
        frames = all_frames(path)
        assert [round(frame.time * 1000) for frame in frames] == ticks
        assert [index_of(frame.pixels) for frame in frames] == list(range(len(ticks)))

    def test_times_always_increase(self, tmp_path: Path) -> None:
        # MPEG-1 video in AVI: no timestamps worth the name for B-frames
        path = make_video(tmp_path / "a.avi", 12, codec="mpeg4", rate=25, time_base=Fraction(1, 25))
        times = [frame.time for frame in all_frames(path)]
        assert len(times) == 12
        assert all(later > earlier for earlier, later in itertools.pairwise(times))

    @pytest.mark.parametrize("degrees", [0, 90, 180, 270])
    def test_rotation_flag(self, tmp_path: Path, degrees: int) -> None:
        path = make_video(tmp_path / "a.mp4")
        set_rotation(path, degrees)
        info = probe(path)
        assert (info.width, info.height) == ((WIDTH, HEIGHT) if degrees % 180 == 0 else (HEIGHT, WIDTH))
        pixels = next(iter(all_frames(path))).pixels
        # the red quarter, top left as stored, goes round clockwise
        corner = {0: (8, 8), 90: (8, -8), 180: (-8, -8), 270: (-8, 8)}[degrees]
        assert pixels[corner][0] > 200
        assert pixels[-corner[0], -corner[1]][0] < 60

    @pytest.mark.parametrize(
        ("name", "codec", "pixel_format"),
        [
            ("ten_bit.mkv", "libx264", "yuv420p10le"),
            ("grey.mkv", "ffv1", "gray"),
            ("full_range.mkv", "mjpeg", "yuvj420p"),
            ("yuv444.mkv", "libx264", "yuv444p"),
            ("web.webm", "libvpx-vp9", "yuv420p"),
            ("lossless.mov", "qtrle", "rgb24"),
        ],
    )
    def test_pixel_formats(self, tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
        frames = all_frames(make_video(tmp_path / name, 6, codec=codec, pixel_format=pixel_format))
        assert len(frames) == 6
        assert frames[0].pixels.shape == (HEIGHT, WIDTH, 3)
        assert index_of(frames[5].pixels) == 5

    def test_transparency_is_laid_on_white(self, tmp_path: Path) -> None:
        def draw(index: int) -> Pixels:
            rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
            rgba[: HEIGHT // 2] = (0, 0, 200, 255)
            return rgba

        path = make_video(tmp_path / "a.mov", 3, codec="qtrle", pixel_format="argb", draw=draw)
        pixels = all_frames(path)[0].pixels
        assert pixels[5, 5].tolist() == [0, 0, 200]
        assert pixels[-5, 5].tolist() == [255, 255, 255]

    def test_odd_sizes(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "a.mkv", 3, pixel_format="yuv444p", size=(65, 49))
        assert all_frames(path)[0].pixels.shape == (49, 65, 3)

    def test_oblong_pixels_become_square(self, tmp_path: Path) -> None:
        info = probe(make_video(tmp_path / "a.mkv", 3, aspect=Fraction(3, 2)))
        assert (info.width, info.height) == (96, 48)

    @pytest.mark.parametrize("extension", ["gif", "webp", "png"])
    def test_animated_pictures(self, tmp_path: Path, extension: str) -> None:
        path = tmp_path / f"a.{extension}"
        images = [Image.fromarray(picture(index)) for index in range(5)]
        delays = [100, 50, 200, 100, 100]
        options: dict[str, Any] = {"lossless": True} if extension == "webp" else {}
        images[0].save(path, save_all=True, append_images=images[1:], duration=delays, loop=0, **options)
        frames = all_frames(path)
        assert [index_of(frame.pixels) for frame in frames] == list(range(5))
        assert [frame.time for frame in frames] == pytest.approx([0.0, 0.1, 0.15, 0.35, 0.45], abs=0.011)
        assert probe(path).frames == (None if extension == "png" else 5)  # APNG is read to the end to know

    def test_colon_and_percent_in_the_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "http:%03d"
        folder.mkdir()
        assert len(all_frames(make_video(folder / "tcp:1%d.mkv", 4))) == 4

    def test_memory_does_not_grow_with_length(self, tmp_path: Path) -> None:
        memory = Path("/proc/self/statm")
        if not memory.exists():
            pytest.skip("needs /proc to look at the memory in use")
        path = make_video(tmp_path / "a.mp4", 300, size=(320, 240), options={"preset": "ultrafast"})
        with read_video(path) as video:
            seen = [int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for _ in video]
        frame_bytes = 320 * 240 * 3
        assert seen[-1] - seen[100] < 40 * frame_bytes  # 200 frames went by


def set_rotation(path: Path, clockwise: int) -> None:
    """Writes a display matrix into the track header of an MP4, as cameras do: 16.16 fixed point, 2.30 in the corner."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    one = 1 << 16
    matrix = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, id, duration, reserved, layer, volume come first
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))


class TestRefusedVideos:
    def refuse(self, path: Path, *words: str) -> None:
        with pytest.raises(InputError) as caught:
            read_video(path)
        message = str(caught.value)
        assert path.name in message
        assert "\n" not in message
        for word in words:
            assert word in message

    def test_missing(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "none.mp4", "does not exist")

    def test_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, "folder")

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").touch()
        self.refuse(tmp_path / "a.mp4", "empty")

    @pytest.mark.parametrize("data", [b"I am a text file.\n" * 50, bytes(10_000), os.urandom(5_000)])
    def test_not_a_video(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.mp4").write_bytes(data)
        self.refuse(tmp_path / "a.mp4")

    def test_sound_only(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("aac", rate=48000, layout="mono")
            for frame in beep(0.5, 0.1):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        self.refuse(path, "sound only")

    def test_no_frames(self, tmp_path: Path) -> None:
        whole = make_video(tmp_path / "whole.mkv", 1)
        data = whole.read_bytes()
        (tmp_path / "a.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # headers, but no cluster
        self.refuse(tmp_path / "a.mkv")

    def test_too_small(self, tmp_path: Path) -> None:
        self.refuse(make_video(tmp_path / "a.mp4", 3, size=(16, 16)), "16x16", "32")

    def test_mp4_without_its_index(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "a.mp4")  # index at the end: gone when cut
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refuse(path, "cut short")

    def test_what_can_be_decoded_of_a_cut_video_is_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        noise = np.random.default_rng(0)
        path = make_video(
            tmp_path / "a.mp4",
            30,
            container_options={"movflags": "+faststart"},
            draw=lambda _: noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        )
        data = path.read_bytes()
        (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
        with caplog.at_level(logging.WARNING):
            frames = all_frames(tmp_path / "cut.mp4")
        assert 5 < len(frames) < 25
        assert "cut short" in caplog.text

    def test_a_whole_video_gives_no_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            all_frames(make_video(tmp_path / "a.mp4", sound="aac", sound_seconds=3.0))
        assert caplog.text == ""


class TestWriting:
    @pytest.mark.parametrize("extension", ["mp4", "gif", "webp"])
    def test_every_kind_keeps_frames_and_times(self, tmp_path: Path, extension: str) -> None:
        ticks = [0, 100, 150, 400, 500, 730, 800]
        source = make_video(tmp_path / "source.mkv", len(ticks), ticks=ticks)
        target = tmp_path / f"out.{extension}"
        copy_video(source, target)
        frames = all_frames(target)
        assert [index_of(frame.pixels) for frame in frames] == list(range(len(ticks)))
        assert [frame.time for frame in frames] == pytest.approx([tick / 1000 for tick in ticks], abs=0.006)
        np.testing.assert_allclose(frames[0].pixels[10, 10], (230, 60, 60), atol=8)
        assert leftovers(tmp_path) == []

    def test_mp4_is_what_players_expect(self, tmp_path: Path) -> None:
        target = tmp_path / "out.mp4"
        copy_video(make_video(tmp_path / "source.mp4", 25, rate=25), target)
        data = target.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        with av.open(str(target)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.pix_fmt == "yuv420p"
            assert (stream.frames, stream.average_rate) == (25, 25)
            assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
            assert container.duration == pytest.approx(av.time_base, abs=2000)

    def test_colours_do_not_drift(self, tmp_path: Path) -> None:
        colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        pixels = colours.repeat(16, axis=0).repeat(16, axis=1)
        with VideoWriter(tmp_path / "a.mp4", 128, 96, crf=1) as writer:
            writer.write(pixels)
        seen = all_frames(tmp_path / "a.mp4")[0].pixels[8::16, 8::16].astype(int)
        assert np.abs(seen - colours).max() <= 4
        assert np.abs((seen - colours).mean(axis=(0, 1))).max() < 0.5

    def test_odd_sizes_are_padded_by_repeating(self, tmp_path: Path) -> None:
        pixels = picture(3, 65, 49)
        with VideoWriter(tmp_path / "a.mp4", 65, 49, crf=5) as writer:
            writer.write(pixels)
        seen = all_frames(tmp_path / "a.mp4")[0].pixels
        assert seen.shape == (50, 66, 3)
        np.testing.assert_allclose(seen[-1].astype(int), seen[-2].astype(int), atol=6)

    def test_crf_trades_size(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for crf in (10, 40):
            with VideoWriter(tmp_path / f"{crf}.mp4", 64, 64, crf=crf) as writer:
                writer.write(noise)
        assert (tmp_path / "10.mp4").stat().st_size > 2 * (tmp_path / "40.mp4").stat().st_size

    def test_times_default_to_the_rate(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, rate=Fraction(30000, 1001)) as writer:
            for index in range(8):
                writer.write(picture(index))
        assert [frame.time for frame in all_frames(tmp_path / "a.mp4")] == pytest.approx(
            [index * 1001 / 30000 for index in range(8)], abs=1e-4
        )

    def test_repeated_times_do_not_break_the_file(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:
            for index, time in enumerate([0.0, 0.1, 0.1, 0.1, 0.2]):
                writer.write(picture(index), time)
        assert [index_of(frame.pixels) for frame in all_frames(tmp_path / "a.mp4")] == list(range(5))

    def test_gif_leaves_out_what_viewers_would_slow_down(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING), VideoWriter(tmp_path / "a.gif", WIDTH, HEIGHT, rate=100) as writer:
            for index in range(20):
                writer.write(picture(index))
        with Image.open(tmp_path / "a.gif") as image:
            assert getattr(image, "n_frames", 1) == 10
            assert image.info["duration"] == 20
        assert "10 frames left out" in caplog.text

    @pytest.mark.parametrize("frames", [1, 4])
    def test_every_kind_is_marked_as_generated(self, tmp_path: Path, frames: int) -> None:
        for extension in ("mp4", "gif", "webp"):
            with VideoWriter(tmp_path / f"a.{extension}", WIDTH, HEIGHT) as writer:
                for index in range(frames):
                    writer.write(picture(index))
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert container.metadata["comment"] == AI_COMMENT
        with Image.open(tmp_path / "a.gif") as image:
            assert getattr(image, "n_frames", 1) == frames
        data = (tmp_path / "a.gif").read_bytes()
        assert data.endswith(b"\x21\xfe" + bytes([len(AI_COMMENT)]) + AI_COMMENT.encode() + b"\x00\x3b")
        with Image.open(tmp_path / "a.webp") as image:
            assert AI_COMMENT.encode() in image.info["xmp"]
            assert getattr(image, "n_frames", 1) == frames
            assert image.size == (WIDTH, HEIGHT)

    def test_wrong_frames_are_refused(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:
            with pytest.raises(ValueError, match="frame"):
                writer.write(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
            writer.write(picture(0))
        with pytest.raises(ValueError, match="finished"):
            writer.write(picture(0))


class TestSound:
    @pytest.mark.parametrize(
        ("name", "codec", "copied"),
        [
            ("a.mp4", "aac", True),
            ("a.mkv", "libmp3lame", True),
            ("a.mov", "alac", True),
            ("a.mov", "pcm_s16le", False),
            ("a.webm", "libopus", False),
            ("a.ts", "aac", False),
        ],
    )
    def test_sound_goes_along_in_sync(self, tmp_path: Path, name: str, codec: str, copied: bool) -> None:
        picture_codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        source = make_video(
            tmp_path / name, 20, codec=picture_codec, sound=codec, sound_seconds=2.0, beep_at=0.7
        )  # fmt: skip
        target = tmp_path / "out.mp4"
        copy_video(source, target)
        before, _, source_codec = hear(source)
        after, end, target_codec = hear(target)
        assert target_codec == (source_codec if copied else "aac")
        assert before is not None
        assert after == pytest.approx(before, abs=0.005)
        assert after == pytest.approx(0.7, abs=0.03)
        assert end == pytest.approx(2.0, abs=0.1)
        assert [index_of(frame.pixels) for frame in all_frames(target)] == list(range(20))

    @pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
    @pytest.mark.parametrize("frames", [1, 7])
    def test_sound_ends_with_a_shortened_picture(self, tmp_path: Path, codec: str, frames: int) -> None:
        source = make_video(tmp_path / "a.mkv", 20, sound=codec, sound_seconds=2.0, beep_at=0.05)
        copy_video(source, tmp_path / "out.mp4", max_frames=frames)
        start, end, _ = hear(tmp_path / "out.mp4")
        assert start == pytest.approx(0.05, abs=0.03)
        assert frames / 10 - 0.01 <= end <= frames / 10 + 0.05

    def test_picture_that_starts_late_stays_in_sync(self, tmp_path: Path) -> None:
        ticks = [500 + 100 * index for index in range(15)]
        source = make_video(tmp_path / "a.mkv", 15, ticks=ticks, sound="aac", sound_seconds=2.0, beep_at=1.2)
        copy_video(source, tmp_path / "out.mp4")
        start, _, _ = hear(tmp_path / "out.mp4")
        assert start == pytest.approx(0.7, abs=0.03)
        assert all_frames(tmp_path / "out.mp4")[0].time == 0.0

    def test_sound_shorter_than_the_picture(self, tmp_path: Path) -> None:
        source = make_video(tmp_path / "a.mkv", 20, sound="pcm_s16le", sound_seconds=0.5, beep_at=0.2)
        info = copy_video(source, tmp_path / "out.mp4")
        assert info.frames == 20
        start, end, _ = hear(tmp_path / "out.mp4")
        assert start == pytest.approx(0.2, abs=0.03)
        assert end < 0.7

    def test_silent_source_and_silent_formats(self, tmp_path: Path) -> None:
        silent = make_video(tmp_path / "silent.mp4")
        assert not copy_video(silent, tmp_path / "out.mp4").has_audio
        loud = make_video(tmp_path / "loud.mp4", sound="aac", sound_seconds=1.0)
        assert not copy_video(loud, tmp_path / "out.gif").has_audio

    def test_damaged_sound_does_not_spoil_the_picture(self, tmp_path: Path) -> None:
        source = make_video(tmp_path / "a.mkv", 20, sound="flac", sound_seconds=2.0, beep_at=0.5)
        data = bytearray(source.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 200] = os.urandom(200)
        source.write_bytes(bytes(data))
        with read_video(make_video(tmp_path / "b.mp4", 20)) as video, VideoWriter(
            tmp_path / "out.mp4", WIDTH, HEIGHT, rate=10, audio_from=source
        ) as writer:  # fmt: skip
            for frame in video:
                writer.write(frame.pixels, frame.time)
        assert len(all_frames(tmp_path / "out.mp4")) == 20


class TestCompleteOrNotThere:
    @pytest.mark.parametrize("extension", ["mp4", "gif", "webp"])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("frames", [0, 5])
    def test_a_failure_leaves_the_old_file(
        self, tmp_path: Path, extension: str, error: type[BaseException], frames: int
    ) -> None:
        path = tmp_path / f"a.{extension}"
        path.write_bytes(b"the old one")

        def fail(writer: VideoWriter) -> None:
            with writer:
                for index in range(frames):
                    writer.write(picture(index))
                raise error

        with pytest.raises(error):
            fail(VideoWriter(path, WIDTH, HEIGHT))
        assert path.read_bytes() == b"the old one"
        assert os.listdir(tmp_path) == [path.name]

    def test_nothing_shows_before_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with VideoWriter(path, WIDTH, HEIGHT) as writer:
            writer.write(picture(0))
            assert not path.exists()
        assert path.exists()
        assert leftovers(tmp_path) == []

    def test_no_frame_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="no frame"), VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT):
            pass
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("extension", ["mp4", "gif", "webp"])
    def test_full_disk(self, small_disk: Path, extension: str) -> None:
        noise = np.random.default_rng(0)
        path = small_disk / f"a.{extension}"
        path.write_bytes(b"the old one")

        def fill() -> None:
            with VideoWriter(path, 128, 128, crf=5) as writer:
                for _ in range(40):
                    writer.write(noise.integers(0, 256, (128, 128, 3), dtype=np.uint8))

        with pytest.raises(OutputError, match="disk is full"):
            fill()
        assert path.read_bytes() == b"the old one"
        assert os.listdir(small_disk) == [path.name]

    @pytest.mark.parametrize("where", ["write", "finish"])
    def test_full_disk_simulated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        def fail(*_: object) -> None:
            raise av.error.OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

        monkeypatch.setattr(mp4.Mp4Sink, where, fail)
        path = tmp_path / "a.mp4"
        path.write_bytes(b"the old one")
        with (
            pytest.raises(OutputError, match="disk is full; free some space"),
            VideoWriter(path, WIDTH, HEIGHT) as writer,
        ):
            writer.write(picture(0))
        assert os.listdir(tmp_path) == [path.name]
        assert path.read_bytes() == b"the old one"

    def test_full_disk_when_flushing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with (
            pytest.raises(OutputError, match="disk is full"),
            VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer,
        ):
            writer.write(picture(0))
        assert os.listdir(tmp_path) == []

    def test_a_file_that_lost_frames_is_not_called_complete(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complete = mp4.Mp4Sink.finish

        def finish(sink: mp4.Mp4Sink) -> None:
            sink._frames += 1  # as if a frame had not reached the file
            complete(sink)

        monkeypatch.setattr(mp4.Mp4Sink, "finish", finish)
        with (
            pytest.raises(OutputError, match="1 of 2 frames"),
            VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer,
        ):
            writer.write(picture(0))
        assert os.listdir(tmp_path) == []

    def test_symbolic_link_is_followed(self, tmp_path: Path) -> None:
        real = tmp_path / "real"
        real.mkdir()
        (real / "a.mp4").write_bytes(b"old")
        (tmp_path / "link.mp4").symlink_to(real / "a.mp4")
        with VideoWriter(tmp_path / "link.mp4", WIDTH, HEIGHT) as writer:
            writer.write(picture(0))
        assert (tmp_path / "link.mp4").is_symlink()
        assert len(all_frames(real / "a.mp4")) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestCheckOutput:
    def refuse(self, path: Path, *words: str, **options: Any) -> None:
        with pytest.raises(OutputError) as caught:
            check_output(path, **options)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "a.gif", "a.webp"])
    def test_accepted_without_a_trace(self, tmp_path: Path, name: str) -> None:
        assert check_output(tmp_path / name) == tmp_path / name
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["a.avi", "a", "a.mp4.txt", ".mp4"])
    def test_unknown_extension_lists_the_known(self, tmp_path: Path, name: str) -> None:
        self.refuse(tmp_path / name, ".mp4, .gif, .webp")

    def test_missing_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "none" / "a.mp4", "does not exist", "create it")

    def test_folder_in_the_place_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").mkdir()
        self.refuse(tmp_path / "a.mp4", "is a folder")

    def test_file_in_the_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        self.refuse(tmp_path / "a" / "b.mp4")

    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "touch", denied)  # root may write anywhere: the refusal is played
        self.refuse(tmp_path / "a.mp4", "no permission")

    def test_existing_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").touch()
        assert check_output(tmp_path / "a.mp4") == tmp_path / "a.mp4"
        self.refuse(tmp_path / "a.mp4", "exists already", overwrite=False)

    def test_input_is_not_overwritten(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "a.mp4", 2)
        self.refuse(tmp_path / "a.mp4", "also an input", inputs=[tmp_path / "none.png", path])
        with pytest.raises(OutputError, match="also an input"):
            VideoWriter(path, WIDTH, HEIGHT, audio_from=path)

    def test_too_long_a_name(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / ("a" * 300 + ".mp4"), "too long")

    def test_pipe_in_the_place_of_the_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.mp4")
        self.refuse(tmp_path / "a.mp4", "not a regular file")
