"""Takes the tremble out of a driver's motion, at the price of a little lag."""

from __future__ import annotations

from dataclasses import replace

import torch

from personalive.motion.signals import Observation
from personalive.streaming.state import map_tensors

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
            seen = map_tensors(lambda *parts: torch.cat(parts), *frames)
        self._last = seen[-1:]
        return seen


def _between(new: Observation, old: Observation, kept: float) -> Observation:
    """A `kept` part of the way back from the new frame to the old; canonical keypoints stay, nothing draws them."""
    drawn = map_tensors(lambda a, b: torch.lerp(a, b, kept), new, old)
    return replace(drawn, head=replace(drawn.head, keypoints=new.head.keypoints))
