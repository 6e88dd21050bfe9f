"""What is scored: a generated video with its driver, its portrait and perhaps the truth; found in folders by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from personalive.errors import InputError
from personalive.weights.record import sha256_of


@dataclass(frozen=True)
class Case:
    """What belongs together. cross: the driver is another person than the portrait's.

    truth: what the output should have been, frame by frame. None: the driver, where it is the portrait's own video; and
    nothing where it is another person's, so that pixels cannot be compared. driver_person, portrait_person: shards
    (data/shards.py) of one rendered person whose clip is the driver, and whose first frame is the portrait.
    """

    name: str
    generated: Path
    driving: Path
    reference: Path
    cross: bool = False
    truth: Path | None = None
    driver_person: Path | None = None
    portrait_person: Path | None = None

    @property
    def inputs(self) -> dict[str, Path]:
        """All that is there before anything is generated, by the field's name."""
        parts = ("driving", "reference", "truth", "driver_person", "portrait_person")
        return {part: path for part in parts if (path := getattr(self, part)) is not None}


def find_cases(generated: Path, driving: Path, reference: Path, cross: bool = False) -> tuple[list[Case], list[str]]:
    """The cases of three folders (generated/anna.mp4, driving/anna.mp4, reference/anna.png), and a line for each
    generated video that lacks a part.

    `driving` or `reference` may be one file for all. Raises InputError for a missing or an empty folder.
    """
    videos = files_by_name(generated)
    if not videos:
        raise InputError(f"{generated} holds no videos; name the folder of what a system generated")
    found, problems = [], []
    drivers, portraits = _partners(driving, videos), _partners(reference, videos)
    for name, video in videos.items():
        missing = [place for place, part in ((driving, drivers), (reference, portraits)) if name not in part]
        if missing:
            problems.append(f"{video.name}: nothing called {name} in {' and '.join(map(str, missing))}")
        else:
            found.append(Case(name, video, drivers[name], portraits[name], cross))
    return found, problems


def plan_cases(
    driving: Path, reference: Path | None, outputs: Path, cross: bool = False
) -> tuple[list[Case], list[str]]:
    """Cases to be animated, outputs/<name>.mp4: one for each file of the folder `driving`, or else of `reference`, with
    a line for each that lacks its partner.

    The other one may be one file for all. reference None: the driver's own first frame, so that it is named as the
    reference, too. Raises InputError for a missing or an empty folder.
    """
    drivers = {driving.stem: driving} if driving.is_file() else files_by_name(driving)
    portraits = drivers if reference is None else _partners(reference, drivers)
    if driving.is_file() and reference is not None and reference.is_dir():
        portraits = files_by_name(reference)
        drivers = _partners(driving, portraits)
    if not drivers or not portraits:
        raise InputError(f"{driving if not drivers else reference} holds no files; name another folder")
    names = [name for name in drivers if name in portraits]
    problems = [f"{name}: nothing called {name} in {reference}" for name in drivers if name not in portraits]
    return [Case(name, outputs / f"{name}.mp4", drivers[name], portraits[name], cross) for name in names], problems


def files_by_name(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names without extension, sorted; hidden ones are passed over.

    Raises InputError for a folder that does not exist, and for two files of one name.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist; check the path" if not folder.exists() else f"{folder} is no folder"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    names = [path.stem for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{folder} holds two files called {twice}; give each its own name")
    return dict(zip(names, files, strict=True))


def hashed(path: Path) -> str:
    """SHA-256 of an input. Raises InputError where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _partners(place: Path, names: Iterable[str]) -> dict[str, Path]:
    return files_by_name(place) if place.is_dir() or not place.exists() else dict.fromkeys(names, place)
