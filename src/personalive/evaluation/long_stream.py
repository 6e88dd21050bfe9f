"""A stream without end: after minutes, is it still the same person, as sharp and as calm as at the start?

The driver goes to and fro, so that it has no jump and repeats exactly. The length of a turn is chosen so that the first
window measured and the last one see the same driving frames: what differs between them is drift, not motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from personalive.errors import InputError
from personalive.evaluation import metrics
from personalive.evaluation.animator import Animator, Reader
from personalive.evaluation.temporal import TemporalFigures, TemporalMeter, at_one_size, ping_pong
from personalive.evaluation.yardstick import Array, identity_distance
from personalive.media.frames import Pixels, to_unit

BLOCK = 100
"""Frames that are measured together; the second block is "early", the last one "late"."""


@dataclass(frozen=True)
class LongStreamFigures:
    """One stream. By block of BLOCK frames: identity distance to the portrait (0..2) and sharpness, in order.

    identity_drift: late over early distance - 1; sharpness_loss: 1 - late over early; both 0 at best, negative when
    the stream gets better. temporal: of the whole stream against its driver, frame by frame. NaN: no face found.
    """

    name: str
    frames: int
    turn: int
    identity: tuple[float, ...]
    sharpness: tuple[float, ...]
    identity_drift: float
    sharpness_loss: float
    temporal: TemporalFigures


def turn_length(available: int, frames: int) -> int:
    """The most driving frames n of which one turn (2 n frames) fits whole times between early and late block."""
    between = frames - 2 * BLOCK
    fitting = [n for n in range(2, available + 1) if between % (2 * n) == 0]
    if frames < 3 * BLOCK or frames % BLOCK or not fitting:
        raise InputError(
            f"{frames} frames with a driver of {available}: give a multiple of {BLOCK}, {3 * BLOCK} or more, and a "
            "longer driver"
        )
    return fitting[-1]


def long_stream(
    animate: Animator, name: str, portrait: Pixels, driving: Pixels, reader: Reader, frames: int = 2000
) -> LongStreamFigures:
    """A portrait (H, H, 3) driven by a clip (F, H, H, 3), to and fro, for so many frames; memory: one block.

    Raises InputError when the length cannot be divided into blocks or turns.
    """
    turn = turn_length(len(driving), frames)
    order = ping_pong(turn, frames)
    own = reader.read(portrait[None])
    meter, identity, sharp = TemporalMeter(), [], []
    block: list[Pixels] = []
    for place, output in zip(order, _played(animate, portrait, driving, order), strict=True):
        meter.add(*at_one_size(output, driving[place]))
        block.append(output)
        if len(block) == BLOCK:
            whole, block = np.stack(block), []
            identity.append(_distance(whole, None if own is None else own.identity, reader))
            with torch.inference_mode():
                sharp.append(float(metrics.sharpness(to_unit(whole)).mean()))
    away, loss = _growth(identity[1], identity[-1]), -_growth(sharp[1], sharp[-1])
    return LongStreamFigures(name, frames, 2 * turn, tuple(identity), tuple(sharp), away, loss, meter.figures())


def drift(values: Array) -> float:
    """How much larger the mean of a measure (F,) is in the last BLOCK frames than in the second BLOCK, as a share.

    NaN values do not count; NaN below 3 * BLOCK frames.
    """
    if len(values) < 3 * BLOCK:
        return float("nan")
    blocks = [part[~np.isnan(part)] for part in (values[BLOCK : 2 * BLOCK], values[-BLOCK:])]
    if not all(map(len, blocks)):
        return float("nan")
    return _growth(*(float(part.mean()) for part in blocks))


def _growth(early: float, late: float) -> float:
    """Late over early - 1; 0 where both are nothing."""
    return late / early - 1 if early > 1e-12 else (float("inf") if late > 1e-12 else late - early)


def _played(
    animate: Animator, portrait: Pixels, driving: Pixels, order: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> Iterator[Pixels]:
    return animate(portrait, (driving[place] for place in order))


def _distance(frames: Pixels, own: Array | None, reader: Reader) -> float:
    read = None if own is None else reader.read(frames)
    return float("nan") if read is None or own is None else float(identity_distance(read.identity, own).mean())
