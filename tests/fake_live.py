"""A model without networks, a clock that is set by hand, and sessions of both: fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from personalive.config import TOY, ModelConfig
from personalive.media.frames import Pixels
from personalive.motion.face_crop import FramedPortrait, square_of
from personalive.motion.keypoints import MotionGains
from personalive.server.session import Driven

SIDE = TOY.image_size


def grey(value: int) -> Pixels:
    """A square picture of one grey."""
    return np.full((SIDE, SIDE, 3), value, dtype=np.uint8)


def driven(number: int, came: float = 0.0) -> Driven:
    """A driving frame that is told by its grey, captured `number` milliseconds after the client's zero."""
    return Driven(grey(number), float(number), came)


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeStream:
    """Gives back what was fed, as late as a real stream does; held frames repeat the last, or the portrait."""

    def __init__(self, portrait: Pixels, gains: MotionGains | None) -> None:
        self.chunk_frames = TOY.stream.chunk_frames
        self.delay_frames = TOY.stream.window_frames - 1
        self.gains = gains or MotionGains()
        self.smoothing = 0.0
        self.portraits = [portrait]
        self.recalibrated = 0
        self.fed: list[Pixels | None] = []
        self.given = 0

    def feed(self, frame: Pixels | None) -> None:
        self.fed.append(frame)

    def set_portrait(self, portrait: Pixels | FramedPortrait) -> None:
        self.portraits.append(square_of(portrait))

    def recalibrate(self) -> None:
        self.recalibrated += 1

    def painted(self) -> Pixels:
        if len(self.fed) < TOY.stream.window_frames:
            return np.zeros((0, SIDE, SIDE, 3), dtype=np.uint8)
        frames = self.fed[self.given : self.given + self.chunk_frames]
        self.given += self.chunk_frames
        return np.stack([self.portraits[-1] if frame is None else frame for frame in frames])


class FakeModel:
    """Remembers the sizes of its batches; fails for streams whose portrait has the grey 66."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.looked: list[list[int]] = []

    @property
    def config(self) -> ModelConfig:
        return TOY

    def start(self, portrait: Pixels | FramedPortrait, seed: int = 0, gains: MotionGains | None = None) -> FakeStream:
        return FakeStream(square_of(portrait), gains)

    def step(self, streams: Sequence[FakeStream]) -> list[Pixels]:
        return [np.concatenate(parts) for parts in zip(*self.paint(streams), strict=True)]

    def look(self, streams: Sequence[FakeStream]) -> None:
        self.looked.append([len(stream.fed) for stream in streams])

    def paint(self, streams: Sequence[FakeStream]) -> Iterator[list[Pixels]]:
        self.batches.append(len(streams))
        if any(stream.portraits[-1][0, 0, 0] == 66 for stream in streams):
            raise RuntimeError("a fault on purpose")
        painted = [stream.painted() for stream in streams]
        for place in range(TOY.stream.chunk_frames):
            yield [frames[place : place + 1] for frames in painted]


class InlineExecutor(Executor):
    """Does the work at once, on the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done
