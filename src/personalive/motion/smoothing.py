"""Takes the tremble out of a driver's motion, at the price of a little lag."""

from __future__ import annotations

import torch

from personalive.contracts import HeadMotion
from personalive.motion.signals import Observation, joined

STRONGEST = 0.9
"""Part of the past that stays from frame to frame at strength 1: a step is followed by half within 7 frames."""


class Smoother:
    """An exponential average of head pose, motion tokens and expression, frame after frame. Remembers one frame."""

    def __init__(self) -> None:
        self._last: Observation | None = None

    def smooth(self, seen: Observation, strength: float) -> Observation:
        """F observed frames, each drawn towards the one before it; strength 0 to 1, and 0 gives them as they are."""
        kept = STRONGEST * min(max(strength, 0.0), 1.0)
        if kept:
            frames = []
            for index in range(seen.motion.shape[0]):
                frame = seen[index : index + 1]
                frames.append(frame if self._last is None else _between(frame, self._last, kept))
                self._last = frames[-1]
            seen = joined(frames)
        self._last = seen[-1:]
        return seen


def _between(new: Observation, old: Observation, kept: float) -> Observation:
    """A `kept` part of the way back from the new frame to the old; canonical keypoints stay, nothing draws them."""
    a, b = new.head, old.head
    head = HeadMotion(
        a.keypoints,
        torch.lerp(a.angles, b.angles, kept),
        torch.lerp(a.translation, b.translation, kept),
        torch.lerp(a.scale, b.scale, kept),
    )
    expression = new.expression
    if expression is not None and old.expression is not None:
        expression = torch.lerp(expression, old.expression, kept)
    return Observation(head, torch.lerp(new.motion, old.motion, kept), expression)
