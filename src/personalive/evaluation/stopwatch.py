"""How fast an animator is: first frame, chunks, frames per second, memory. What others do meanwhile does not count."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from personalive.evaluation.animator import Animator
from personalive.media.frames import Pixels

Clock = Callable[[], float]

_PEAK_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Pace:
    """One video. first: seconds from the portrait to the first frame, with the window's lead-in; chunk: median seconds
    of a chunk that comes while driving frames still do (NaN: none); frames and seconds: after the first chunk.
    """

    first: float
    chunk: float
    frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """From the second chunk on; NaN for a video of one chunk."""
        return self.frames / self.seconds if self.seconds > 0 else math.nan


class Stopwatch:
    """An animator that is timed, without the time of reading driving frames and of whoever takes the results."""

    def __init__(self, animate: Animator, clock: Clock = time.perf_counter, chunk: int = 4) -> None:
        self._animate, self._clock, self._chunk = animate, clock, chunk
        self.paces: list[Pace] = []
        """Of every video that was animated to its end."""

    @property
    def frames_per_second(self) -> float:
        """Of all videos so far, each from its second chunk on; NaN before there is any."""
        seconds = sum(pace.seconds for pace in self.paces)
        return sum(pace.frames for pace in self.paces) / seconds if seconds > 0 else math.nan

    def __call__(self, portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
        """The same frames."""
        source = _Source(driving, self._clock)
        made = iter(self._animate(portrait, source))
        spent: list[float] = []
        steady = 0  # frames that came before the driver ended: then several chunks come at once
        while True:
            before, read = self._clock(), source.seconds
            frame = next(made, None)
            took = self._clock() - before - (source.seconds - read)
            if frame is None:
                break
            spent.append(took)
            steady += not source.ended
            yield frame
        if spent:
            self.paces.append(self._pace(spent, steady))

    def _pace(self, spent: list[float], steady: int) -> Pace:
        size = self._chunk
        chunks = [sum(spent[at : at + size]) for at in range(size, steady - steady % size, size)]
        rest = spent[size:]
        return Pace(spent[0], statistics.median(chunks) if chunks else math.nan, len(rest), sum(rest))


class _Source:
    """Driving frames, and the seconds that reading them took."""

    def __init__(self, frames: Iterable[Pixels], clock: Clock) -> None:
        self._frames, self._clock = iter(frames), clock
        self.seconds = 0.0
        self.ended = False

    def __iter__(self) -> Iterator[Pixels]:
        return self

    def __next__(self) -> Pixels:
        before = self._clock()
        try:
            return next(self._frames)
        except StopIteration:
            self.ended = True
            raise
        finally:
            self.seconds += self._clock() - before


class PeakMemory:
    """The most memory in use since `start`. On a GPU: allocated there by torch; else resident, of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.meaning = "allocated on the GPU" if device.type == "cuda" else "resident memory of the process"

    def start(self) -> None:
        """From now on. Where the peak of resident memory cannot be set back (not Linux), it is the process's so far."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _PEAK_RESET.write_text("5")  # proc(5): sets VmHWM back to what is resident now
        except OSError:
            return

    def gigabytes(self) -> float:
        """In units of 10^9 bytes; NaN where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        try:
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024 / 1e9
        except (OSError, StopIteration):
            return _process_peak()


def _process_peak() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
