"""The training data in memory: people with and without ground truth, and how a batch is drawn from them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from personalive.contracts import HeadMotion
from personalive.data.landmarks import landmarks_of
from personalive.data.shards import PersonRecord, read_shards
from personalive.data.stream import ShardStream
from personalive.errors import InputError


@dataclass(frozen=True)
class Flows:
    """Exact backward flow of T target frames towards each of R reference frames of P people; S is the pictures' side.

    references (P, R) and targets (P, R, T): frame numbers; flow (P, R, T, S / 2, S / 2, 2) float16: where a pixel is in
    the reference, [-1, 1] or beyond; visible (P, R, T, S, S) bool: the reference shows it; part (P, R, T, S, S) and
    reference_part (P, R, S, S) uint8: what is shown, 0 the background (`rendering.layers.Part`).
    """

    references: Tensor
    targets: Tensor
    flow: Tensor
    visible: Tensor
    part: Tensor
    reference_part: Tensor


COEFFICIENTS = 53
"""Of the renderer's expression."""


@dataclass(frozen=True)
class Corpus:
    """P people with F frames each, on the CPU. Coordinates are in [-1, 1], x right, y down.

    images (P, F, 3, H, W) uint8; landmarks (P, F, 68, 2), estimated for real video (data/landmarks.py);
    group (P, F): frames of a person with one group id share the pose;
    clip_start (P,): the frames from there on are a smooth clip; names (P,): who each is, if known.

    Ground truth, NaN for people of real video, whom `known` leaves out: expression (P, F, 53); angles (P, F, 3)
    degrees; scale (P, F); translation (P, F, 2); canonical (P, 21, 3); dense (P, F, K, 2): the landmarks of the head
    mesh, None where the shards have none of anybody.
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
    names: tuple[str, ...] = ()
    dense: Tensor | None = None
    flows: Flows | None = None

    @property
    def people(self) -> int:
        """Number of people."""
        return len(self.images)

    @property
    def frames(self) -> int:
        """Frames of each person."""
        return self.images.shape[1]

    @property
    def known(self) -> Tensor:
        """(P,) bool: the people whose motion is known exactly."""
        return ~self.scale.isnan().any(1)

    def with_truth(self) -> Corpus:
        """The people whose motion is known exactly, for stages that learn from it. Raises InputError for none."""
        known = self.known
        if bool(known.all()):
            return self
        if not bool(known.any()):
            raise InputError("real video only: this stage learns from exact motion; add people of `data render`")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value[known] for name, value in values.items() if isinstance(value, Tensor)}
        names = tuple(name for name, kept in zip(self.names, known.tolist(), strict=False) if kept)
        return replace(self, **tensors, names=names, flows=None)

    def head(self, person: Tensor, frame: Tensor) -> HeadMotion:
        """Ground truth of frames (N,) as the motion extractor should see them."""
        translation = torch.nn.functional.pad(self.translation[person, frame], (0, 1))  # (N, 2) -> (N, 3), z = 0
        return HeadMotion(
            self.canonical[person], self.angles[person, frame], translation, self.scale[person, frame][:, None]
        )


def load_corpus(paths: Iterable[Path], limit: int | None = None, size: int | None = None) -> Corpus:
    """The first `limit` people of some shards, or all. Raises InputError like `corpus_of`."""
    return corpus_of(list(islice(read_shards(list(paths)), limit)), size)


def stream_corpora(
    paths: Iterable[Path],
    count: int,
    size: int | None = None,
    *,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    epochs: int | None = None,
    skip: int = 0,
) -> Iterator[Corpus]:
    """Corpora of `count` people each, one after another, for data that does not fit in memory.

    Without end unless `epochs` is given; a last rest of fewer people is left out. `rank` of `ranks` processes gets its
    own share of the people; `skip` corpora are passed over, to go on where a run stopped. Raises InputError like
    `corpus_of`.
    """
    people = iter(ShardStream(paths, seed=seed, rank=rank, ranks=ranks, epochs=epochs, skip=skip * count))
    while len(chosen := list(islice(people, count))) == count:
        yield corpus_of(chosen, size)


def corpus_of(people: Sequence[PersonRecord], size: int | None = None) -> Corpus:
    """Rendered people and people of real video together.

    Raises InputError when there are none, or when their frame counts or picture sizes differ, from one another or
    from the side `size` that is asked for.
    """
    if not people:
        raise InputError("no people in the shards: make some with `personalive data render` or `data prepare`")
    first = people[0]
    for person in people:
        side, frames = person.images.shape[1], len(person.images)
        if side != (wanted := size or first.images.shape[1]):
            raise InputError(
                f"{person.name} has pictures of {side} pixels, not {wanted}: make its shard with that --size"
            )
        if frames != len(first.images):
            raise InputError(
                f"{first.name} has {len(first.images)} frames and {person.name} {frames}: use shards of one --frames "
                "and one kind together"
            )

    def truth(name: str, *shape: int) -> Tensor:
        unknown = np.full(shape, np.nan, np.float32)
        return torch.from_numpy(np.stack([getattr(p.truth, name) if p.truth else unknown for p in people]))

    images = torch.from_numpy(np.stack([person.images for person in people]))  # (P, F, H, W, 3)
    group = torch.from_numpy(np.stack([person.group for person in people])).to(torch.int64)
    count = len(first.images)
    return Corpus(
        images=images.permute(0, 1, 4, 2, 3).contiguous(),
        expression=truth("expression", count, COEFFICIENTS),
        angles=truth("angles", count, 3),
        scale=truth("scale", count),
        translation=truth("translation", count, 2),
        canonical=truth("canonical", 21, 3),
        landmarks=torch.from_numpy(np.stack([landmarks_of(person) for person in people])),
        group=group,
        clip_start=_clip_start(group),
        names=tuple(person.person for person in people),
        dense=_dense(people),
        flows=_flows(people),
    )


def _dense(people: Sequence[PersonRecord]) -> Tensor | None:
    """The head mesh's landmarks of every frame (P, F, K, 2), NaN for people without; None where nobody has them."""
    known = [person.head.dense for person in people if person.head is not None]
    if not known:
        return None
    unknown = np.full_like(known[0], np.nan)
    return torch.from_numpy(np.stack([unknown if p.head is None else p.head.dense for p in people]))


def _flows(people: Sequence[PersonRecord]) -> Flows | None:
    """The flows of all people; None where somebody has none."""
    known = [person.flows for person in people if person.flows is not None]
    if len(known) < len(people):
        return None

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(flows, name) for flows in known]))

    names = ("references", "targets", "visible", "part", "reference_part")
    return Flows(flow=stacked("flow").half(), **{name: stacked(name) for name in names})


def check_apart(train: Corpus, held_out: Corpus) -> None:
    """Raises InputError where somebody is in both: figures on such held-out people would mean nothing."""
    both = sorted(set(train.names) & set(held_out.names))
    if both:
        raise InputError(
            f"{len(both)} people are in the training and the test shards, {both[0]} first: keep them apart"
        )


def _clip_start(group: Tensor) -> Tensor:
    """First frame of the run of frames at the end that all have one group id: (P, F) -> (P,)."""
    same = (group == group[:, -1:]).flip(1).long().cumprod(1)  # ones from the end until the id changes
    return group.shape[1] - same.sum(1)


@dataclass(frozen=True)
class Pairs:
    """B references with F driving frames each: person (B,), reference (B,), driving (B, F) frame indices.

    slots (B, F): the driving frames' places among the reference's warped ones, where there are such.
    """

    person: Tensor
    reference: Tensor
    driving: Tensor
    slots: Tensor | None = None


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


def draw_warped_pairs(
    corpus: Corpus, warped: Tensor, rng: random.Random, batch: int, frames: int, same_pose: float
) -> Pairs:
    """`draw_pairs` of the references and frames that were warped: warped (P, R, T), the numbers of the frames."""
    people, references, slots = [], [], []
    for _ in range(batch):
        person, reference = rng.randrange(corpus.people), rng.randrange(warped.shape[1])
        groups = corpus.group[person][warped[person, reference]].tolist()
        chosen: list[int] = []
        if rng.random() < same_pose:
            group = rng.choice(groups)
            members = [slot for slot, own in enumerate(groups) if own == group]
            chosen = rng.sample(members, min(frames, len(members)))
        while len(chosen) < frames:
            chosen.append(rng.randrange(len(groups)))
        people.append(person)
        references.append(reference)
        slots.append(chosen)
    person_, reference_, slots_ = torch.tensor(people), torch.tensor(references), torch.tensor(slots)
    driving = warped[person_[:, None], reference_[:, None], slots_]
    return Pairs(person_, reference_, driving, slots_)
