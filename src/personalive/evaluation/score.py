"""All measures of one case, frame by frame in step; memory is bounded by a block of frames, not by a video's length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from personalive.errors import InputError
from personalive.evaluation.cases import Case
from personalive.evaluation.exact import Exact
from personalive.evaluation.identity import CaseEmbeddings
from personalive.evaluation.meters import Block, ClipFeatures, Course, IdentityMeter, Instruments
from personalive.evaluation.yardstick import Array
from personalive.media.frames import Pixels, load_picture, resize_to
from personalive.media.video import VideoReader, read_video

VERSION = 7
"""To be raised with every change to what a measure gives: kept scores of older versions are not taken again."""

BLOCK = 25  # frames that are held and measured together


@dataclass(frozen=True)
class Moment:
    """One frame of each video: the output's own size, driver and truth no larger, and `whole`, the driver as it is in
    its file; truth None: there is none."""

    generated: Pixels
    driving: Pixels
    truth: Pixels | None
    whole: Pixels


@dataclass(frozen=True)
class VideoFigures:
    """One case: means of the measures (NaN: could not be measured), and some of them by frame."""

    name: str
    frames: int
    figures: dict[str, float]
    over_time: Course
    cross: bool = False
    source: dict[str, str] = field(default_factory=dict)
    """Where and when its figures were taken (of a case kept from before: not now)."""


@dataclass(frozen=True)
class Scored:
    """A case's figures, and its clips' features (N, D) of the output and of what it is held against (N 0: no I3D).

    faces: a recogniser's embeddings; None: none was named.
    """

    figures: VideoFigures
    features: tuple[Array, Array]
    faces: CaseEmbeddings | None = None


def score(case: Case, instruments: Instruments, max_frames: int | None = None, exact: Exact | None = None) -> Scored:
    """All measures of one case; exact: what is known of rendered people (`exact.load_exact`).

    Raises InputError for a file that cannot be read, another number of frames, or another shape than the driver's.
    """
    meters = instruments.meters(load_picture(case.reference), case, exact)
    frames = 0
    moments = in_step(case, max_frames)
    while some := list(itertools.islice(moments, BLOCK)):
        frames += len(some)
        truth = None if some[0].truth is None else np.stack([m.truth for m in some if m.truth is not None])
        generated, driving, whole = (
            np.stack([getattr(m, part) for m in some]) for part in ("generated", "driving", "whole")
        )
        block = Block(generated, driving, truth, whole)
        for meter in meters:
            meter.add(block)
    figures = {name: value for meter in meters for name, value in meter.figures().items()}
    course = {name: values for meter in meters for name, values in meter.course().items()}
    features = next((meter.features() for meter in meters if isinstance(meter, ClipFeatures)), _NO_FEATURES)
    faces = next((meter.embeddings() for meter in meters if isinstance(meter, IdentityMeter)), None)
    return Scored(VideoFigures(case.name, frames, figures, course, case.cross), features, faces)


_NO_FEATURES = (np.empty((0, 1)), np.empty((0, 1)))


def in_step(case: Case, max_frames: int | None = None) -> Iterator[Moment]:
    """The frames of a case. Without a truth of its own, a self case's is the driver.

    Driver and truth are made as small as the output where they are larger; a smaller one is not enlarged.
    """
    own_truth = case.truth
    paths = [case.generated, case.driving, *([] if own_truth is None else [own_truth])]
    with ExitStack() as stack:
        videos = [stack.enter_context(read_video(path, max_frames)) for path in paths]
        height, width = videos[0].info.height, videos[0].info.width
        for path, video in zip(paths[1:], videos[1:], strict=True):
            _check_shape(case.generated, path, videos[0], video)
        for count, frames in enumerate(itertools.zip_longest(*videos)):
            if None in frames:
                short = paths[frames.index(None)]
                long = next(path for path, frame in zip(paths, frames, strict=True) if frame is not None)
                raise InputError(f"{short} ends after {count} frames, {long} does not; cut both to one length")
            driving = no_larger(frames[1].pixels, height, width)
            if own_truth is not None:
                truth: Pixels | None = no_larger(frames[2].pixels, height, width)
            else:
                truth = None if case.cross else driving
            yield Moment(frames[0].pixels, driving, truth, frames[1].pixels)


def no_larger(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 3) -> (height, width, 3) where it is higher than that, else as it is."""
    return resize_to(pixels, height, width) if pixels.shape[0] > height else pixels


def rate_of(path: Path) -> Fraction:
    """Frames per second of a video. Raises InputError for one that cannot be read."""
    with read_video(path, 1) as video:
        return video.info.rate


def _check_shape(output: Path, other: Path, made: VideoReader, seen: VideoReader) -> None:
    width, height = made.info.width, made.info.height
    if abs(width * seen.info.height - height * seen.info.width) > 0.02 * width * seen.info.height:
        raise InputError(
            f"{output} is {width}x{height} pixels, {other} {seen.info.width}x{seen.info.height}: shapes differ; crop "
            "the driver as the system saw it"
        )
