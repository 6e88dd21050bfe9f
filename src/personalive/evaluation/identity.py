"""What a recogniser's cosine means: beside it, what the same person and what strangers give on the evaluated videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from personalive.evaluation.cases import Case
from personalive.evaluation.measures import OWN_NEAREST, SAME_PERSON, STRANGERS
from personalive.evaluation.yardstick import Array

MOST_KEPT = 64
"""Embeddings of a video that are kept with a case's figures, evenly spaced."""

Known: TypeAlias = Callable[[Path], str]
"""A file -> what tells it from files of other content."""


@dataclass(frozen=True)
class CaseEmbeddings:
    """Unit vectors of a case's faces: portrait (D,), output (K, D), driver (L, D); NaN where there is no face.

    measure: the name under which their cosine is reported.
    """

    measure: str
    portrait: Array
    output: Array
    driver: Array


def spread(embeddings: Array) -> Array:
    """Return at most MOST_KEPT rows of (F, D), evenly spaced."""
    if len(embeddings) <= MOST_KEPT:
        return embeddings
    return np.asarray(embeddings[np.linspace(0, len(embeddings) - 1, MOST_KEPT).round().astype(int)])


def scale_figures(
    cases: Sequence[Case], faces: Sequence[CaseEmbeddings | None], known: Known
) -> list[dict[str, float]]:
    """Return, for each case with embeddings, what its cosine is held against; NaN where that cannot be measured.

    "same person": mean cosine of two different frames of its driver. "strangers": mean cosine of its portrait to every
    other person of all cases, portraits and drivers. "own portrait nearest": share of output frames to which, of the
    portraits of all people, the own one is nearest. Who is who: see `people`.
    """
    portraits: dict[str, Array] = {}
    drivers: dict[str, Array] = {}
    for case, face in zip(cases, faces, strict=True):
        if face is not None:
            portraits[known(case.reference)] = face.portrait
            drivers[known(case.driving)] = face.driver
    person = people(cases, known)
    everybody = [*portraits.items(), *((file, _typical(frames)) for file, frames in drivers.items())]
    found: list[dict[str, float]] = []
    for case, face in zip(cases, faces, strict=True):
        if face is None:
            found.append({})
            continue
        own = person[known(case.reference)]
        others = [vector for file, vector in everybody if person[file] != own]
        rivals = [vector for file, vector in portraits.items() if person[file] != own]
        found.append(
            {
                f"{face.measure}{SAME_PERSON}": pair_cosine(face.driver),
                f"{face.measure}{STRANGERS}": _mean([_cosine(vector, face.portrait) for vector in others]),
                OWN_NEAREST: _own_nearest(face, rivals),
            }
        )
    return found


def people(cases: Sequence[Case], known: Known) -> dict[str, int]:
    """Return a number of the person for each portrait and driver, by `known` of the file.

    Equal files are one person; so are a portrait and the driver that is its own video, and files of rendered people
    that name one shard. All others are taken to be different people.
    """
    number: dict[str, int] = {}

    def join(*names: str) -> None:
        numbers = {number.setdefault(name, len(number) + 1) for name in names}
        lowest = min(numbers)
        number.update({name: lowest for name, own in number.items() if own in numbers})

    for case in cases:
        portrait, driver = known(case.reference), known(case.driving)
        join(portrait)
        join(driver)
        if not case.cross:
            join(portrait, driver)
        for file, shard in ((portrait, case.portrait_person), (driver, case.driver_person)):
            if shard is not None:
                join(file, f"shard {known(shard)}")
    return number


def pair_cosine(vectors: Array) -> float:
    """Return the mean cosine of two different rows of unit vectors (F, D); rows with NaN do not count; NaN: too few."""
    some = vectors[~np.isnan(vectors).any(1)]
    count = len(some)
    if count < 2:
        return math.nan
    return float((np.square(some.sum(0)).sum() - count) / (count * (count - 1)))


def joined(parts: Sequence[Array]) -> Array:
    """Return embeddings (F, D) of parts of one video, of which those without any face are (f, 1)."""
    width = max((part.shape[1] for part in parts), default=1)
    wide = [part if part.shape[1] == width else np.full((len(part), width), np.nan) for part in parts]
    return np.concatenate(wide) if wide else np.empty((0, width))


def cosines(vectors: Array, own: Array) -> Array:
    """Return the cosine of each unit vector (F, D) to one (E,); NaN where there is no face in either."""
    if vectors.shape[1] != len(own):  # no face in one of them
        return np.full(len(vectors), np.nan)
    return np.asarray(vectors @ own)


def _cosine(one: Array, other: Array) -> float:
    return float(cosines(one[None], other)[0])


def _typical(frames: Array) -> Array:
    """The middle one of the frames with a face (D,); NaN for none."""
    some = frames[~np.isnan(frames).any(1)]
    return np.asarray(some[len(some) // 2]) if len(some) else np.full(1, np.nan)


def _own_nearest(face: CaseEmbeddings, rivals: Sequence[Array]) -> float:
    own = cosines(face.output, face.portrait)
    others = [cosines(face.output, rival) for rival in rivals]
    others = [other for other in others if not np.isnan(other).all()]
    known = ~np.isnan(own)
    if not others or not known.any():
        return math.nan
    return float((own[known] > np.stack(others)[:, known].max(0)).mean())


def _mean(values: Sequence[float]) -> float:
    some = [value for value in values if not math.isnan(value)]
    return sum(some) / len(some) if some else math.nan
