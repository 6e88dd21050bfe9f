"""Scores of folders of videos: made-up systems with known figures, and everything that does not fit together."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Command
from personalive.errors import InputError
from personalive.evaluation.cases import Case, find_cases
from personalive.evaluation.clips import CLIP_SIDE, clip, strip
from personalive.evaluation.meters import MOST_PSNR, Instruments
from personalive.evaluation.page import MOST_MEDIA, Report, Shown, page
from personalive.evaluation.score import VideoFigures, in_step
from personalive.evaluation.score import score as score_case
from personalive.evaluation.scores import summarise
from personalive.media.frames import Pixels
from toy_cases import FRAMES, SIDE, BrightnessReader, Folders, frame, make_folders, video
from toy_video import all_frames, make_video


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


def lossless(path: Path, draw: Callable[[int], Pixels]) -> Path:
    return make_video(path, FRAMES, size=(SIDE, SIDE), draw=draw, codec="ffv1", pixel_format="bgr0")


def large_video(path: Path, draw: Callable[[int], Pixels]) -> Path:
    """Of twice the usual side."""
    return make_video(path, FRAMES, size=(2 * SIDE, 2 * SIDE), draw=draw, codec="ffv1", pixel_format="bgr0")


def only(folders: Folders, cross: bool = False) -> Case:
    (case,), problems = find_cases(*folders, cross=cross)
    assert problems == []
    return case


def rendered(folders: Folders) -> Case:
    """Crossed, both said to be rendered people."""
    return dataclasses.replace(only(folders, cross=True), portrait_person=Path("a.tar"), driver_person=Path("b.tar"))


def score(case: Case, max_frames: int | None = None) -> VideoFigures:
    return score_case(case, Instruments(BrightnessReader()), max_frames).figures


class TestScore:
    def test_the_truth_is_perfect(self, folders: Folders) -> None:
        made = score(only(folders))
        assert (made.name, made.frames) == ("a", FRAMES)
        assert (made.figures["L1"], made.figures["PSNR"], made.figures["temporal error"]) == (0, MOST_PSNR, 0)
        assert made.figures["SSIM"] == pytest.approx(1, abs=1e-5)
        assert made.figures["follows yaw"] == pytest.approx(1)
        assert made.figures["change ratio"] == 1
        assert not any("identity" in name for name in made.figures)  # of real people the yardstick says nothing
        assert len(made.over_time["L1"]) == FRAMES

    def test_the_yardstick_tells_rendered_people_apart(self, folders: Folders) -> None:
        half = dataclasses.replace(only(folders), portrait_person=Path("a.tar"))
        made = score(half)
        assert made.figures["identity distance (rendered people)"] < 0.1
        assert len(made.over_time["identity distance (rendered people)"]) == FRAMES
        crossed = score(dataclasses.replace(half, cross=True))
        assert "nearer to the portrait (rendered people)" not in crossed.figures  # the driver is a real person

    def test_late_is_worse_everywhere_but_in_its_changes(self, folders: Folders) -> None:
        perfect = score(only(folders)).figures
        video(folders[0] / "a.mkv", delay=2)
        late = score(only(folders)).figures
        assert late["L1"] > perfect["L1"]
        assert late["SSIM"] < perfect["SSIM"]
        assert late["MS-SSIM"] < perfect["MS-SSIM"]
        assert late["follows mouth"] < 0.9
        assert late["change ratio"] == pytest.approx(1, abs=0.1)

    def test_noise_of_known_size(self, folders: Folders) -> None:
        def clipped(index: int) -> Pixels:
            return np.clip(frame(index), 10, 245)

        def noisy(index: int) -> Pixels:
            """Every other column 10 levels off, up and down by turns."""
            pixels = clipped(index)
            pixels[:, ::2] += np.uint8(10)
            pixels[:, 1::2] -= np.uint8(10)
            return pixels

        for folder, draw in ((folders[1], clipped), (folders[0], noisy)):
            lossless(folder / "a.mkv", draw)
        figures = score(only(folders)).figures
        assert figures["L1"] == pytest.approx(10 / 255, rel=1e-5)
        assert figures["PSNR"] == pytest.approx(-20 * math.log10(10 / 255), rel=1e-5)
        assert figures["SSIM"] < 0.9
        assert figures["temporal error"] == pytest.approx(0, abs=1e-6)  # it stands still
        assert figures["follows mouth"] == pytest.approx(1, abs=1e-6)  # and is as bright

    def test_swapped_videos_follow_the_wrong_driver(self, folders: Folders, tmp_path: Path) -> None:
        def slow(index: int) -> Pixels:
            return frame(index // 3, delay=7)

        other = lossless(tmp_path / "slow.mkv", slow)
        right = only(folders)
        assert score(dataclasses.replace(right, generated=other, driving=other)).figures["follows yaw"] > 0.999
        swapped = score(dataclasses.replace(right, generated=other)).figures
        assert swapped["follows yaw"] < 0.7
        assert swapped["L1"] > 0.03

    def test_cross_knows_whose_colour_it_is(self, folders: Folders) -> None:
        blue, nearer = (40, 60, 220), "nearer to the portrait (rendered people)"
        video(folders[1] / "a.mkv", colour=blue)
        kept = score(rendered(folders))
        assert kept.figures[nearer] == 1
        assert "L1" not in kept.figures
        assert "L1" not in kept.over_time
        video(folders[0] / "a.mkv", colour=blue)
        assert score(rendered(folders)).figures[nearer] == 0

    def test_nobody_is_not_measured(self, folders: Folders) -> None:
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(folders[2] / "a.png")
        nobody = rendered(folders)
        figures = score(nobody).figures
        assert math.isnan(figures["identity distance (rendered people)"])
        assert math.isnan(figures["nearer to the portrait (rendered people)"])
        scored = score_case(nobody, Instruments(BrightnessReader()))
        (row,) = (row for row in summarise([scored]) if row.measure == "identity distance (rendered people)")
        assert row.estimate.count == 0

    def test_max_frames(self, folders: Folders) -> None:
        assert score(only(folders), max_frames=7).frames == 7

    @pytest.mark.parametrize("longer", [0, 1])
    def test_lengths_must_agree(self, folders: Folders, longer: int) -> None:
        video(folders[longer] / "a.mkv", FRAMES + 1)
        with pytest.raises(InputError, match=f"ends after {FRAMES} frames"):
            score(only(folders))

    def test_shapes_must_agree_sizes_need_not(self, folders: Folders) -> None:
        make_video(folders[1] / "a.mkv", FRAMES, size=(SIDE * 2, SIDE), codec="ffv1", pixel_format="bgr0")
        with pytest.raises(InputError, match="shapes differ"):
            score(only(folders))
        make_video(folders[1] / "a.mkv", FRAMES, size=(SIDE * 2, SIDE * 2), codec="ffv1", pixel_format="bgr0")
        assert score(only(folders)).frames == FRAMES

    def test_a_larger_output_is_compared_at_the_truths_size(self, folders: Folders) -> None:
        """An output of twice the driver's side: it is the truth pixel by pixel; a finer pattern averages out."""

        def large(index: int) -> Pixels:
            return np.kron(frame(index), np.ones((2, 2, 1), np.uint8))

        large_video(folders[0] / "a.mkv", large)
        smooth = score(only(folders))
        figures = smooth.figures
        assert figures["L1"] < 0.01
        assert figures["SSIM"] > 0.95
        assert figures["change ratio"] == pytest.approx(1, abs=0.05)
        pattern = np.kron(np.ones((SIDE, SIDE, 1)), np.array([[20, -20], [-20, 20]])[..., None])
        large_video(folders[0] / "a.mkv", lambda index: (large(index) + pattern).clip(0, 255).astype(np.uint8))
        rough = score(only(folders))
        assert rough.figures["L1"] < 0.02
        assert np.mean(rough.over_time["sharpness"]) > 2 * np.mean(smooth.over_time["sharpness"])  # the output's own

    def test_a_larger_driver_is_made_as_small_as_the_output(self, folders: Folders) -> None:
        moments = list(in_step(only(folders), 2))
        assert {part.shape for m in moments for part in (m.generated, m.driving)} == {(SIDE, SIDE, 3)}
        large_video(folders[1] / "a.mkv", lambda index: np.kron(frame(index), np.ones((2, 2, 1), np.uint8)))
        (moment,) = in_step(only(folders), 1)
        assert moment.driving.shape == moment.generated.shape == (SIDE, SIDE, 3)
        assert moment.whole.shape == (2 * SIDE, 2 * SIDE, 3)

    def test_the_strip_shows_driver_over_result(self, folders: Folders) -> None:
        with Image.open(io.BytesIO(strip(only(folders), FRAMES))) as picture:
            assert picture.size == (7 * 128, 256)

    def test_the_clip_shows_portrait_driver_result_and_truth(self, folders: Folders, tmp_path: Path) -> None:
        case = only(folders)
        for panes, shown in ((3, case), (4, dataclasses.replace(case, cross=True, truth=case.driving))):
            (tmp_path / "clip.webm").write_bytes(clip(shown, FRAMES))
            frames = all_frames(tmp_path / "clip.webm")
            assert len(frames) == FRAMES
            pixels = frames[4].pixels.astype(int)
            assert pixels.shape == (CLIP_SIDE, panes * CLIP_SIDE, 3)
            driver, result = (pixels[:, place * CLIP_SIDE :][:, :CLIP_SIDE] for place in (1, 2))
            assert abs(driver - result).mean() < 3
            assert abs(driver - pixels[:, :CLIP_SIDE]).mean() > 3  # the portrait stands still

    def test_a_truth_of_its_own(self, folders: Folders, tmp_path: Path) -> None:
        """Across people pixels count where somebody knows what should have come out."""
        video(folders[1] / "a.mkv", colour=(40, 60, 220))
        truth = video(tmp_path / "truth.mkv", delay=1)
        figures = score(dataclasses.replace(only(folders, cross=True), truth=truth)).figures
        assert 0 < figures["L1"] < 0.2
        exact = dataclasses.replace(only(folders, cross=True), truth=folders[0] / "a.mkv")
        assert score(exact).figures["temporal error"] == 0


class TestFolders:
    def test_one_driver_and_one_portrait_for_all(self, folders: Folders) -> None:
        shutil.copy(folders[0] / "a.mkv", folders[0] / "b.mkv")
        found, problems = find_cases(folders[0], folders[1] / "a.mkv", folders[2] / "a.png")
        assert [triple.name for triple in found] == ["a", "b"]
        assert problems == []
        assert find_cases(*folders)[1] == [f"b.mkv: nothing called b in {folders[1]} and {folders[2]}"]

    def test_refused(self, folders: Folders, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            find_cases(tmp_path / "none", *folders[1:])
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no videos"):
            find_cases(tmp_path / "empty", *folders[1:])
        (folders[0] / "a.mp4").touch()
        with pytest.raises(InputError, match="two files called a"):
            find_cases(*folders)


class TestCommand:
    def arguments(self, folders: Folders, tmp_path: Path) -> list[str | Path]:
        names = ("--generated", "--driving", "--reference")
        parts: list[str | Path] = [part for pair in zip(names, folders, strict=True) for part in pair]
        return ["evaluate", *parts, "-o", tmp_path / "report"]

    def test_writes_every_kind_of_report(self, command: Command, folders: Folders, tmp_path: Path) -> None:
        ended = command(*self.arguments(folders, tmp_path), "--system", "Someone <else>")
        assert ended.code == 0
        assert "| L1 | 0.0000" in ended.out
        assert "not measured" in ended.out  # there is no face that the packaged tracker could find
        content = json.loads((tmp_path / "report" / "scores.json").read_text("utf-8"))
        assert content["source"]["model"] == "Someone <else>"
        assert content["cases"]["videos"][0]["figures"]["follows yaw"] is None
        (line,) = csv.DictReader((tmp_path / "report" / "scores.csv").open(encoding="utf-8"))
        assert (line["video"], line["frames"], line["L1"], line["follows yaw"]) == ("a", str(FRAMES), "0", "")
        html = (tmp_path / "report" / "report.html").read_text("utf-8")
        assert "Someone &lt;else&gt;" in html
        assert "data:image/jpeg;base64," in html
        assert "data:video/webm;base64," in html
        assert "<path class='line" in html
        assert "http" not in html  # nothing is fetched
        assert "pip install lpips" in html

    def test_bad_videos_are_named_and_left_out_by_choice(
        self, command: Command, folders: Folders, tmp_path: Path
    ) -> None:
        (folders[0] / "b.mp4").write_text("no video")
        shutil.copy(folders[1] / "a.mkv", folders[1] / "b.mkv")
        shutil.copy(folders[2] / "a.png", folders[2] / "b.png")
        ended = command(*self.arguments(folders, tmp_path))
        assert ended.code == 1
        assert "b.mp4 is not a video" in ended.err
        assert not (tmp_path / "report" / "scores.json").exists()
        ended = command(*self.arguments(folders, tmp_path), "--skip-bad")
        assert ended.code == 1
        assert "1 videos (1 kept from before), 1 left out" in ended.out
        assert "left out: " in ended.err
        assert "b.mp4" in (tmp_path / "report" / "scores.md").read_text("utf-8")
        assert "Left out: 1" in (tmp_path / "report" / "report.html").read_text("utf-8")

    def test_missing_partner(self, command: Command, folders: Folders, tmp_path: Path) -> None:
        (folders[2] / "a.png").unlink()
        ended = command(*self.arguments(folders, tmp_path))
        assert (ended.code, "nothing called a" in ended.err) == (1, True)
        ended = command(*self.arguments(folders, tmp_path), "--skip-bad")
        assert (ended.code, "none of the 1 cases" in ended.err) == (1, True)

    def test_beside_another_system(self, command: Command, folders: Folders, tmp_path: Path) -> None:
        timed = ("--fps", "20", "--timed-on", "a small machine")
        assert command(*self.arguments(folders, tmp_path), "--system", "one", *timed).code == 0
        other = tmp_path / "report" / "scores.json"
        again = [*self.arguments(folders, tmp_path)[:-1], tmp_path / "second", "--beside", other]
        assert command(*again, "--system", "two", "--fps", "40").code == 0
        html = (tmp_path / "second" / "report.html").read_text("utf-8")
        assert "Beside other systems" in html
        assert "20 (a small machine)" in html
        assert "Speed against quality" in html
        shutil.move(folders[0] / "a.mkv", folders[0] / "b.mkv")
        shutil.move(folders[1] / "a.mkv", folders[1] / "b.mkv")
        shutil.move(folders[2] / "a.png", folders[2] / "b.png")
        ended = command(*again)
        assert (ended.code, "is about other cases (for one: a)" in ended.err) == (1, True)
        other.write_text("{}")
        assert "is not a report" in command(*again).err

    def test_folders_or_a_manifest(self, command: Command, folders: Folders, tmp_path: Path) -> None:
        text = 'format = 1\n[[case]]\nname = "a"\ncategory = "self"\nreference = "reference/a.png"\n'
        (tmp_path / "cases.toml").write_text(f'{text}driving = "driving/a.mkv"\n')
        listed: list[str | Path] = ["evaluate", "--manifest", tmp_path / "cases.toml", "-o", tmp_path / "report"]
        assert command(*listed, "--generated", folders[0]).code == 0
        assert "names no output" in command(*listed).err
        assert "leave out --driving" in command(*listed, "--driving", folders[1]).err
        assert "name the videos" in command("evaluate", "-o", tmp_path / "report").err


def report(case: VideoFigures, shown: dict[str, Shown] | None = None) -> Report:
    return Report([], [case], ["<b>x</b>"], {"model": "m"}, [], shown or {})


def test_the_page_escapes_names(folders: Folders) -> None:
    text = page(report(score(only(folders))))
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_the_page_has_a_size(folders: Folders) -> None:
    figures = score(only(folders))
    assert "the page is full" not in page(report(figures, {"a": Shown(b"s", b"c", "")}))
    assert "the page is full" in page(report(figures, {"a": Shown(b"s", bytes(MOST_MEDIA), "")}))


def test_a_driver_who_holds_still_is_not_followed(folders: Folders) -> None:
    for folder in folders[:2]:
        lossless(folder / "a.mkv", lambda index: np.full((SIDE, SIDE, 3), 120 + index % 2, np.uint8))
    figures = score(only(folders)).figures
    assert math.isnan(figures["follows yaw"])  # half a degree to and fro, were brightness degrees
    assert figures["follows mouth"] == pytest.approx(1)
