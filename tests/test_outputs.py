"""Our own outputs for cases: timed, marked, kept, and made anew when anything that they follow from changes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from command import Command, save_toy
from personalive.config import TOY
from personalive.errors import InputError
from personalive.evaluation import outputs
from personalive.evaluation.cases import Case, plan_cases
from personalive.evaluation.outputs import Settings, animate_cases, efficiency, key_of
from personalive.evaluation.stopwatch import Pace, Stopwatch
from personalive.media.frames import Pixels
from personalive.media.video_writer import AI_COMMENT
from personalive.pipeline import PersonaLive
from toy_cases import Folders, make_folders, video

FRAMES = 22


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return save_toy(tmp_path)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Drivers a and b, and a portrait of each; the folder of outputs is still to be made."""
    _, driving, reference = make_folders(tmp_path)
    video(driving / "b.mkv", delay=2)
    shutil.copy(reference / "a.png", reference / "b.png")
    return tmp_path / "report", driving, reference


def planned(folders: Folders) -> list[Case]:
    cases, problems = plan_cases(folders[1], folders[2], folders[0] / outputs.OUTPUTS)
    assert problems == []
    return cases


def no_model() -> PersonaLive:
    raise AssertionError("nothing was to be animated")


class TestAnimate:
    def settings(self, toy: Path, **changes: int) -> Settings:
        return Settings(str(toy), {"device": "cpu"}, max_frames=FRAMES, **changes)

    def test_outputs_are_marked_timed_and_kept(self, toy: Path, folders: Folders) -> None:
        cases, settings, heard = planned(folders), self.settings(toy), list[int]()
        runs, problems = animate_cases(
            lambda: PersonaLive.from_pretrained(toy), cases, folders[0], settings, done=heard.append
        )
        assert (list(runs), problems, heard) == (["a", "b"], [], [1, 2])
        for case in cases:
            with av.open(str(case.generated)) as container:
                assert container.metadata["comment"] == AI_COMMENT
                assert len(list(container.decode(video=0))) == FRAMES
        figures = runs["a"].figures
        assert set(figures) == set(outputs.efficiency(Pace(1, 1, 1, 1), TOY, 25, 1))
        assert all(value > 0 for value in figures.values())
        assert figures["first frame, s"] > figures["chunk time, s"]  # four chunks' work before the first frame
        assert settings.weights[:12] in runs["a"].source["model"]
        again, _ = animate_cases(no_model, cases, folders[0], settings)
        assert [run.kept for run in again.values()] == [True, True]
        assert {name: run.figures for name, run in again.items()} == {name: run.figures for name, run in runs.items()}
        assert sorted(path.name for path in (folders[0] / outputs.OUTPUTS).iterdir()) == ["a.mp4", "b.mp4"]

    def test_what_was_changed_is_made_anew(self, toy: Path, folders: Folders) -> None:
        cases, settings = planned(folders)[:1], self.settings(toy)
        opened = list[int]()

        def model() -> PersonaLive:
            opened.append(1)
            return PersonaLive.from_pretrained(toy)

        def animate(settings: Settings) -> None:
            animate_cases(model, cases, folders[0], settings)

        animate(settings)
        animate(dataclasses.replace(settings, seed=1))
        cases[0].generated.write_bytes(b"damaged")
        animate(dataclasses.replace(settings, seed=1))
        (folders[0] / outputs.RUNS / "a.json").write_text("[]")
        animate(dataclasses.replace(settings, seed=1))
        assert len(opened) == 4
        animate(dataclasses.replace(settings, seed=1))
        assert len(opened) == 4

    def test_an_output_follows_from_everything_in_its_key(
        self, toy: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (case, other), settings = planned(folders), self.settings(toy)
        Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(folders[2] / "b.png")
        keys = [
            key_of(case, settings),
            key_of(dataclasses.replace(case, driving=other.driving), settings),
            key_of(dataclasses.replace(case, reference=other.reference), settings),
            key_of(case, dataclasses.replace(settings, seed=3)),
            key_of(case, dataclasses.replace(settings, max_frames=None)),
            key_of(case, dataclasses.replace(settings, options={"device": "cuda"})),
            key_of(case, dataclasses.replace(settings, model="mini")),
        ]
        monkeypatch.setattr(outputs, "VERSION", -1)
        keys.append(key_of(case, settings))
        assert len(set(keys)) == len(keys)

    def test_a_bad_case_stops_or_is_named(self, toy: Path, folders: Folders) -> None:
        wide = Image.fromarray(np.zeros((64, 96, 3), np.uint8))
        wide.save(folders[2] / "a.png")
        cases, settings = planned(folders), self.settings(toy)
        with pytest.raises(InputError, match=r"a: .*a\.png is 96x64 pixels, not square"):
            animate_cases(lambda: PersonaLive.from_pretrained(toy), cases, folders[0], settings)
        assert list((folders[0] / outputs.OUTPUTS).iterdir()) == []
        runs, problems = animate_cases(
            lambda: PersonaLive.from_pretrained(toy), cases, folders[0], settings, skip_bad=True
        )
        assert (list(runs), len(problems)) == (["b"], 1)
        with pytest.raises(InputError, match="cannot name a video"):
            animate_cases(no_model, [dataclasses.replace(cases[0], name="a/b")], folders[0], settings)


class TestPlan:
    def test_folders_and_files(self, folders: Folders) -> None:
        out, driving, reference = folders
        one, _ = plan_cases(driving / "a.mkv", reference, out)
        assert [(case.name, case.driving.name, case.reference.name) for case in one] == [
            ("a", "a.mkv", "a.png"),
            ("b", "a.mkv", "b.png"),
        ]
        (alone,), _ = plan_cases(driving / "a.mkv", reference / "b.png", out, cross=True)
        assert (alone.name, alone.cross, alone.generated) == ("a", True, out / "a.mp4")
        own, _ = plan_cases(driving, None, out)
        assert [case.reference == case.driving for case in own] == [True, True]
        (reference / "b.png").unlink()
        (found,), problems = plan_cases(driving, reference, out)
        assert (found.name, problems) == ("a", [f"b: nothing called b in {reference}"])
        with pytest.raises(InputError, match="does not exist"):
            plan_cases(out, None, out)


class TestCommand:
    def test_one_command_says_how_good_and_how_fast(
        self, command: Command, toy: Path, folders: Folders, tmp_path: Path
    ) -> None:
        line: list[str | Path] = ["evaluate", "--model", toy, "--driving", folders[1], "--max-frames", str(FRAMES)]
        line += ["--device", "cpu", "-o", tmp_path / "report"]
        ended = command(*line, "--limit", "1")
        assert (ended.code, ended.err) == (0, "")
        assert "1 videos (1 animated now), 0 left out" in ended.out
        content = json.loads((tmp_path / "report" / "scores.json").read_text("utf-8"))
        (shown,) = content["cases"]["videos"]
        assert shown["figures"]["frames per second"] > 0
        assert shown["figures"]["L1"] > 0
        assert {"commit", "machine", "date", "animated"} <= set(shown["source"])
        assert "seed 0, device cpu" in content["source"]["config"]
        speed = [row for row in content["rows"] if row["section"] == "speed"]
        assert [row["measure"] for row in speed] == list(outputs.efficiency(Pace(1, 1, 1, 1), TOY, 25, 1))
        assert (tmp_path / "report" / "inputs").is_dir()  # the first frame, which is the portrait
        html = (tmp_path / "report" / "report.html").read_text("utf-8")
        assert "How fast: means over 1" in html
        ended = command(*line)
        assert "2 videos (1 animated now, 1 kept from before)" in ended.out
        assert "frames per second" in (tmp_path / "report" / "scores.csv").read_text("utf-8").splitlines()[0]

    def test_refused(self, command: Command, toy: Path, folders: Folders, tmp_path: Path) -> None:
        line: list[str | Path] = ["evaluate", "--model", toy, "-o", tmp_path / "report"]
        assert "name what the model is to animate" in command(*line).err
        assert "leave out --generated" in command(*line, "--generated", folders[1]).err
        assert "--cross needs" in command(*line, "--driving", folders[1], "--cross").err
        assert "choose auto or none" in command(*line, "--driving", folders[1], "--crop", "some").err
        ended = command("evaluate", "--model", tmp_path / "none.safetensors", "--driving", folders[1])
        assert (ended.code, "none.safetensors" in ended.err) == (1, True)
        assert not (tmp_path / "report" / "scores.json").exists()


class TestStopwatch:
    def test_first_frame_chunks_and_what_does_not_count(self) -> None:
        now = [0.0]

        def animate(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
            """A window of eight frames: the first chunk comes with the eighth frame; two chunks come at the end."""
            frames = list[Pixels]()
            for frame in driving:
                frames.append(frame)
                if len(frames) % 4 == 0:
                    now[0] += 1.0
                    if len(frames) >= 8:
                        yield from frames[-8:-4]
            now[0] += 2.0
            yield from frames[-4:]

        def slow_source() -> Iterator[Pixels]:
            for _ in range(20):
                now[0] += 50.0
                yield np.zeros((8, 8, 3), np.uint8)

        clock = Stopwatch(animate, lambda: now[0])
        for _ in clock(np.zeros((8, 8, 3), np.uint8), slow_source()):
            now[0] += 7.0
        (pace,) = clock.paces
        assert (pace.first, pace.chunk, pace.frames, pace.seconds) == (2.0, 1.0, 16, 5.0)
        assert clock.frames_per_second == pace.frames_per_second == 3.2

    def test_a_video_of_one_chunk_has_no_speed(self) -> None:
        clock = Stopwatch(lambda portrait, driving: iter(driving))
        list(clock(np.zeros((8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)))
        assert math.isnan(clock.paces[0].frames_per_second)
        assert math.isnan(clock.paces[0].chunk)

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the process")
    def test_peak_memory(self) -> None:
        """In a process of its own: what a thousand tests before have held and give back would be measured too."""
        script = """
import numpy as np, torch
from personalive.evaluation.stopwatch import PeakMemory
peak = PeakMemory(torch.device("cpu"))
peak.start()
before = peak.gigabytes()
held = np.ones(30_000_000)
print(peak.gigabytes() - before)
del held
print(peak.gigabytes() - before)
peak.start()
print(peak.gigabytes() - before)
"""
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        holding, after, again = map(float, run.stdout.split())
        assert holding == pytest.approx(0.24, abs=0.05)
        assert after > 0.15  # the peak, not what is in use
        assert again < 0.1

    def test_efficiency(self) -> None:
        window = TOY.stream.window_frames - 1
        quick = efficiency(Pace(first=0.5, chunk=0.1, frames=80, seconds=2.0), TOY, 25.0, 0.5)
        assert quick["frames per second"] == 40
        assert quick["delay, computed, s"] == pytest.approx(window / 25 + 0.1)
        slow = efficiency(Pace(first=0.5, chunk=0.8, frames=10, seconds=2.0), TOY, 25.0, 0.5)
        assert slow["delay, computed, s"] == pytest.approx(window / 5 + 0.8)
