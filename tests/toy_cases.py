"""Toy cases for evaluations: coloured videos, and a reader that sees them: no tests here."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from personalive.evaluation.yardstick import IDENTITY_SIZE, SIGNALS, Reading, unit
from personalive.media.frames import Pixels
from toy_video import make_video

SIDE, FRAMES = 48, 30
Folders = tuple[Path, Path, Path]


class BrightnessReader:
    """Every signal is the brightness, the identity the mean colour; a dark picture shows nobody."""

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        if frames.mean() < 30:
            return None
        colour = unit(frames.mean((1, 2)) - 128)
        padded = np.pad(colour, ((0, 0), (0, IDENTITY_SIZE - 3)))
        return Reading(np.tile(frames.mean((1, 2, 3))[:, None], len(SIGNALS)), padded)


def frame(index: int, delay: int = 0, colour: tuple[int, int, int] = (200, 90, 60)) -> Pixels:
    """A coloured picture with a bright bar that comes and goes."""
    pixels = np.full((SIDE, SIDE, 3), colour, np.uint8)
    pixels[: round(12 + 10 * math.sin((index - delay) / 3))] = 250
    return pixels


def video(path: Path, frames: int = FRAMES, **kind: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    draw = partial(frame, **kind)  # type: ignore[arg-type]
    return make_video(path, frames, size=(SIDE, SIDE), draw=draw, codec="ffv1", pixel_format="bgr0")


def make_folders(tmp_path: Path) -> Folders:
    """generated/a.mkv, driving/a.mkv, reference/a.png: the output is the truth."""
    video(tmp_path / "driving" / "a.mkv")
    video(tmp_path / "generated" / "a.mkv")
    (tmp_path / "reference").mkdir()
    Image.fromarray(frame(0)).save(tmp_path / "reference" / "a.png")
    return tmp_path / "generated", tmp_path / "driving", tmp_path / "reference"
