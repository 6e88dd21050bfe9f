"""Scores of videos that any system made: a folder of them beside the drivers and the portraits they were made from.

Files belong together by their names without extension: generated/anna.mp4, driving/anna.mp4, reference/anna.png. Videos
are read frame by frame in step; memory is bounded by a block of frames, not by their length.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from personalive.errors import InputError
from personalive.evaluation import metrics
from personalive.evaluation.animator import Reader
from personalive.evaluation.statistics import correlation
from personalive.evaluation.temporal import TemporalMeter
from personalive.evaluation.yardstick import IDENTITY_SIZE, SIGNALS, Array, identity_distance
from personalive.media.frames import Pixels, load_picture, resize_to, to_unit
from personalive.media.video import read_video

BLOCK = 25  # frames that are held and measured together
STRIP = 6  # moments shown of each video
STRIP_SIDE = 128
MOST_PSNR = 100.0  # of a frame, dB: equal frames would make every mean infinite

SELF = {"L1": False, "PSNR": True, "SSIM": True, "MS-SSIM": True}
"""Measures that need the truth, and whether more is better."""

ALWAYS = {
    "temporal error": False, "change ratio": None, "flicker ratio": None, "identity distance": False,
    **{f"follows {name}": True for name in SIGNALS},
}  # fmt: skip
"""Measures of every video; None: 1 is best."""

CROSS = {"nearer to the portrait": True}
"""Measures that need another person as the driver."""

NOT_MEASURED = {
    "LPIPS, tLP": "would need LPIPS weights; the temporal error here is of the same form with the pyramid distance",
    "ID-SIM": "would need an ArcFace network; the identity distance here is the yardstick's",
    "AED, APD": "would need SMIRK; the correlations here are the yardstick's",
    "FVD": "would need I3D weights and many videos",
}
"""Published measures that this program has not yet. No stand-in is given under their names."""


@dataclass(frozen=True)
class Triple:
    """What belongs together: a generated video, its driver and its portrait."""

    name: str
    generated: Path
    driving: Path
    reference: Path


@dataclass(frozen=True)
class VideoFigures:
    """One video: means of the measures (NaN: not measured), L1 or change and identity distance by frame."""

    name: str
    frames: int
    figures: dict[str, float]
    over_time: dict[str, tuple[float, ...]]


def find_triples(generated: Path, driving: Path, reference: Path) -> tuple[list[Triple], list[str]]:
    """What belongs together in three folders, by name, and a line for each generated video that lacks a part.

    `driving` or `reference` may be one file for all. Raises InputError for a missing or an empty folder.
    """
    videos = _by_name(generated)
    if not videos:
        raise InputError(f"{generated} holds no videos; name the folder of what a system generated")
    found, problems = [], []
    drivers, portraits = _partners(driving, videos), _partners(reference, videos)
    for name, video in videos.items():
        missing = [place for place, part in ((driving, drivers), (reference, portraits)) if name not in part]
        if missing:
            problems.append(f"{video.name}: nothing called {name} in {' and '.join(map(str, missing))}")
        else:
            found.append(Triple(name, video, drivers[name], portraits[name]))
    return found, problems


def _partners(place: Path, names: Iterable[str]) -> dict[str, Path]:
    return _by_name(place) if place.is_dir() or not place.exists() else dict.fromkeys(names, place)


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.exists():
        raise InputError(f"{folder} does not exist; check the path")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    names = [path.stem for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{folder} holds two files called {twice}; give each its own name")
    return dict(zip(names, files, strict=True))


def score(triple: Triple, reader: Reader, cross: bool = False, max_frames: int | None = None) -> VideoFigures:
    """All measures of one video; cross: the driver is another person, so there is no truth to compare pixels with.

    Raises InputError for a file that cannot be read, another number of frames, or another shape than the driver's.
    """
    own = reader.read(load_picture(triple.reference)[None])
    meter = TemporalMeter()
    pixels: dict[str, list[float]] = defaultdict(list)
    made, drove = _Seen(reader), _Seen(reader)
    frames = 0
    for block in _blocks(_in_step(triple, max_frames)):
        generated, driving = (np.stack(side) for side in zip(*block, strict=True))
        frames += len(block)
        for pair in block:
            meter.add(*pair)
        if not cross:
            _compare(generated, driving, pixels)
        made.add(generated)
        drove.add(driving)
    figures = {name: float(np.mean(values)) for name, values in pixels.items()}
    figures |= {name.replace("_", " "): value for name, value in asdict(meter.figures()).items()}
    figures["temporal error"] = figures.pop("error")
    gaps = made.distances(None if own is None else own.identity[0])
    figures["identity distance"] = _mean(gaps)
    if cross:
        foreign = made.distances(drove.first_identity())
        known = ~np.isnan(gaps) & ~np.isnan(foreign)
        figures["nearer to the portrait"] = _mean(np.where(known, gaps < foreign, np.nan))
    figures |= {f"follows {name}": made.follows(drove, name) for name in SIGNALS}
    times = {"identity distance": tuple(gaps.tolist())} | ({} if cross else {"L1": tuple(pixels["L1"])})
    return VideoFigures(triple.name, frames, figures, times)


def strip(triple: Triple, frames: int) -> Pixels:
    """A picture of STRIP moments: the drivers above, the results below, the portrait before them."""
    moments = set(np.linspace(0, frames - 1, STRIP).astype(int).tolist())
    columns = [np.vstack([_small(load_picture(triple.reference))] * 2)]
    for number, (generated, driving) in enumerate(_in_step(triple, frames)):
        if number in moments:
            columns.append(np.vstack([_small(driving), _small(generated)]))
    return np.hstack(columns)


class _Seen:
    """What the tracker sees in a video that comes in blocks; NaN where there is no face in a whole block."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._signals: list[Array] = []
        self._identity: list[Array] = []

    def add(self, frames: Pixels) -> None:
        """The next frames."""
        read = self._reader.read(frames)
        nothing = np.full((len(frames), len(SIGNALS)), np.nan), np.full((len(frames), IDENTITY_SIZE), np.nan)
        signals, identity = nothing if read is None else (read.signals, read.identity)
        self._signals.append(signals)
        self._identity.append(identity)

    def first_identity(self) -> Array:
        """Who is in the first frame; NaN for nobody."""
        return np.asarray(self._identity[0][0])

    def distances(self, identity: Array | None) -> Array:
        """Of every frame to somebody, (F,)."""
        own = np.concatenate(self._identity)
        return np.full(len(own), np.nan) if identity is None else identity_distance(own, identity)

    def follows(self, driver: _Seen, name: str) -> float:
        """Correlation of a signal with the driver's, over the frames in which both show a face."""
        column = SIGNALS.index(name)
        mine, theirs = (np.concatenate(seen._signals)[:, column] for seen in (self, driver))
        known = ~np.isnan(mine) & ~np.isnan(theirs)
        return correlation(mine[known], theirs[known])


@torch.inference_mode()
def _compare(generated: Pixels, driving: Pixels, into: dict[str, list[float]]) -> None:
    output, truth = to_unit(generated), to_unit(driving)
    into["L1"] += metrics.l1(output, truth).tolist()
    into["PSNR"] += metrics.psnr(output, truth).clamp(max=MOST_PSNR).tolist()
    into["SSIM"] += metrics.ssim(output, truth).tolist()
    into["MS-SSIM"] += metrics.ms_ssim(output, truth).tolist()


def _in_step(triple: Triple, max_frames: int | None) -> Iterator[tuple[Pixels, Pixels]]:
    """Generated and driving frames of one size, two by two."""
    with read_video(triple.generated, max_frames) as made, read_video(triple.driving, max_frames) as drove:
        width, height = made.info.width, made.info.height
        if abs(width * drove.info.height - height * drove.info.width) > 0.02 * width * drove.info.height:
            raise InputError(
                f"{triple.generated} is {width}x{height} pixels, {triple.driving} {drove.info.width}x"
                f"{drove.info.height}: shapes differ; crop the driver as the system saw it"
            )
        for count, (frame, driver) in enumerate(itertools.zip_longest(made, drove)):
            if frame is None or driver is None:
                short, long = triple.generated, triple.driving
                if driver is None:
                    short, long = long, short
                raise InputError(f"{short} ends after {count} frames, {long} does not; cut both to one length")
            yield frame.pixels, resize_to(driver.pixels, height, width)


def _blocks(pairs: Iterator[tuple[Pixels, Pixels]]) -> Iterator[list[tuple[Pixels, Pixels]]]:
    while block := list(itertools.islice(pairs, BLOCK)):
        yield block


def _small(pixels: Pixels) -> Pixels:
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return resize_to(pixels[top : top + side, left : left + side], STRIP_SIDE, STRIP_SIDE)


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
