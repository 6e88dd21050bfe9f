"""The training data in memory: rendered people with their ground truth, and how a batch is drawn from them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from personalive.contracts import HeadMotion
from personalive.errors import InputError
from personalive.rendering.shards import PersonRecord, read_shards


@dataclass(frozen=True)
class Corpus:
    """P people with F frames each, on the CPU. Coordinates are in [-1, 1], x right, y down.

    images (P, F, 3, H, W) uint8; expression (P, F, 53); angles (P, F, 3) degrees; scale (P, F); translation (P, F, 2);
    canonical (P, 21, 3); landmarks (P, F, 68, 2); group (P, F): frames of a person with one group id share the pose;
    smooth (P, first, last): not stored: the last run of frames after the groups is a smooth clip, `clip_start` (P,).
    """

    images: Tensor
    expression: Tensor
    angles: Tensor
    scale: Tensor
    translation: Tensor
    canonical: Tensor
    landmarks: Tensor
    group: Tensor
    clip_start: Tensor

    @property
    def people(self) -> int:
        """Number of people."""
        return len(self.images)

    @property
    def frames(self) -> int:
        """Frames of each person."""
        return self.images.shape[1]

    def head(self, person: Tensor, frame: Tensor) -> HeadMotion:
        """Ground truth of frames (N,) as the motion extractor should see them."""
        translation = torch.nn.functional.pad(self.translation[person, frame], (0, 1))  # (N, 2) -> (N, 3), z = 0
        return HeadMotion(
            self.canonical[person], self.angles[person, frame], translation, self.scale[person, frame][:, None]
        )


def load_corpus(paths: Iterable[Path], limit: int | None = None) -> Corpus:
    """All people of some shards. Raises InputError when there are none or their frame counts differ."""
    people: list[PersonRecord] = []
    for person in read_shards(list(paths)):
        people.append(person)
        if limit is not None and len(people) >= limit:
            break
    if not people:
        raise InputError("no people in the shards: render some with `personalive data render`")
    if len({len(person.images) for person in people}) > 1:
        raise InputError("people of different frame counts in one corpus: use shards of one kind together")

    def stack(name: str, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.stack([getattr(person, name) for person in people])).to(dtype)

    images = torch.from_numpy(np.stack([person.images for person in people]))  # (P, F, H, W, 3)
    group = stack("group", torch.int64)
    return Corpus(
        images=images.permute(0, 1, 4, 2, 3).contiguous(),
        expression=stack("expression", torch.float32),
        angles=stack("angles", torch.float32),
        scale=stack("scale", torch.float32),
        translation=stack("translation", torch.float32),
        canonical=stack("canonical", torch.float32),
        landmarks=stack("landmarks", torch.float32),
        group=group,
        clip_start=_clip_start(group),
    )


def _clip_start(group: Tensor) -> Tensor:
    """First frame of the run of frames at the end that all have one group id: (P, F) -> (P,)."""
    same = (group == group[:, -1:]).flip(1).long().cumprod(1)  # ones from the end until the id changes
    return group.shape[1] - same.sum(1)


@dataclass(frozen=True)
class Pairs:
    """B references with F driving frames each: person (B,), reference (B,), driving (B, F) frame indices."""

    person: Tensor
    reference: Tensor
    driving: Tensor


def draw_pairs(corpus: Corpus, rng: random.Random, batch: int, frames: int, same_pose: float) -> Pairs:
    """Random references and driving frames; a share `same_pose` of them differ from each other in expression only."""
    people, references, driving = [], [], []
    for _ in range(batch):
        person = rng.randrange(corpus.people)
        people.append(person)
        references.append(0 if rng.random() < 0.5 else rng.randrange(corpus.frames))
        start = int(corpus.clip_start[person])
        chosen: list[int] = []
        if rng.random() < same_pose and start > 1:
            group = corpus.group[person, rng.randrange(1, start)]
            members = [i for i in range(start) if corpus.group[person, i] == group]
            chosen = rng.sample(members, min(frames, len(members)))
        while len(chosen) < frames:
            chosen.append(rng.randrange(corpus.frames))
        driving.append(chosen)
    return Pairs(torch.tensor(people), torch.tensor(references), torch.tensor(driving))
