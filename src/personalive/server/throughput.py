"""How much the machine can do, as measured while it does it, and what follows: driving rate and admission."""

from __future__ import annotations

HEADROOM = 0.85
"""Part of the measured throughput that is given out, so that a late chunk can be made up for."""

SLOWEST = 1.0
"""Frames per second of driving, however slow the machine."""


class Throughput:
    """The seconds of work that one session's chunk costs, alone or in a batch: a running mean."""

    def __init__(self, chunk_frames: int, *, weight: float = 0.1) -> None:
        """`weight`: the newest measurement's part in the mean."""
        self._chunk_frames = chunk_frames
        self._weight = weight
        self.chunk_seconds: float | None = None

    def record(self, seconds: float, sessions: int) -> None:
        """A batch of so many sessions took so long."""
        cost = seconds / sessions
        old = self.chunk_seconds
        self.chunk_seconds = cost if old is None else old + self._weight * (cost - old)

    def rate(self, sessions: int, fastest: float) -> float:
        """Frames per second at which each of so many sessions can be driven, SLOWEST to `fastest`."""
        if not self.chunk_seconds:
            return fastest
        sustained = HEADROOM * self._chunk_frames / (self.chunk_seconds * max(sessions, 1))
        return min(max(sustained, SLOWEST), fastest)

    def capacity(self, rate: float) -> int | None:
        """How many sessions can have `rate` frames per second each, at least 1; None while nothing was measured."""
        if not self.chunk_seconds:
            return None
        return max(1, int(HEADROOM * self._chunk_frames / (self.chunk_seconds * rate)))
