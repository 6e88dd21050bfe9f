"""Made-up people for tests of shards and training data: no tests here."""

from __future__ import annotations

import numpy as np

from personalive.data.shards import GroundTruth, PersonRecord


def made_up(
    name: str, frames: int = 3, side: int = 32, *, truth: bool = True, person: str | None = None
) -> PersonRecord:
    """A person of smooth pictures and random motion, both a function of the name."""
    rng = np.random.default_rng(list(name.encode()))

    def draw(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.random(shape).astype(np.float32)

    rows = np.linspace(0, 150, side)[None, :, None, None] + rng.integers(0, 60)
    images = np.broadcast_to(rows + np.arange(3) * 20, (frames, side, side, 3)).astype(np.uint8)
    motion = GroundTruth(
        expression=draw(frames, 53),
        angles=draw(frames, 3) * 40,
        scale=draw(frames),
        translation=draw(frames, 2),
        canonical=draw(21, 3),
        keypoints=draw(frames, 21, 2),
        landmarks=draw(frames, 68, 2),
    )
    return PersonRecord(
        name=name,
        person=person or name,
        images=images,
        face_box=np.array([[-0.5, -0.6, 0.5, 0.6]] * frames, np.float32) + draw(frames, 4) * 0.1,
        group=np.zeros(frames, np.int32),
        kind=("clip",) * frames,
        truth=motion if truth else None,
    )
