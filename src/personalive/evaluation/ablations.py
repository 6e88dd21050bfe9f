"""The paper's ablations (its Table 2): what is switched off, what the paper found, and the figures of one variant.

Measured as the paper does, on crossings: everybody is driven by the next. The yardstick stands in for the paper's
networks (ArcFace, SMIRK), so figures compare with each other, not with the paper's numbers; for FVD nothing stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from personalive.data.landmarks import EXPRESSION
from personalive.data.shards import PersonRecord
from personalive.evaluation.animator import Animator, Reader
from personalive.evaluation.exact import course_error
from personalive.evaluation.measures import RENDERED
from personalive.evaluation.temporal import at_one_size, compare, ping_pong
from personalive.evaluation.yardstick import SIGNALS, identity_distance


@dataclass(frozen=True)
class Ablation:
    """One variant of the stream stage. `recipe` and `config`: dotted overrides; `paper`: its row, by MEASURES."""

    name: str
    paper: dict[str, float]
    recipe: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


MEASURES: dict[str, tuple[str, bool]] = {
    "identity": ("ID-SIM", True),
    "expression": ("AED", False),
    "pose": ("APD", False),
    "temporal": ("tLP", False),
}
"""Our measure -> the paper's that it stands beside, and whether more is better."""

TITLES = {name: f"{name}{RENDERED}" if name == "identity" else name for name in MEASURES}
"""Our measure -> how tables call it: the yardstick tells rendered people apart, and nobody else."""


def _paper(identity: float, expression: float, pose: float, temporal: float) -> dict[str, float]:
    return {"identity": identity, "expression": expression, "pose": pose, "temporal": temporal}


ABLATIONS = (
    Ablation("full", _paper(0.698, 0.703, 0.030, 12.83)),
    Ablation("without sliding training", _paper(0.549, 0.785, 0.040, 10.05), recipe={"stream.sliding": False}),
    Ablation("without keyframes", _paper(0.728, 0.710, 0.031, 13.27), config={"stream.keyframes": 0}),
    Ablation(
        "without motion-interpolated start",
        _paper(0.680, 0.703, 0.031, 13.06),
        config={"stream.motion_interpolated_start": False},
    ),
    Ablation("chunk size 2", _paper(0.660, 0.713, 0.031, 12.14), config={"stream.chunk_frames": 2}),
    Ablation("chunk attention", _paper(0.689, 0.709, 0.032, 12.83), config={"stream.chunk_attention": True}),
)

PAPER_TAU = {
    "tau 15": _paper(0.6924, 0.7043, 0.0309, 12.69),
    "tau 16": _paper(0.6940, 0.7039, 0.0306, 12.78),
    "tau 17": _paper(0.6983, 0.7028, 0.0305, 12.83),
    "tau 18": _paper(0.7015, 0.7047, 0.0306, 12.93),
    "tau 19": _paper(0.7097, 0.7084, 0.0304, 13.05),
    "tau 20": _paper(0.7159, 0.7099, 0.0303, 13.18),
}
"""Its Table 3: the keyframe threshold, which needs no training."""


@dataclass(frozen=True)
class CrossedFigures:
    """One portrait driven by another person. NaN: no face found.

    identity: mean cosine to the portrait as the yardstick sees it, -1..1, more is better; of rendered people only.
    expression: mean absolute error of the four expression
    signals' course over time, each in its deviation in the driver, 0 at best. pose: mean absolute error of pitch, yaw
    and roll in degrees. temporal: mean difference of the frame-to-frame change from the driver's (`temporal.compare`).
    """

    portrait: str
    driver: str
    identity: float
    expression: float
    pose: float
    temporal: float


def crossed(
    animate: Animator, people: Sequence[PersonRecord], reader: Reader, frames: int = 126
) -> list[CrossedFigures]:
    """Every person's first frame driven by the next one's clip, to and fro, for so many frames."""
    return [
        _crossed(animate, portrait, driver, reader, frames)
        for portrait, driver in zip(people, [*people[1:], *people[:1]], strict=True)
    ]


def _crossed(
    animate: Animator, portrait: PersonRecord, driver: PersonRecord, reader: Reader, frames: int
) -> CrossedFigures:
    driving = driver.images[ping_pong(len(driver.images), frames)]
    output = np.stack(list(animate(portrait.images[0], driving)))
    pairs = [at_one_size(made, true) for made, true in zip(output, driving, strict=True)]
    temporal = compare(np.stack([made for made, _ in pairs]), np.stack([true for _, true in pairs])).error
    made, true, own = (reader.read(video) for video in (output, driving, portrait.images[:1]))
    if made is None or true is None or own is None:
        return CrossedFigures(portrait.name, driver.name, float("nan"), float("nan"), float("nan"), temporal)
    count = len(EXPRESSION)
    expression = course_error(made.signals[:, :count], true.signals[:, :count], least=[1e-6] * count)
    angles = np.abs(made.signals[:, count : len(SIGNALS)] - true.signals[:, count : len(SIGNALS)]).mean()
    identity = float("nan")
    if portrait.truth is not None:
        identity = float(1 - identity_distance(made.identity, own.identity).mean())
    return CrossedFigures(portrait.name, driver.name, identity, expression, float(angles), temporal)
