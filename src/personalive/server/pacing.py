"""When to take a driving frame and when to show a painted one: pure decisions, the clock is passed in (seconds)."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST, LONGEST = 1 / 60, 0.5
"""Seconds between frames: what a screen can show, and what still looks like a moving picture."""

CATCH_UP = 0.8
"""Part of the interval that is left between frames while a lead over the newest chunk is worked off."""


def pace(now: float, last: float | None, interval: float, count: int) -> list[float]:
    """When to show the `count` frames of a chunk that is ready `now`, the frame before it being due at `last`.

    Evenly, `interval` apart, and going on evenly from the frame before. What comes early waits, but no longer than it
    must: the wait is worked off within the chunk, by intervals shortened to CATCH_UP at most. A chunk that would wait
    longer than its own length starts at once (whatever is still planned before it is then late and to be dropped).
    """
    interval = min(max(interval, SHORTEST), LONGEST)
    first = now if last is None else max(now, last + interval)
    if first - now > count * interval:
        return [now + i * interval for i in range(count)]
    step = max(CATCH_UP * interval, interval - (first - now) / count)
    return [first + i * step for i in range(count)]


class Thinner:
    """Chooses, of the frames that come, those that make an even stream of at most the wanted rate."""

    def __init__(self) -> None:
        self._due = float("-inf")

    def accept(self, now: float, rate: float) -> bool:
        """Whether to take a frame that comes `now`, at `rate` frames per second.

        A frame may come a quarter of an interval early, so that a camera of nearly that rate is not halved; the debt
        is carried on, so that the mean is never above the rate. After a pause nothing is made up for.
        """
        interval = 1.0 / rate
        if now < self._due - 0.25 * interval:
            return False
        self._due = max(self._due, now - 0.25 * interval) + interval
        return True


def spacing(times: Sequence[float], default: float) -> float:
    """Mean seconds between frames that came at `times`, kept to what can be shown; `default` for fewer than two."""
    mean = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else default
    return min(max(mean, SHORTEST), LONGEST)
