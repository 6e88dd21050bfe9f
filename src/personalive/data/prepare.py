"""A folder of videos -> shards, by several processes, in as many runs as it takes; and a report of what was left out.

A shard `train-video-00003.tar` comes with `train-video-00003.json`, which says which files it was made from and what
became of them. A file that stands in one of these is done; the next run takes the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from personalive.data.footage import FPS, REASONS, Account, FootageConfig, cut_clips
from personalive.data.jobs import run_jobs
from personalive.data.shards import PersonRecord, write_shard
from personalive.errors import ConfigError, InputError, output_error
from personalive.motion.face_finder import FaceFinder

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
REPORT = "report.json"
FILES_PER_SHARD = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """Who goes to training and who to test: by a checksum of the person, so that a growing folder moves nobody."""

    split: Split | None = None
    """Everybody goes there."""

    test_share: float = 0.1

    person: str = ""
    """A regular expression that finds what names the person in a file's path below the folder, its first group if it
    has one; empty: every file shows somebody else."""

    def __post_init__(self) -> None:
        if not 0 <= self.test_share <= 1:
            raise ConfigError(f"a test share of {self.test_share} is not between 0 and 1")
        if self.split not in (None, *SPLITS):
            raise ConfigError(f"there is no split {self.split!r}; choose one of {', '.join(SPLITS)}")
        try:
            re.compile(self.person)
        except re.error as error:
            raise ConfigError(f"person {self.person!r} is not a regular expression: {error}") from error

    def person_of(self, name: str) -> str:
        """Who the file of this name shows. Raises ConfigError where the expression finds nobody."""
        if not self.person:
            return name
        found = re.search(self.person, name)
        if found is None:
            raise ConfigError(f"{name}: person {self.person!r} finds nothing in it")
        return found.group(min(1, len(found.groups())))

    def split_of(self, person: str) -> Split:
        """Where the person goes."""
        if self.split is not None:
            return self.split
        share = int.from_bytes(hashlib.sha256(person.encode()).digest()[:4], "big") / 2**32
        return "test" if share < self.test_share else "train"


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `frames` at 25 a second, "used" or by reason of footage.REASONS."""

    file: str
    person: str
    split: Split
    clips: int = 0
    frames: dict[str, int] = field(default_factory=dict)
    error: str = ""
    """Why it gave nothing as a whole."""


@dataclass(frozen=True)
class Report:
    """What became of all files of all runs."""

    config: FootageConfig
    outcomes: tuple[Outcome, ...]

    def summary(self) -> list[str]:
        """Some lines to read."""
        lines = []
        for split in SPLITS:
            good = [o for o in self.outcomes if o.split == split and o.clips]
            people = len({o.person for o in good})
            lines.append(f"{split}: {sum(o.clips for o in good)} clips of {self.config.frames} frames, {people} people")
        frames: Counter[str] = Counter()
        for outcome in self.outcomes:
            frames.update(outcome.frames)
        lines.append(f"used {frames['used'] / FPS:.1f} s of {frames.total() / FPS:.1f} s that were read")
        dropped = [f"{words} {frames[key] / FPS:.1f} s" for key, words in REASONS.items() if frames[key]]
        if dropped:
            lines.append("left out: " + ", ".join(dropped))
        bad = [o for o in self.outcomes if o.error]
        if bad:
            lines.append(f"{len(bad)} files cannot be used, {bad[0].error}")
        return lines


def prepare_videos(
    folder: Path, output: Path, config: FootageConfig, division: Division | None = None, workers: int = 2
) -> Report:
    """Cut the videos below `folder`, nested as they may be, into shards in `output`; go on where a run was stopped.

    Raises:
        InputError: there is no folder or no video in it.
        ConfigError: a number is out of range, or the shards that are there were made with other numbers, or a person
            would come into training and test.
        OutputError: the disk is full or not writable; complete shards stay.
    """
    division = division or Division()
    if workers < 1:
        raise ConfigError(f"{workers} workers; at least one is needed")
    names = _videos(folder)
    done = _read_outcomes(output, config)
    waiting = [Outcome(name, division.person_of(name), "train") for name in names]
    waiting = [Outcome(o.file, o.person, division.split_of(o.person)) for o in waiting if o.file not in done]
    _check_people([*done.values(), *waiting])
    logger.info("%d videos, %d of them still to prepare", len(names), len(waiting))
    jobs = list(_jobs(folder, output, config, waiting, workers))
    run_jobs(_prepare_some, jobs, workers, lambda path: logger.info("%s complete", path))
    report = Report(config, tuple(_read_outcomes(output, config).values()))
    _write_json(output / REPORT, {"config": asdict(config), "files": [asdict(outcome) for outcome in report.outcomes]})
    return report


def _videos(folder: Path) -> list[str]:
    """Paths of the videos below a folder, relative to it, "/" between the parts."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder with the videos")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise InputError(f"{folder} holds no video ({', '.join(sorted(SUFFIXES))})")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _check_people(outcomes: Sequence[Outcome]) -> None:
    splits: dict[str, Split] = {}
    for outcome in outcomes:
        if splits.setdefault(outcome.person, outcome.split) != outcome.split:
            raise ConfigError(
                f"{outcome.person} would come into training and test; prepare into another folder, or with the same "
                "division as before"
            )


def _jobs(
    folder: Path, output: Path, config: FootageConfig, waiting: Sequence[Outcome], workers: int
) -> Iterator[tuple[Path, Path, FootageConfig, list[Outcome]]]:
    """The files still to be done in portions, each with the unused name of a shard."""
    output.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        number = 0
        files = [outcome for outcome in waiting if outcome.split == split]
        portion = min(FILES_PER_SHARD, max(1, len(files) // (2 * workers)))
        for start in range(0, len(files), portion):
            while (shard := output / f"{split}-video-{number:05d}.tar").with_suffix(".json").exists():
                number += 1
            number += 1
            yield folder, shard, config, files[start : start + portion]


def _prepare_some(folder: Path, shard: Path, config: FootageConfig, files: Sequence[Outcome]) -> Path:
    """One worker's job. The JSON comes last: without it the files count as not done and the shard is made again."""
    outcomes: list[Outcome] = []
    shard.unlink(missing_ok=True)
    write_shard(shard, _clips(folder, config, files, outcomes))
    _write_json(
        shard.with_suffix(".json"), {"config": asdict(config), "files": [asdict(outcome) for outcome in outcomes]}
    )
    return shard


def _clips(
    folder: Path, config: FootageConfig, files: Sequence[Outcome], outcomes: list[Outcome]
) -> Iterator[PersonRecord]:
    """The clips of some files; what became of each goes to `outcomes`."""
    finder = FaceFinder()
    for file in files:
        account, error = Account(), ""
        try:
            yield from cut_clips(folder / file.file, file.file, file.person, config, account, finder)
        except InputError as failure:
            error = str(failure)
        frames = {key: count for key, count in account.frames.items() if count}
        outcomes.append(Outcome(file.file, file.person, file.split, account.clips, frames, error))


def _read_outcomes(output: Path, config: FootageConfig) -> dict[str, Outcome]:
    """What earlier runs did, by file. A shard without its JSON was not completed and is no part of it."""
    outcomes: dict[str, Outcome] = {}
    for split in SPLITS:
        for path in sorted(output.glob(f"{split}-video-*.json")):
            try:
                content = json.loads(path.read_bytes())
                before = FootageConfig(**content["config"])
                outcomes |= {entry["file"]: Outcome(**entry) for entry in content["files"]}
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path} is damaged; delete it and its .tar, and repeat the command") from error
            if before != config:
                other = [f"{key} {value}" for key, value in asdict(before).items() if value != getattr(config, key)]
                raise ConfigError(f"the shards in {output} were made with {', '.join(other)}; use another folder")
            if any(entry["clips"] for entry in content["files"]) and not path.with_suffix(".tar").exists():
                raise InputError(f"{path.with_suffix('.tar')} is missing; delete {path.name}, and repeat the command")
    return outcomes


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
