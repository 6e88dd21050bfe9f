"""Rendered people: the driver's motion and who is in the portrait are known exactly; the output is read by a tracker.

Of every error here one side is exact (the renderer's landmarks, angles and seeds), the other read. What the reading
alone costs is said beside it ("seen"): the same error of what the tracker reads in the driver's true video, and of
whom it sees in the true frames of the portrait's person. No output can be expected to be seen to do better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.data.shards import PersonRecord, read_shards
from personalive.errors import InputError
from personalive.evaluation.animator import Reader
from personalive.evaluation.cases import Case
from personalive.evaluation.expression import MOVES
from personalive.evaluation.statistics import correlation
from personalive.evaluation.yardstick import SIGNALS, Array
from personalive.media.frames import load_picture

TURNS = 0.5
"""Least standard deviation of a true angle over a clip, degrees: below it there is no motion to follow."""

COUNT = len(EXPRESSION)


@dataclass(frozen=True)
class Exact:
    """What is known of a case. signals (F, 7): the driver's, in the order of yardstick.SIGNALS; None: not known.

    gallery (N, E): the identities of all portraits of the evaluation, `own` that of this case's; None: not asked.
    """

    signals: Array | None
    gallery: Array | None
    own: int = 0


def load_exact(case: Case, gallery: Sequence[Path], faces: Array) -> Exact | None:
    """What a case's shards say; None where it names none.

    gallery: the portraits of all rendered people, and faces (N, E) `portrait_identities` of them. Raises InputError for
    a shard that is missing, damaged, or of somebody of whom no motion is known.
    """
    if case.driver_person is None and case.portrait_person is None:
        return None
    signals = None if case.driver_person is None else exact_signals(_person(case.driver_person))
    if case.portrait_person is None or len(gallery) < 2 or case.reference not in gallery:
        return Exact(signals, None)
    return Exact(signals, faces, gallery.index(case.reference))


def gallery_of(cases: Sequence[Case]) -> tuple[Path, ...]:
    """The portraits of the rendered people among cases, each once."""
    return tuple(dict.fromkeys(case.reference for case in cases if case.portrait_person is not None))


def portrait_identities(gallery: Sequence[Path], reader: Reader) -> Array:
    """(N, E) of portraits; NaN for one without a face."""
    found = [reader.read(load_picture(path)[None]) for path in gallery]
    size = next((len(reading.identity[0]) for reading in found if reading is not None), 1)
    return np.array([np.full(size, np.nan) if reading is None else reading.identity[0] for reading in found])


def exact_signals(person: PersonRecord) -> Array:
    """(F, 7) in the order of yardstick.SIGNALS, from the renderer. Raises InputError for a person of real video."""
    if person.truth is None:
        raise InputError(f"{person.name} has no ground truth; use rendered people (personalive data render)")
    return np.concatenate([truth_signals(person.truth.landmarks), person.truth.angles.astype(np.float64)], axis=1)


def _person(path: Path) -> PersonRecord:
    people = list(read_shards([path]))
    if len(people) != 1:
        raise InputError(f"{path} holds {len(people)} people; a case needs a shard of one")
    return people[0]


def exact_figures(
    exact: Exact, made: Array, drove: Array, identity: Array, driver_identity: Array | None
) -> dict[str, float]:
    """Figures by name of measures.py.

    made, drove (F, 7): what the tracker reads in output and driver, NaN where there is no face; identity,
    driver_identity (F, E) likewise; driver_identity None: the driver is somebody else, so that it says nothing about
    how well the portrait's person is recognised.
    """
    figures: dict[str, float] = {}
    if exact.signals is not None:
        true = exact.signals[: len(made)]
        if len(true) < len(made):
            raise InputError(f"the driver has {len(made)} frames, its person's shard {len(true)}; name the right shard")
        for name, read in (("", made), (", seen", drove)):
            known = ~np.isnan(read).any(1)
            figures[f"expression error{name}"] = course_error(read[known, :COUNT], true[known, :COUNT])
            figures[f"pose error{name}"] = _mean(np.abs(read[known, COUNT:] - true[known, COUNT:]))
            figures |= {f"{s} to truth{name}": _followed(read, true, s) for s in SIGNALS}
    if exact.gallery is not None:
        figures["mistaken identity"] = mistaken(identity, exact.gallery, exact.own)
        if driver_identity is not None:
            figures["mistaken identity, seen"] = mistaken(driver_identity, exact.gallery, exact.own)
    return figures


def _followed(read: Array, true: Array, signal: str) -> float:
    """Correlation over time of a signal as read and as it was, (F, 7) each; NaN: it hardly moves (MOVES, TURNS)."""
    known, column = ~np.isnan(read).any(1), SIGNALS.index(signal)
    wanted = true[known, column]
    if len(wanted) < 3 or wanted.std() < MOVES.get(signal, TURNS):
        return float("nan")
    return correlation(read[known, column], wanted)


def course_error(made: Array, wanted: Array, least: Sequence[float] | None = None) -> float:
    """Mean |m - w| over frames and signals of two courses (F, S), each less its mean, in deviations of the wanted one.

    0 at best; about 0.8 for a face that does not move at all, since a signal is then missed by its own mean deviation.
    least: deviations below which a signal does not count, by default MOVES of the four of EXPRESSION. NaN: none does.
    """
    if len(wanted) < 2:
        return float("nan")
    floor = np.array([MOVES[name] for name in EXPRESSION] if least is None else least)
    spread = wanted.std(0)
    moving = spread >= floor
    gaps = np.abs((made - made.mean(0)) - (wanted - wanted.mean(0)))[:, moving] / spread[moving]
    return _mean(gaps)


def mistaken(identity: Array, gallery: Array, own: int) -> float:
    """Share of frames (F, E) whose nearest of the gallery (N, E) is not `own`: 0 at best, 1 - 1/N by chance."""
    known = ~np.isnan(identity).any(1)
    if not known.any() or np.isnan(gallery[own]).any():
        return float("nan")
    nearness = np.nan_to_num(identity[known] @ gallery.T, nan=-2.0)  # cosines of unit vectors
    return float((nearness.argmax(1) != own).mean())


def _mean(values: NDArray[np.floating]) -> float:
    return float(values.mean()) if values.size else float("nan")
