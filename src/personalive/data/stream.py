"""Many shards as one shuffled, endless stream of people, divided between processes, in little memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch.utils.data import IterableDataset, get_worker_info

from personalive.data.shards import PersonRecord, StoredPerson, read_stored
from personalive.errors import InputError


class ShardStream(IterableDataset[PersonRecord]):
    """The people of some shards in an order that depends on the seed alone; every epoch has another one.

    Each rank, and each worker of a `torch.utils.data.DataLoader` (batch_size=None), gets its own share: whole shards
    where there are enough of them, else every so many-th person of all. No two shares of an epoch have a person in
    common, and together they are everybody. Pictures are decoded last: a buffered person takes as much memory as in
    the file.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        seed: int = 0,
        buffer: int = 64,
        rank: int = 0,
        ranks: int = 1,
        epochs: int | None = None,
        skip: int = 0,
    ) -> None:
        """`epochs` None: endless. `skip`: people of each share to pass over undecoded, to go on where a run stopped.

        Raises InputError where there are no shards; iterating raises ShardError for one that cannot be used.
        """
        super().__init__()
        self._paths: Sequence[Path] = sorted(paths)
        if not self._paths:
            raise InputError(
                "no shards to read: make some with `personalive data render` or `personalive data prepare`"
            )
        if not 0 <= rank < ranks or buffer < 1 or skip < 0:
            raise ValueError(f"rank {rank} of {ranks}, buffer {buffer}, skip {skip}")
        self._seed, self._buffer, self._rank, self._ranks = seed, buffer, rank, ranks
        self._epochs, self._skip = epochs, skip

    def __iter__(self) -> Iterator[PersonRecord]:
        worker = get_worker_info()
        share, shares = self._rank, self._ranks
        if worker is not None:
            share, shares = self._rank * worker.num_workers + worker.id, self._ranks * worker.num_workers
        passed = 0
        epoch = 0
        while self._epochs is None or epoch < self._epochs:
            for stored in self._shuffled(epoch, share, shares):
                passed += 1
                if passed > self._skip:
                    yield stored.decode()
            if not passed:
                raise InputError(f"share {share} of {shares} is empty: there are fewer people than processes to feed")
            epoch += 1

    def _shuffled(self, epoch: int, share: int, shares: int) -> Iterator[StoredPerson]:
        """A share of one epoch: each person that comes in sends out a random one of the buffer."""
        rng = random.Random(f"{self._seed}/{epoch}/{share}")
        waiting: list[StoredPerson] = []
        for stored in self._share(epoch, share, shares):
            if len(waiting) < self._buffer:
                waiting.append(stored)
                continue
            place = rng.randrange(self._buffer)
            waiting[place], stored = stored, waiting[place]
            yield stored
        rng.shuffle(waiting)
        yield from waiting

    def _share(self, epoch: int, share: int, shares: int) -> Iterator[StoredPerson]:
        order = random.Random(f"{self._seed}/{epoch}").sample(self._paths, len(self._paths))
        if len(order) >= shares:
            for path in order[share::shares]:
                yield from read_stored(path)
            return
        number = 0
        for path in order:
            for stored in read_stored(path):
                if number % shares == share:
                    yield stored
                number += 1
