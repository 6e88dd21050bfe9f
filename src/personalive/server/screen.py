"""What a session shows: painted frames at their time, to any number of watchers, each of which sees the newest only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from personalive.server.pacing import pace
from personalive.server.session import Chunk, Clock, Painted


class Watcher:
    """A place for one frame: a newer one replaces what was not fetched yet."""

    def __init__(self, first: Painted | None) -> None:
        self._newest = first
        self._there = asyncio.Event()
        if first is not None:
            self._there.set()

    def put(self, frame: Painted) -> None:
        """Replaces the frame that waits."""
        self._newest = frame
        self._there.set()

    async def next(self, patience: float | None = None) -> Painted | None:
        """The next frame; None when none comes within `patience` seconds."""
        if not self._there.is_set():
            try:
                await asyncio.wait_for(self._there.wait(), patience)
            except asyncio.TimeoutError:
                return None
        self._there.clear()
        return self._newest


class Screen:
    """Plans chunks and shows their frames when they are due. For one event loop."""

    def __init__(self, clock: Clock, shown: Callable[[Painted, float], object] | None = None) -> None:
        """`shown` is told of each frame when it goes out, and when that was."""
        self.current: Painted | None = None
        self.late = 0
        """Frames that were never shown, since the next chunk had come before their turn."""

        self._clock = clock
        self._shown = shown
        self._plan: deque[tuple[float, Painted]] = deque()
        self._dues: list[float] = []  # of the newest chunk's frames
        self._last: float | None = None
        self._planned = asyncio.Event()
        self._watchers: set[Watcher] = set()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """A watcher, who sees what is shown from now on, and at once what is shown now."""
        watcher = Watcher(self.current)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def plan(self, chunk: Chunk) -> None:
        """Sets a chunk's frames on the plan; what of an older one is due later than they are is dropped.

        Where they come one by one, the first settles when all of them are due.
        """
        if chunk.place == 0:
            self._dues = pace(self._clock(), self._last, chunk.interval, chunk.length or len(chunk.frames))
            while self._plan and self._plan[-1][0] >= self._dues[0]:
                self._plan.pop()
                self.late += 1
            self._last = self._dues[-1]
        self._plan.extend(zip(self._dues[chunk.place :], chunk.frames, strict=False))
        self._planned.set()

    def wait(self) -> float | None:
        """Seconds until the next frame is due; None when none is planned."""
        return max(0.0, self._plan[0][0] - self._clock()) if self._plan else None

    def show_due(self) -> bool:
        """Shows the newest frame that is due; older ones, if the loop was held up, are passed over."""
        now, frame = self._clock(), None
        while self._plan and self._plan[0][0] <= now:
            self.late += frame is not None
            frame = self._plan.popleft()[1]
        if frame is None:
            return False
        self.show(frame)
        return True

    def show(self, frame: Painted) -> None:
        """Shows a frame now."""
        self.current = frame
        if self._shown is not None:
            self._shown(frame, self._clock())
        for watcher in self._watchers:
            watcher.put(frame)

    async def play(self) -> None:
        """Shows frames as they become due, until cancelled."""
        while True:
            patience = self.wait()
            if patience is None:
                self._planned.clear()
                await self._planned.wait()
            elif patience > 0:
                await asyncio.sleep(patience)
            self.show_due()
