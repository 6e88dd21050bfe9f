"""Training data in memory and as a stream."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from people import made_up
from personalive.data.shards import ShardError, write_shard
from personalive.data.stream import ShardStream
from personalive.errors import InputError
from personalive.training.clips import check_apart, corpus_of, draw_pairs, load_corpus, stream_corpora


def shards(folder: Path, count: int, people: int) -> list[Path]:
    paths = [folder / f"train-{number:05d}.tar" for number in range(count)]
    for number, path in enumerate(paths):
        write_shard(path, [made_up(f"{number}-{i}", frames=1, side=8) for i in range(people)])
    return paths


def names(stream: ShardStream, count: int | None = None) -> list[str]:
    return [person.name for person in islice(stream, count)]


# The stream


@pytest.mark.parametrize(("ranks", "count"), [(1, 3), (2, 3), (3, 3), (4, 3), (5, 1)])
def test_shares_are_apart_and_together_everybody(tmp_path: Path, ranks: int, count: int) -> None:
    paths = shards(tmp_path, count, 6)
    found = [names(ShardStream(paths, rank=rank, ranks=ranks, epochs=1, buffer=3)) for rank in range(ranks)]
    assert all(found)
    together = [name for share in found for name in share]
    assert len(together) == len(set(together))
    assert sorted(together) == [f"{s}-{i}" for s in range(count) for i in range(6)]


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    paths = shards(tmp_path, 2, 8)
    twice = names(ShardStream(paths, seed=3, buffer=5, epochs=2))
    assert twice == names(ShardStream(reversed(paths), seed=3, buffer=5, epochs=2))
    assert sorted(twice[:16]) == sorted(twice[16:])
    assert twice[:16] != twice[16:]
    assert twice[:16] != names(ShardStream(paths, seed=4, buffer=5, epochs=1))
    assert twice[:16] != sorted(twice[:16])


def test_a_stream_goes_on_where_it_stopped(tmp_path: Path) -> None:
    paths = shards(tmp_path, 2, 4)
    whole = names(ShardStream(paths), 30)  # endless: 8 people only
    assert len(whole) == 30
    assert names(ShardStream(paths, skip=11), 19) == whole[11:]


def test_workers_divide_the_people(tmp_path: Path) -> None:
    loader = DataLoader(ShardStream(shards(tmp_path, 2, 4), epochs=1), batch_size=None, num_workers=2)
    assert sorted(person.name for person in loader) == [f"{s}-{i}" for s in range(2) for i in range(4)]


def test_streams_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards"):
        ShardStream([])
    with pytest.raises(ShardError, match="not found"):
        names(ShardStream([tmp_path / "none.tar"]))
    with pytest.raises(InputError, match="share 1 of 2 is empty"):
        names(ShardStream(shards(tmp_path, 1, 1), rank=1, ranks=2))


# Corpora


def test_real_video_has_landmarks_but_no_truth() -> None:
    corpus = corpus_of([made_up("ada"), made_up("film", truth=False)])
    assert corpus.known.tolist() == [True, False]
    assert corpus.landmarks.isfinite().all()
    for name in ("expression", "angles", "scale", "translation", "canonical"):
        values = getattr(corpus, name)
        assert values[0].isfinite().all()
        assert values[1].isnan().all(), name  # a stage that reads it by mistake gets a loss that is not a number
    known = corpus.with_truth()
    assert (known.people, known.names) == (1, ("ada",))
    assert torch.equal(known.images, corpus.images[:1])
    with pytest.raises(InputError, match="real video only"):
        corpus_of([made_up("film", truth=False)]).with_truth()


def test_pairs_are_drawn_from_a_mix() -> None:
    corpus = corpus_of([made_up(name, frames=5, truth=name == "ada") for name in ("ada", "b", "c")])
    assert corpus.clip_start.tolist() == [0, 0, 0]
    pairs = draw_pairs(corpus, random.Random(0), batch=30, frames=3, same_pose=0.5)
    assert set(pairs.person.tolist()) == {0, 1, 2}
    assert int(pairs.driving.max()) <= 4


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no people"):
        corpus_of([])
    with pytest.raises(InputError, match="ada has 3 frames and bob 4"):
        corpus_of([made_up("ada"), made_up("bob", frames=4)])
    with pytest.raises(InputError, match="bob has pictures of 16 pixels, not 32"):
        corpus_of([made_up("ada"), made_up("bob", side=16)])
    write_shard(tmp_path / "a.tar", [made_up("ada"), made_up("bob")])
    with pytest.raises(InputError, match="ada has pictures of 32 pixels, not 64"):
        load_corpus([tmp_path / "a.tar"], size=64)
    assert load_corpus([tmp_path / "a.tar"], limit=1).names == ("ada",)


def test_somebody_in_training_and_test_is_refused() -> None:
    train = corpus_of([made_up("ada"), made_up("film-1", person="film")])
    check_apart(train, corpus_of([made_up("bob")]))
    with pytest.raises(InputError, match="1 people are in the training and the test shards, film first"):
        check_apart(train, corpus_of([made_up("film-2", person="film")]))


def test_corpora_one_after_another(tmp_path: Path) -> None:
    paths = shards(tmp_path, 2, 4)
    found = list(stream_corpora(paths, 3, size=8, epochs=1))
    assert [corpus.people for corpus in found] == [3, 3]
    assert len({name for corpus in found for name in corpus.names}) == 6
    later = next(stream_corpora(paths, 3, skip=1))
    assert later.names == found[1].names
    both = [next(stream_corpora(paths, 4, rank=rank, ranks=2)).names for rank in range(2)]
    assert set(both[0]).isdisjoint(both[1])
