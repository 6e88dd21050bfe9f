"""Painted pixels as JPEG, marked as made by AI; and the badge that an operator can have drawn into them."""

from __future__ import annotations

import functools
import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from personalive.media.frames import Pixels
from personalive.media.video_writer import AI_COMMENT
from personalive.server.session import Chunk, Painted

WORST, BEST = 40, 95
"""JPEG qualities for the quality control's 0 and 1."""


def encode_jpeg(pixels: Pixels, quality: int, comment: str = "") -> bytes:
    """(H, W, 3) as a JPEG file of PIL quality 1 to 95, with a comment where one is given and nothing else."""
    place = io.BytesIO()
    Image.fromarray(pixels).save(place, "JPEG", quality=quality, comment=comment.encode() or None)
    return place.getvalue()


class FrameEncoder:
    """The JPEG of the frame shown now, once for all watchers of a session."""

    def __init__(self) -> None:
        self._last: tuple[Painted, int, bytes] | None = None

    def encode(self, frame: Painted, share: float) -> bytes:
        """The frame at a quality of 0 to 1, its comment saying that it was made by AI."""
        quality = round(WORST + share * (BEST - WORST))
        last = self._last
        if last is not None and last[0] is frame and last[1] == quality:
            return last[2]
        data = encode_jpeg(frame.pixels, quality, AI_COMMENT)
        self._last = (frame, quality, data)
        return data


def badged(chunk: Chunk) -> Chunk:
    """The chunk with "AI" in a corner of every frame."""
    return replace(chunk, frames=[Painted(_badge(frame.pixels), frame.driven) for frame in chunk.frames])


def _badge(pixels: Pixels) -> Pixels:
    drawing, weight = _sign(pixels.shape[0])
    height, width = weight.shape[:2]
    marked: Pixels = pixels.copy()
    corner = marked[-height:, -width:]
    marked[-height:, -width:] = (corner * (1 - weight) + drawing * weight).astype(np.uint8)
    return marked


@functools.cache
def _sign(side: int) -> tuple[Pixels, Pixels]:
    """ "AI", white on dark, about a tenth of a picture of that side high: colours and weights (0 to 1)."""
    size = max(9, side // 10)
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox("AI"))
    pad = max(2, size // 4)
    image = Image.new("RGB", (right - left + 2 * pad, bottom - top + 2 * pad), (20, 20, 20))
    ImageDraw.Draw(image).text((pad - left, pad - top), "AI", fill=(255, 255, 255), font=font)
    drawing = np.array(image)
    return drawing, np.full((*drawing.shape[:2], 1), 0.8)
