"""Another person drives: is the output still nearer to the portrait's identity than to the driver's?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personalive.evaluation.animator import Animator, Reader
from personalive.evaluation.yardstick import Array, identity_distance
from personalive.media.frames import Pixels


@dataclass(frozen=True)
class CrossingFigures:
    """One portrait driven by one other person; distances are 1 - cosine, 0 (same)..2.

    nearer: share of output frames nearer to the portrait than to the driver's first frame, 0..1, higher is better.
    seen: the same share for true frames of the portrait's person, where there are any: what the embedding can tell.
    NaN: not measured (no face found).
    """

    portrait: str
    driver: str
    nearer: float
    seen: float
    to_portrait: float
    to_driver: float


def cross(
    animate: Animator,
    portrait: tuple[str, Pixels],
    driver: tuple[str, Pixels],
    reader: Reader,
    true: Pixels | None = None,
) -> CrossingFigures:
    """portrait: name, picture (H, H, 3); driver: name, frames (F, H, H, 3); true: more of the portrait's person."""
    output = np.stack(list(animate(portrait[1], driver[1])))
    own, foreign = (_identity(picture[None], reader) for picture in (portrait[1], driver[1][0]))
    made, known = _identity(output, reader), None if true is None else _identity(true, reader)
    nearer, to_portrait, to_driver = _sides(made, own, foreign)
    return CrossingFigures(portrait[0], driver[0], nearer, _sides(known, own, foreign)[0], to_portrait, to_driver)


def _identity(frames: Pixels, reader: Reader) -> Array | None:
    read = reader.read(frames)
    return None if read is None else read.identity


def _sides(frames: Array | None, own: Array | None, foreign: Array | None) -> tuple[float, float, float]:
    """Share of frames nearer to `own`, and both mean distances."""
    if frames is None or own is None or foreign is None:
        return float("nan"), float("nan"), float("nan")
    to_own, to_foreign = identity_distance(frames, own), identity_distance(frames, foreign)
    return float((to_own < to_foreign).mean()), float(to_own.mean()), float(to_foreign.mean())
