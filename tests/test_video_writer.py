"""Videos out: frames, times, sound, and an output that is complete or not there."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from personalive.errors import OutputError
from personalive.media import mp4
from personalive.media.video import VideoInfo, probe, read_video
from personalive.media.video_writer import AI_COMMENT, VideoWriter, check_output
from toy_video import HEIGHT, WIDTH, all_frames, hear, index_of, make_video, picture


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


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


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
