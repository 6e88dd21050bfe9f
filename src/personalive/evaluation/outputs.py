"""Our own outputs for a list of cases: animated, written, timed; what is finished is kept.

Each case is one stream. Beside the videos (`generated/<name>.mp4`) stands what each took (`runs/<name>.json`), under
a key of all that the video follows from: the model's weights, the case's files, and the options.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personalive.config import ModelConfig
from personalive.errors import InputError, OutputError, output_error
from personalive.evaluation.animator import streamed
from personalive.evaluation.cases import Case, hashed
from personalive.evaluation.report import provenance
from personalive.evaluation.stopwatch import Pace, PeakMemory, Stopwatch
from personalive.evaluation.variants import model_identity
from personalive.media.frames import Pixels, load_picture
from personalive.media.video import VideoReader, read_video
from personalive.media.video_writer import VideoWriter
from personalive.pipeline import PersonaLive
from personalive.weights.record import sha256_of

VERSION = 1
"""To be raised with every change to how outputs are made or timed: older ones are made anew."""

CRF = 8
"""x264's: hardly any loss, since the written video is what is measured."""

OUTPUTS, RUNS = "generated", "runs"
"""Folders in that of the report."""


@dataclass(frozen=True)
class Settings:
    """What an output follows from besides its case. model: by any name; options: device, precision, runtime, ..."""

    model: str
    options: dict[str, str]
    seed: int = 0
    max_frames: int | None = None

    @functools.cached_property
    def weights(self) -> str:
        """64 digits that tell the model's weights from others: of a file, its SHA-256."""
        identity = model_identity(self.model)
        return identity if len(identity) == 64 else hashlib.sha256(identity.encode()).hexdigest()

    @property
    def title(self) -> str:
        """The model's name and the beginning of its weights' hash."""
        return f"{self.model} (weights {self.weights[:12]})"

    def config(self, config: ModelConfig) -> str:
        """What was chosen, in a line, for reports."""
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{described(config)}; seed {self.seed}, {options}"


@dataclass(frozen=True)
class Run:
    """One output: measures of measures.EFFICIENCY by name, where and when they were taken, and whether it was kept."""

    name: str
    figures: dict[str, float]
    source: dict[str, str]
    kept: bool = False


def animate_cases(
    open_model: Callable[[], PersonaLive],
    cases: Sequence[Case],
    folder: Path,
    settings: Settings,
    *,
    skip_bad: bool = False,
    done: Callable[[int], object] = lambda _: None,
) -> tuple[dict[str, Run], list[str]]:
    """Every case's output at its place (`Case.generated`), by name, and a line for each that could not be made.

    The model is opened when the first output is to be made; one after the other, so that each has the machine to
    itself. Videos appear complete or not at all, marked as made by AI. Without skip_bad the first bad case is raised as
    InputError; what is finished stays. Raises OutputError where nothing can be written.
    """
    model: PersonaLive | None = None
    found: dict[str, Run] = {}
    problems: list[str] = []
    for case in cases:
        _check_name(case.name)
    for place in (folder / OUTPUTS, folder / RUNS):
        _make(place)
    for case in cases:
        try:
            record, key = folder / RUNS / f"{case.name}.json", key_of(case, settings)
            run = _kept(record, key, case)
            if run is None:
                model = open_model() if model is None else model
                run = _animate(model, case, settings)
                _write(record, {"key": key, "video": sha256_of(case.generated), **asdict(run)})
            found[case.name] = run
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{case.name}: {error}") from error
            problems.append(f"{case.name}: {error}")
        done(len(found) + len(problems))
    return found, problems


def key_of(case: Case, settings: Settings) -> str:
    """What an output follows from, as 24 digits. Raises InputError for a file that cannot be read."""
    given = [VERSION, hashed(case.driving), hashed(case.reference), settings.weights, settings.options]
    given += [settings.seed, settings.max_frames]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:24]


def efficiency(pace: Pace, config: ModelConfig, rate: float, gigabytes: float) -> dict[str, float]:
    """Figures by name of measures.EFFICIENCY, for a driver of `rate` frames per second.

    The delay is computed: a frame waits for its window (window_frames - 1 more frames, which come at the driver's
    rate or, if the model is slower, at the model's) and for one chunk's work; transport and display come on top.
    """
    speed = pace.frames_per_second
    slower = rate if math.isnan(speed) else min(rate, speed)
    return {
        "frames per second": speed,
        "chunk time, s": pace.chunk,
        "first frame, s": pace.first,
        "delay, computed, s": (config.stream.window_frames - 1) / slower + pace.chunk,
        "peak memory, GB": gigabytes,
    }


def described(config: ModelConfig) -> str:
    """A configuration in a line, for reports."""
    stream = config.stream
    return (
        f"{config.name}, {config.output_size} px, {stream.levels} levels of {stream.chunk_frames} frames, "
        f"{stream.keyframes} keyframes, tau {stream.tau:g}"
    )


def _animate(model: PersonaLive, case: Case, settings: Settings) -> Run:
    """Raises InputError for a portrait or a driver that cannot be used."""
    portrait = load_picture(case.reference)
    _require_square(case.reference, portrait.shape[1], portrait.shape[0])
    config, device = model.config, next(model.networks.denoising_unet.parameters()).device
    clock = Stopwatch(streamed(model, settings.seed), chunk=config.stream.chunk_frames)
    memory = PeakMemory(device)
    with read_video(case.driving, settings.max_frames) as video:
        info, side = video.info, config.output_size
        _require_square(case.driving, info.width, info.height)
        memory.start()
        with VideoWriter(case.generated, side, side, rate=info.rate, crf=CRF) as writer:
            for frame in clock(portrait, _pixels(video)):
                writer.write(frame)
        figures = efficiency(clock.paces[0], config, float(info.rate), memory.gigabytes())
    source = provenance(settings.title, settings.config(config)) | {"peak memory": memory.meaning}
    return Run(case.name, figures, source)


def _pixels(video: VideoReader) -> Iterator[Pixels]:
    return (frame.pixels for frame in video)


def _require_square(path: Path, width: int, height: int) -> None:
    if width != height:
        raise InputError(f"{path} is {width}x{height} pixels, not square; cut it, or let --crop auto do it")


def _check_name(name: str) -> None:
    if "/" in name or "\\" in name or name.startswith(".") or len(name) > 200:
        raise InputError(f"a case called {name[:200]!r} cannot name a video; give it a plain name")


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{place} cannot be made ({error.strerror}); name another folder") from error


def _kept(record: Path, key: str, case: Case) -> Run | None:
    """The run of an output that is there already and follows from the same; None: to be made."""
    try:
        entries: dict[str, Any] = json.loads(record.read_text("utf-8"))
        if entries.pop("key") != key or entries.pop("video") != sha256_of(case.generated):
            return None
        return Run(**{**entries, "kept": True})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(json.dumps(content, indent=1), "utf-8")  # with NaN, which only this program reads
        partial.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
