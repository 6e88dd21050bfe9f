"""Expression alone: the head is held, the face moves; does the output's face move as the driver's does?

Measured on the output by a tracker that shares nothing with the generator (`yardstick`), against the renderer's exact
landmarks of the driver. What the tracker reads in the true video itself is the most that any output can be seen to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.data.shards import PersonRecord
from personalive.errors import InputError
from personalive.evaluation.animator import Animator, Reader
from personalive.evaluation.statistics import correlation
from personalive.media.frames import Pixels

MOVES = {"mouth": 0.015, "blink": 0.006, "smile": 0.008, "brow": 0.003}
"""Least standard deviation of a true signal over a clip: below it the face hardly does this (a clip without a blink),
and a correlation would be one with noise. In the unit of `truth_signals`; a blink alone gives some 0.01."""


@dataclass(frozen=True)
class ExpressionFigures:
    """Correlations over time with the driver's truth by signal (data.landmarks.EXPRESSION), -1..1, higher is better.

    output: of what the tracker reads in the output; seen: of what it reads in the true video. NaN: not measured
    (no face was found, or the driver hardly moves it in this clip: MOVES).
    """

    name: str
    frames: int
    output: dict[str, float]
    seen: dict[str, float]


def expression_alone(animate: Animator, person: PersonRecord, reader: Reader) -> ExpressionFigures:
    """A person's clip (`personalive data render --split expression`) drives its own first frame.

    The first frame, which is the portrait, does not count. Raises InputError for a person without ground truth.
    """
    if person.truth is None:
        raise InputError(f"{person.name} has no ground truth; use rendered people (personalive data render)")
    truth = truth_signals(person.truth.landmarks)[1:]
    output = np.stack(list(animate(person.images[0], person.images)))[1:]
    return ExpressionFigures(
        person.name, len(truth), _correlations(output, truth, reader), _correlations(person.images[1:], truth, reader)
    )


def _correlations(
    video: Pixels, truth: np.ndarray[tuple[int, ...], np.dtype[np.float64]], reader: Reader
) -> dict[str, float]:
    read = reader.read(video, held=True)
    if read is None:
        return dict.fromkeys(EXPRESSION, float("nan"))
    return {
        name: correlation(read.signal(name), truth[:, column])
        if truth[:, column].std() >= MOVES[name]
        else float("nan")
        for column, name in enumerate(EXPRESSION)
    }
