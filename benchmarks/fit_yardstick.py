"""Fit the tracker of the evaluation: python benchmarks/fit_yardstick.py TRAIN... --test TEST... [-o FILE].

TRAIN, TEST: shards of rendered people; no person of TEST may be in TRAIN. Prints how well the tracker reads the people
of TEST: correlation over the frames of each person (mean over people), share of pairs told apart, and the share of
frames whose nearest portrait is their own person's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from personalive.data.landmarks import truth_signals
from personalive.data.shards import PersonRecord, read_shards
from personalive.evaluation.statistics import correlation
from personalive.evaluation.yardstick import (
    SIGNALS,
    Array,
    Yardstick,
    describe,
    fit,
    identity_distance,
)
from personalive.media.frames import Pixels
from personalive.motion.face_finder import FaceBox, FaceFinder

Samples: TypeAlias = tuple[Array, Array, Array, NDArray[np.int64]]
"""N shape descriptions, face descriptions, true signals (N, 7), and whose face it is (N,)."""

SHAKE, STRETCH, BLUR = 0.03, 0.05, 1.6
"""The detector is a little off and outputs are soft: boxes move (in sides) and grow, pictures are blurred (px)."""


def samples(people: Iterable[PersonRecord], seed: int | None, views: int) -> Samples:
    """Shape and face descriptions, true signals, and people's numbers; with a seed shaken `views` times each."""
    rng = None if seed is None else np.random.default_rng(seed)
    finder, rows = FaceFinder(), []
    for number, person in enumerate(people):
        if person.truth is None:
            raise SystemExit(f"{person.name} has no ground truth: fit on rendered people")
        truth = np.concatenate([truth_signals(person.truth.landmarks), person.truth.angles], axis=1)
        for image, wanted in zip(person.images, truth, strict=True):
            for box in finder.find(image)[:1]:
                for _ in range(views):
                    picture, place = (image, box) if rng is None else shaken(image, box, rng)
                    shape, face = describe(picture[None], [place])
                    rows.append((shape[0], face[0], wanted, np.array(number)))
    shapes, faces, wanted, numbers = (np.stack(column) for column in zip(*rows, strict=True))
    return shapes, faces, wanted, numbers.astype(np.int64)


def shaken(image: Pixels, box: FaceBox, rng: np.random.Generator) -> tuple[Pixels, FaceBox]:
    """The picture perhaps blurred, the box a little off."""
    if rng.random() < 0.6:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, BLUR)), np.uint8)
    x, y = np.array([box.x, box.y]) + rng.normal(0, SHAKE, 2) * box.side
    return image, FaceBox(float(x), float(y), box.side * float(np.exp(rng.normal(0, STRETCH))))


def report(yardstick: Yardstick, test: Samples) -> str:
    """Lines of figures on people held out."""
    shapes, faces, wanted, numbers = test
    read, who = yardstick.signals(shapes), yardstick.identities(faces)
    lines = []
    for column, name in enumerate(SIGNALS):
        each = [correlation(read[numbers == n, column], wanted[numbers == n, column]) for n in np.unique(numbers)]
        lines.append(f"{name}: {np.nanmean(each):.3f}")
    portraits = np.stack([who[numbers == n][0] for n in np.unique(numbers)])
    others = np.concatenate([np.flatnonzero(numbers == n)[1:] for n in np.unique(numbers)])
    gaps = identity_distance(who[others][:, None], portraits[None])  # (N, P)
    own = np.array([gap[n] for gap, n in zip(gaps, np.searchsorted(np.unique(numbers), numbers[others]), strict=True)])
    mask = np.ones_like(gaps, bool)
    mask[np.arange(len(own)), np.searchsorted(np.unique(numbers), numbers[others])] = False
    foreign = gaps[mask].reshape(len(own), -1)
    lines.append(f"own portrait nearer than another's: {(own[:, None] < foreign).mean():.3f} of pairs")
    lines.append(f"own portrait the nearest of {len(portraits)}: {(own < foreign.min(1)).mean():.3f} of frames")
    return "\n".join(lines)


def main() -> None:
    """Fit, report, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--views", type=int, default=2, help="shaken samples of each training frame")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    shapes, faces, wanted, numbers = samples(read_shards(args.train), 0, args.views)
    print(f"{len(np.unique(numbers))} people, {len(shapes)} samples", flush=True)
    yardstick = fit(shapes, faces, wanted, numbers)
    print(report(yardstick, samples(read_shards(args.test), None, 1)))
    if args.output:
        yardstick.save(args.output)


if __name__ == "__main__":
    main()
