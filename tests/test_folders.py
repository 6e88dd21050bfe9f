"""Scores of folders of videos: made-up systems with known figures, and everything that does not fit together."""

from __future__ import annotations

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Command
from personalive.errors import InputError
from personalive.evaluation.folders import MOST_PSNR, Triple, find_triples, score, strip
from personalive.evaluation.page import page
from personalive.evaluation.scores import summarise
from personalive.evaluation.yardstick import IDENTITY_SIZE, SIGNALS, Reading, unit
from personalive.media.frames import Pixels
from toy_video import make_video

SIDE, FRAMES = 48, 30


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


class BrightnessReader:
    """Every signal is the brightness, the identity the mean colour; a dark picture shows nobody."""

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        if frames.mean() < 30:
            return None
        colour = unit(frames.mean((1, 2)) - 128)
        padded = np.pad(colour, ((0, 0), (0, IDENTITY_SIZE - 3)))
        return Reading(np.tile(frames.mean((1, 2, 3))[:, None], len(SIGNALS)), padded)


def frame(index: int, delay: int = 0, colour: tuple[int, int, int] = (200, 90, 60)) -> Pixels:
    """A coloured picture with a bright bar that comes and goes."""
    pixels = np.full((SIDE, SIDE, 3), colour, np.uint8)
    pixels[: round(12 + 10 * math.sin((index - delay) / 3))] = 250
    return pixels


def video(path: Path, frames: int = FRAMES, **kind: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    draw = partial(frame, **kind)  # type: ignore[arg-type]
    return make_video(path, frames, size=(SIDE, SIDE), draw=draw, codec="ffv1", pixel_format="bgr0")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """generated/a.mkv, driving/a.mkv, reference/a.png: the output is the truth."""
    video(tmp_path / "driving" / "a.mkv")
    video(tmp_path / "generated" / "a.mkv")
    (tmp_path / "reference").mkdir()
    Image.fromarray(frame(0)).save(tmp_path / "reference" / "a.png")
    return tmp_path / "generated", tmp_path / "driving", tmp_path / "reference"


def only(folders: tuple[Path, Path, Path]) -> Triple:
    (triple,), problems = find_triples(*folders)
    assert problems == []
    return triple


class TestScore:
    def test_the_truth_is_perfect(self, folders: tuple[Path, Path, Path]) -> None:
        made = score(only(folders), BrightnessReader())
        assert (made.name, made.frames) == ("a", FRAMES)
        assert (made.figures["L1"], made.figures["PSNR"], made.figures["temporal error"]) == (0, MOST_PSNR, 0)
        assert made.figures["SSIM"] == pytest.approx(1, abs=1e-5)
        assert made.figures["follows yaw"] == pytest.approx(1)
        assert made.figures["change ratio"] == 1
        assert made.figures["identity distance"] < 0.1
        assert len(made.over_time["L1"]) == len(made.over_time["identity distance"]) == FRAMES

    def test_late_is_worse_everywhere_but_in_its_changes(self, folders: tuple[Path, Path, Path]) -> None:
        perfect = score(only(folders), BrightnessReader()).figures
        video(folders[0] / "a.mkv", delay=2)
        late = score(only(folders), BrightnessReader()).figures
        assert late["L1"] > perfect["L1"]
        assert late["SSIM"] < perfect["SSIM"]
        assert late["MS-SSIM"] < perfect["MS-SSIM"]
        assert late["follows mouth"] < 0.9
        assert late["change ratio"] == pytest.approx(1, abs=0.1)

    def test_cross_knows_whose_colour_it_is(self, folders: tuple[Path, Path, Path]) -> None:
        blue = (40, 60, 220)
        video(folders[1] / "a.mkv", colour=blue)
        kept = score(only(folders), BrightnessReader(), cross=True)
        assert kept.figures["nearer to the portrait"] == 1
        assert "L1" not in kept.figures
        assert list(kept.over_time) == ["identity distance"]
        video(folders[0] / "a.mkv", colour=blue)
        assert score(only(folders), BrightnessReader(), cross=True).figures["nearer to the portrait"] == 0

    def test_nobody_is_not_measured(self, folders: tuple[Path, Path, Path]) -> None:
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(folders[2] / "a.png")
        figures = score(only(folders), BrightnessReader(), cross=True).figures
        assert math.isnan(figures["identity distance"])
        assert math.isnan(figures["nearer to the portrait"])
        (row,) = (row for row in summarise([score(only(folders), BrightnessReader())], cross=False)
                  if row.measure == "identity distance")  # fmt: skip
        assert row.estimate.count == 0

    def test_max_frames(self, folders: tuple[Path, Path, Path]) -> None:
        assert score(only(folders), BrightnessReader(), max_frames=7).frames == 7

    @pytest.mark.parametrize("longer", [0, 1])
    def test_lengths_must_agree(self, folders: tuple[Path, Path, Path], longer: int) -> None:
        video(folders[longer] / "a.mkv", FRAMES + 1)
        with pytest.raises(InputError, match=f"ends after {FRAMES} frames"):
            score(only(folders), BrightnessReader())

    def test_shapes_must_agree_sizes_need_not(self, folders: tuple[Path, Path, Path]) -> None:
        make_video(folders[1] / "a.mkv", FRAMES, size=(SIDE * 2, SIDE), codec="ffv1", pixel_format="bgr0")
        with pytest.raises(InputError, match="shapes differ"):
            score(only(folders), BrightnessReader())
        make_video(folders[1] / "a.mkv", FRAMES, size=(SIDE * 2, SIDE * 2), codec="ffv1", pixel_format="bgr0")
        assert score(only(folders), BrightnessReader()).frames == FRAMES

    def test_the_strip_shows_driver_over_result(self, folders: tuple[Path, Path, Path]) -> None:
        assert strip(only(folders), FRAMES).shape == (256, 7 * 128, 3)


class TestFolders:
    def test_one_driver_and_one_portrait_for_all(self, folders: tuple[Path, Path, Path]) -> None:
        shutil.copy(folders[0] / "a.mkv", folders[0] / "b.mkv")
        found, problems = find_triples(folders[0], folders[1] / "a.mkv", folders[2] / "a.png")
        assert [triple.name for triple in found] == ["a", "b"]
        assert problems == []
        assert find_triples(*folders)[1] == [f"b.mkv: nothing called b in {folders[1]} and {folders[2]}"]

    def test_refused(self, folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            find_triples(tmp_path / "none", *folders[1:])
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no videos"):
            find_triples(tmp_path / "empty", *folders[1:])
        (folders[0] / "a.mp4").touch()
        with pytest.raises(InputError, match="two files called a"):
            find_triples(*folders)


class TestCommand:
    def arguments(self, folders: tuple[Path, Path, Path], tmp_path: Path) -> list[str | Path]:
        names = ("--generated", "--driving", "--reference")
        parts: list[str | Path] = [part for pair in zip(names, folders, strict=True) for part in pair]
        return ["evaluate", *parts, "-o", tmp_path / "report"]

    def test_writes_every_kind_of_report(
        self, command: Command, folders: tuple[Path, Path, Path], tmp_path: Path
    ) -> None:
        ended = command(*self.arguments(folders, tmp_path), "--system", "Someone <else>")
        assert ended.code == 0
        assert "| L1 | 0.0000" in ended.out
        assert "not measured" in ended.out  # there is no face that the packaged tracker could find
        content = json.loads((tmp_path / "report" / "scores.json").read_text("utf-8"))
        assert content["source"]["model"] == "Someone <else>"
        assert content["cases"]["videos"][0]["figures"]["identity distance"] is None
        (line,) = csv.DictReader((tmp_path / "report" / "scores.csv").open(encoding="utf-8"))
        assert (line["video"], line["frames"], line["L1"], line["follows yaw"]) == ("a", str(FRAMES), "0", "")
        html = (tmp_path / "report" / "report.html").read_text("utf-8")
        assert "Someone &lt;else&gt;" in html
        assert "data:image/jpeg;base64," in html
        assert "<polyline" in html
        assert "http" not in html  # nothing is fetched
        assert "would need LPIPS weights" in html

    def test_bad_videos_are_named_and_left_out_by_choice(
        self, command: Command, folders: tuple[Path, Path, Path], tmp_path: Path
    ) -> None:
        (folders[0] / "b.mp4").write_text("no video")
        shutil.copy(folders[1] / "a.mkv", folders[1] / "b.mkv")
        shutil.copy(folders[2] / "a.png", folders[2] / "b.png")
        ended = command(*self.arguments(folders, tmp_path))
        assert ended.code == 1
        assert "b.mp4 is not a video" in ended.err
        assert not (tmp_path / "report").exists()
        ended = command(*self.arguments(folders, tmp_path), "--skip-bad")
        assert ended.code == 1
        assert "1 videos, 1 left out" in ended.out
        assert "left out: " in ended.err
        assert "b.mp4" in (tmp_path / "report" / "scores.md").read_text("utf-8")
        assert "Left out: 1" in (tmp_path / "report" / "report.html").read_text("utf-8")

    def test_missing_partner(self, command: Command, folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
        (folders[2] / "a.png").unlink()
        ended = command(*self.arguments(folders, tmp_path))
        assert (ended.code, "nothing called a" in ended.err) == (1, True)
        ended = command(*self.arguments(folders, tmp_path), "--skip-bad")
        assert (ended.code, "none of the 1 videos" in ended.err) == (1, True)


def test_the_page_escapes_names(folders: tuple[Path, Path, Path]) -> None:
    video_figures = score(only(folders), BrightnessReader())
    text = page(summarise([video_figures], cross=False), [video_figures], {}, ["<b>x</b>"], {"model": "m"})
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
