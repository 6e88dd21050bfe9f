"""Videos in: every file a user may hand us, its frames, their times, and what is refused."""

from __future__ import annotations

import itertools
import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from personalive.errors import InputError
from personalive.media.frames import Pixels
from personalive.media.video import probe, read_video
from toy_video import HEIGHT, WIDTH, all_frames, beep, index_of, make_video, picture


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
