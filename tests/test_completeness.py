"""A video that breaks off is refused before any work; a whole one, and one with a long last frame, is not."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from personalive.errors import InputError
from personalive.media.completeness import check_complete
from personalive.media.frames import Pixels
from personalive.media.video import probe
from toy_video import make_video

FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def noise(index: int) -> Pixels:
    """A frame that does not compress, so that half of the bytes is about half of the frames."""
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)


noisy = partial(make_video, frames=40, draw=noise, time_base=Fraction(1, 10))


@pytest.mark.parametrize(
    ("extension", "codec", "options", "sound"),
    [
        ("mp4", "libx264", FASTSTART, None),
        ("mp4", "libx264", FASTSTART, "aac"),
        ("mp4", "libx264", FRAGMENTS, None),
        ("mkv", "libx264", {}, None),
        ("mkv", "libx264", {}, "aac"),
        ("avi", "mpeg4", {}, None),
    ],
)
def test_cut_short(tmp_path: Path, extension: str, codec: str, options: dict[str, str], sound: str | None) -> None:
    path = noisy(tmp_path / f"a.{extension}", codec=codec, container_options=options, sound=sound, sound_seconds=4.0)
    check_complete(probe(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=f"a.{extension} is cut short.*get it whole"):
        check_complete(probe(path))


def test_the_beginning_of_a_cut_video_can_be_used(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4", container_options=FASTSTART)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    with pytest.raises(InputError, match=r"--max-frames \d+$") as caught:
        check_complete(info)
    usable = int(str(caught.value).split()[-1])
    check_complete(info, usable)
    with pytest.raises(InputError):
        check_complete(info, usable + 1)


def test_damage_within_a_video_is_no_end(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4", container_options=FASTSTART)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    check_complete(probe(path))


def test_a_last_frame_that_stays_long_is_whole(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 5, ticks=[0, 100, 200, 300, 5000])
    check_complete(probe(path))


@pytest.mark.parametrize("extension", ["gif", "webp"])
def test_kinds_that_say_nothing_pass(tmp_path: Path, extension: str) -> None:
    codec, form = ("gif", "rgb8") if extension == "gif" else ("libwebp_anim", "yuv420p")
    check_complete(probe(make_video(tmp_path / f"a.{extension}", 4, codec=codec, pixel_format=form)))
