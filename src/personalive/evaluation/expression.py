"""Expression alone: the head is held, the face moves; does the output's face move as the driver's does?

Measured on the output by a tracker that shares nothing with the generator (`yardstick`), against the renderer's exact
landmarks of the driver. What the tracker reads in the true video itself is the most that any output can be seen to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.data.shards import PersonRecord
from personalive.errors import InputError
from personalive.evaluation.animator import Animator, Reader
from personalive.evaluation.mesh import MESH_SIGNALS, MeshTracker, Tracked
from personalive.evaluation.statistics import correlation
from personalive.evaluation.yardstick import Array
from personalive.media.frames import Pixels

MOVES = {"mouth": 0.015, "blink": 0.006, "smile": 0.008, "brow": 0.003}
"""Least standard deviation of a true signal over a clip: below it the face hardly does this (a clip without a blink),
and a correlation would be one with noise. In the unit of `truth_signals`; a blink alone gives some 0.01."""


@dataclass(frozen=True)
class ExpressionFigures:
    """Correlations over time with the driver's truth by signal (data.landmarks.EXPRESSION), -1..1, higher is better.

    output: of what the tracker reads in the output; seen: of what it reads in the true video. NaN: not measured
    (no face was found, or the driver hardly moves it in this clip: MOVES). output_mesh, seen_mesh: the same by a face
    mesh; empty without one.
    """

    name: str
    frames: int
    output: dict[str, float]
    seen: dict[str, float]
    output_mesh: dict[str, float] = field(default_factory=dict)
    seen_mesh: dict[str, float] = field(default_factory=dict)


def expression_alone(
    animate: Animator, person: PersonRecord, reader: Reader, mesh: MeshTracker | None = None
) -> ExpressionFigures:
    """A person's clip (`personalive data render --split expression`) drives its own first frame.

    The first frame, which is the portrait, does not count. Raises InputError for a person without ground truth.
    """
    if person.truth is None:
        raise InputError(f"{person.name} has no ground truth; use rendered people (personalive data render)")
    truth = truth_signals(person.truth.landmarks)[1:]
    output = np.stack(list(animate(person.images[0], person.images)))[1:]
    figures = [_by_reader(video, truth, reader) for video in (output, person.images[1:])]
    if mesh is not None:
        figures += [_by_mesh(video, truth, mesh) for video in (output, person.images[1:])]
    return ExpressionFigures(person.name, len(truth), *figures)


def _by_reader(video: Pixels, truth: Array, reader: Reader) -> dict[str, float]:
    read = reader.read(video, held=True)
    if read is None:
        return dict.fromkeys(EXPRESSION, math.nan)
    return _correlations(np.stack([read.signal(name) for name in EXPRESSION], axis=1), truth)


def _by_mesh(video: Pixels, truth: Array, mesh: MeshTracker) -> dict[str, float]:
    tracked = Tracked.of(np.stack([mesh.points(frame) for frame in video]))
    columns = [MESH_SIGNALS.index(name) for name in EXPRESSION]
    return _correlations(tracked.signals[tracked.found][:, columns], truth[tracked.found])


def _correlations(read: Array, truth: Array) -> dict[str, float]:
    """Of signals (F, 4) in the order of EXPRESSION; NaN for what hardly moves, or too few frames."""
    return {
        name: correlation(read[:, column], truth[:, column])
        if len(truth) >= 3 and truth[:, column].std() >= MOVES[name]
        else math.nan
        for column, name in enumerate(EXPRESSION)
    }
