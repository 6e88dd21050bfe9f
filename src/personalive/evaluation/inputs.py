"""Drivers and portraits cut to the head, as `animate` cuts them, and written: any system can be given the same ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from personalive.errors import InputError, output_error
from personalive.evaluation.cases import Case, hashed
from personalive.evaluation.outputs import CRF
from personalive.media.frames import Pixels, load_picture
from personalive.media.video import read_video
from personalive.media.video_writer import VideoWriter
from personalive.motion.face_crop import FramingConfig, SteadyCrop, crop_square, find_first_face, find_head
from personalive.motion.face_finder import FaceFinder

INPUTS = "inputs"
"""The folder in that of the report."""

MOST_SIDE = 512
COMMENT = "Cut to the head by PersonaLive; nothing in it is generated"


def prepare_inputs(
    cases: Sequence[Case], folder: Path, *, cut: bool, max_frames: int | None = None, skip_bad: bool = False
) -> tuple[list[Case], list[str]]:
    """The cases with the portraits and drivers that a system is to be given, and a line for each that has none.

    cut: to the head, with everything written to folder/inputs (what is there is kept); else as they are. A self case
    whose reference is its driver has that one's first frame as its portrait, and so has every self case that is cut:
    portrait and truth must be framed alike. Without skip_bad the first bad case is raised as InputError.
    """
    found, problems = [], []
    for case in cases:
        try:
            found.append(_prepared(case, folder / INPUTS, cut, max_frames))
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{case.name}: {error}") from error
            problems.append(f"{case.name}: {error}")
    return found, problems


def _prepared(case: Case, folder: Path, cut: bool, max_frames: int | None) -> Case:
    own = case.reference == case.driving
    if not cut and not own:
        return case
    if cut and case.truth is not None:
        raise InputError(f"{case.truth}: a truth of its own cannot be cut; cut all of the case's files yourself")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    driving = _cut_video(case.driving, folder, max_frames) if cut else case.driving
    reference = _first_frame(driving, folder) if own or not case.cross else _cut_picture(case.reference, folder)
    return dataclasses.replace(case, driving=driving, reference=reference)


def _cut_video(path: Path, folder: Path, max_frames: int | None) -> Path:
    """The head-and-shoulders square of every frame, which follows the head as it does in `animate`."""
    output = _place(path, folder, f"{max_frames}", ".mp4")
    if output.exists():
        return output
    with read_video(path, max_frames) as video:
        _, face = find_first_face((frame.pixels for frame in video), FaceFinder(), name=str(path))
    side = _side(FramingConfig().square(face).side)
    steady = SteadyCrop(FaceFinder(), start=face)
    with (
        read_video(path, max_frames) as video,
        VideoWriter(output, side, side, rate=video.info.rate, crf=CRF, comment=COMMENT) as writer,
    ):
        for frame in video:
            writer.write(steady.update(frame.pixels).cut(frame.pixels, side))
    return output


def _cut_picture(path: Path, folder: Path) -> Path:
    picture = load_picture(path)
    square = find_head(picture, FaceFinder(), name=str(path)).square
    return _written(_place(path, folder, "cut", ".png"), crop_square(picture, square, _side(square.side)))


def _first_frame(path: Path, folder: Path) -> Path:
    with read_video(path, 1) as video:
        return _written(_place(path, folder, "first frame", ".png"), next(iter(video)).pixels)


def _written(output: Path, picture: Pixels) -> Path:
    partial = output.with_name(f".{uuid.uuid4().hex[:12]}.png")
    try:
        Image.fromarray(picture).save(partial)
        os.replace(partial, output)
    except OSError as error:
        raise output_error(output, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return output


def _place(path: Path, folder: Path, what: str, suffix: str) -> Path:
    """A name that follows from the contents, so that what is there is what it should be."""
    digest = hashlib.sha256(f"{hashed(path)} {what}".encode()).hexdigest()[:8]
    return folder / f"{path.stem[:100]}-{digest}{suffix}"


def _side(side: float) -> int:
    return min(MOST_SIDE, max(64, 2 * round(side / 2)))
