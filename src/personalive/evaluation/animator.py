"""What is evaluated: anything that turns a portrait and driving frames into frames, one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from personalive.evaluation.yardstick import Reading
from personalive.media.frames import Pixels

if TYPE_CHECKING:  # fresh processes that only measure need not load the networks' libraries
    from personalive.pipeline import PersonaLive

Animator: TypeAlias = Callable[[Pixels, Iterable[Pixels]], Iterator[Pixels]]
"""A square portrait (H, H, 3), driving frames (H, H, 3) -> as many output frames (S, S, 3), in step, lazily."""


class Reader(Protocol):
    """What reads faces: `evaluation.yardstick.Yardstick`, or another tracker."""

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        """Frames (F, H, W, 3) of one video, or None where no face is found; `held`: the head does not move."""
        ...


def streamed(model: PersonaLive, seed: int = 0) -> Animator:
    """The product: one `Stream` for each video, motion predicted from the driving frames' pixels."""

    def animate(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
        stream = model.start(portrait, seed=seed)
        for frame in driving:
            yield from stream.push(frame[None])
        yield from stream.flush()

    return animate
