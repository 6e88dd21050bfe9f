"""Videos to clips: rates, cuts, and what becomes of every frame. Faces are coloured squares, seen by a fake finder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalive.data.footage import (
    FPS,
    REASONS,
    Account,
    FootageConfig,
    UnusableVideoError,
    at_rate,
    cut_clips,
)
from personalive.data.shards import PersonRecord
from personalive.data.shots import CutDetector
from personalive.errors import ConfigError, InputError
from personalive.media.frames import Pixels
from personalive.media.video import VideoFrame
from personalive.motion.face_crop import FramingConfig
from personalive.motion.face_finder import FaceBox, FaceFinder
from toy_video import make_video

WIDTH, HEIGHT = 192, 128
CONFIG = FootageConfig(size=32, frames=10)


class ColourFinder(FaceFinder):
    """Takes red and blue squares for faces."""

    def __init__(self) -> None:
        pass

    def find(self, frame: Pixels, *, wanted: int = 1, thorough: bool = False) -> list[FaceBox]:
        faces = []
        for channel in (0, 2):
            others = np.delete(frame, channel, axis=2).max(2)
            rows, columns = np.nonzero((frame[..., channel] > 150) & (others < 110))
            if len(rows) > 50:
                side = float(max(np.ptp(columns), np.ptp(rows))) + 1
                faces.append(FaceBox(float(columns.mean()), float(rows.mean()), side))
        return sorted(faces, key=lambda face: face.side, reverse=True)

    def find_near(self, frame: Pixels, expected: FaceBox) -> FaceBox | None:
        near = [face for face in self.find(frame) if face.overlap(expected) > 0]
        return max(near, key=expected.overlap, default=None)


def scene(
    red: tuple[int, int, int] | None, blue: tuple[int, int, int] | None = None, grey: int = 120, spot: int = 0
) -> Pixels:
    """Squares (x, y, side) on grey; the spot within the red one moves with its number."""
    pixels = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
    for square, colour in ((red, (230, 30, 30)), (blue, (30, 30, 230))):
        if square is not None:
            x, y, side = square
            pixels[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = colour
    if red is not None:
        x = red[0] - 12 + 4 * (spot % 6)
        pixels[red[1] - 6 : red[1] + 6, x : x + 6] = (150, 100, 100) if spot % 2 else (210, 60, 60)
    return pixels


def cut(
    folder: Path, draw: Callable[[int], Pixels], frames: int, config: FootageConfig = CONFIG, rate: int = FPS
) -> tuple[list[PersonRecord], Account]:
    path = make_video(folder / "v.mp4", frames, size=(WIDTH, HEIGHT), rate=rate, draw=draw, options={"crf": "8"})
    account = Account()
    clips = list(cut_clips(path, "v.mp4", "ada", config, account, ColourFinder()))
    assert len(clips) == account.clips
    assert account.frames["used"] == account.clips * config.frames
    assert set(account.frames) <= {"used", *REASONS}
    return clips, account


FACE = (96, 64, 48)


# What becomes of the frames


def test_a_face_that_stays_gives_clips(tmp_path: Path) -> None:
    clips, account = cut(tmp_path, lambda i: scene(FACE, spot=i), 34)
    assert account.frames == {"used": 30, "too_short": 4}
    assert len({clip.name for clip in clips}) == 3
    for clip in clips:
        assert (clip.person, clip.truth, clip.kind) == ("ada", None, ("clip",) * 10)
        assert clip.images.shape == (10, 32, 32, 3)
        assert set(clip.group.tolist()) == {0}
        # framed as the product frames drivers: the face fills the same part of the picture
        red = clip.images[0][..., 0] > 180
        assert red.any(0).sum() == pytest.approx(32 / FramingConfig().side, abs=2)
        x1, y1, x2, _ = clip.face_box[0]
        assert (x1 + x2) / 2 == pytest.approx(0, abs=0.06)
        assert x2 - x1 == pytest.approx(2 * 0.904 / FramingConfig().side, abs=0.1)
        assert y1 < -x2


def test_a_cut_ends_a_clip(tmp_path: Path) -> None:
    clips, account = cut(tmp_path, lambda i: scene(FACE, spot=i, grey=60 if i < 15 else 220), 32)
    assert account.frames == {"used": 20, "cut": 5, "too_short": 7}
    assert clips[0].images[-1][0, 0, 1] < 100 < clips[1].images[0][0, 0, 1]


def test_without_a_face_there_is_nothing(tmp_path: Path) -> None:
    clips, account = cut(tmp_path, lambda i: scene(None), 20)
    assert (clips, account.frames) == ([], {"no_face": 20})


def test_a_face_that_goes_takes_its_clip_along(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene(FACE if i < 14 else None, spot=i), 60)
    assert account.frames == {"used": 10, "frozen": 10, "no_face": 40}  # it counts as lost after the third search


def test_a_face_that_only_its_surroundings_show_is_none(tmp_path: Path) -> None:
    class Imagines(ColourFinder):
        """Sees something in the whole first frame, and later only where it expects it."""

        def __init__(self) -> None:
            self.first = True

        def find(self, frame: Pixels, *, wanted: int = 1, thorough: bool = False) -> list[FaceBox]:
            self.first, first = False, self.first
            return super().find(frame) if first else []

        def find_near(self, frame: Pixels, expected: FaceBox) -> FaceBox | None:
            return expected

    path = make_video(tmp_path / "v.mp4", 10, size=(WIDTH, HEIGHT), rate=FPS, draw=lambda i: scene(FACE, spot=i))
    account = Account()
    assert list(cut_clips(path, "v.mp4", "ada", CONFIG, account, Imagines())) == []
    assert account.frames == {"no_face": 10}


def test_another_face_in_the_square(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene((80, 64, 48), (108, 94, 22), spot=i), 20)
    assert account.frames == {"several_faces": 20}


def test_another_face_elsewhere_does_no_harm(tmp_path: Path) -> None:
    clips, _ = cut(tmp_path, lambda i: scene((60, 64, 48), (165, 64, 40), spot=i), 20)
    assert len(clips) == 2
    assert not (clips[0].images[..., 2] > 200).any()


def test_a_face_that_is_too_small(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene((96, 64, 28), spot=i), 20, FootageConfig(size=64, frames=10))
    assert account.frames == {"too_small": 20}


def test_a_head_cut_off_by_the_frame(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene((14, 64, 48), spot=i), 20)
    assert account.frames == {"cut_off": 20}


def test_a_frozen_picture(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene(FACE, spot=2), 20)
    assert account.frames == {"frozen": 20}


def test_no_more_clips_than_asked(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene(FACE, spot=i), 60, FootageConfig(size=32, frames=10, clips=2))
    assert account.frames == {"used": 20}


def test_any_rate_becomes_25(tmp_path: Path) -> None:
    _, account = cut(tmp_path, lambda i: scene(FACE, spot=i // 2), 100, rate=50)
    assert account.frames == {"used": 50}
    with pytest.raises(UnusableVideoError, match=r"10\.0 frames a second"):
        cut(tmp_path, lambda i: scene(FACE, spot=i), 20, rate=10)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"Dear diary" * 100)
    with pytest.raises(InputError, match="not a video"):
        next(cut_clips(tmp_path / "text.mp4", "text.mp4", "ada", CONFIG, Account(), ColourFinder()))


def test_clips_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        FootageConfig(frames=1)


# Rates


def frames_of(times: list[float]) -> list[VideoFrame]:
    return [VideoFrame(np.full((1, 1, 3), i % 256, np.uint8), time, i) for i, time in enumerate(times)]


@settings(max_examples=60, deadline=None)
@given(st.floats(8.0, 120.0), st.integers(1, 200))
def test_every_tick_shows_the_picture_of_its_moment(rate: float, count: int) -> None:
    found = list(at_rate(frames_of([i / rate for i in range(count)])))
    ticks = [tick for tick, _ in found]
    assert ticks == list(range(len(ticks)))
    assert abs(len(ticks) / FPS - (count / rate if count > 1 else 1 / FPS)) <= 1.001 / FPS + 1e-3
    for tick, pixels in found:
        exact = tick / FPS * rate + 1e-3 * rate  # a picture that comes a millisecond late is taken for in time
        shown = min(int(exact), count - 1)
        assert abs(int(pixels[0, 0, 0]) - shown) <= (abs(exact - round(exact)) < 1e-6)


def test_a_hole_in_time_is_a_jump() -> None:
    found = list(at_rate(frames_of([0.0, 0.04, 100.0, 100.04])))
    ticks = [tick for tick, _ in found]
    assert len(ticks) < 20
    assert ticks[-2:] == [2500, 2501]
    assert max(np.diff(ticks)) > 2000
    assert list(at_rate([])) == []


# Cuts


def noisy(seed: int, shift: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    ramp = (np.arange(WIDTH)[None, :, None] + shift) % 200 + np.zeros((HEIGHT, 1, 3))
    return np.clip(ramp + rng.normal(0, 12, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)


def test_noise_and_pans_are_no_cuts() -> None:
    cuts = CutDetector()
    assert not any(cuts.is_cut(noisy(i, shift=3 * i)) for i in range(60))


def test_cuts_are_found_where_they_are() -> None:
    cuts = CutDetector()
    pictures = [noisy(i) // 2 if i < 20 else 255 - noisy(i) // 2 if i < 40 else noisy(i) for i in range(60)]
    assert [i for i, picture in enumerate(pictures) if cuts.is_cut(picture)] == [20, 40]


def test_a_swaying_camera_makes_no_cuts() -> None:
    cuts = CutDetector()
    assert not any(cuts.is_cut(noisy(i, shift=40 * i)) for i in range(1, 40))
