"""What a page shows of a case: a strip of moments as JPEG, and a small video side by side as WebM (VP9)."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from personalive.evaluation.cases import Case
from personalive.evaluation.score import Moment, in_step, rate_of
from personalive.media.frames import Pixels, load_picture, resize_to

STRIP = 6  # moments shown of each video
STRIP_SIDE = 128
CLIP_SIDE = 160
CLIP_SECONDS = 8  # of a video that are shown


def strip(case: Case, frames: int) -> bytes:
    """A JPEG of STRIP moments: the drivers above, the results below, the portrait before them."""
    moments = set(np.linspace(0, frames - 1, STRIP).astype(int).tolist())
    portrait = _square(load_picture(case.reference), STRIP_SIDE)
    columns = [np.vstack([portrait, np.full_like(portrait, 128)])]
    for number, moment in enumerate(in_step(case, frames)):
        if number in moments:
            columns.append(np.vstack([_square(moment.driving, STRIP_SIDE), _square(moment.generated, STRIP_SIDE)]))
    content = io.BytesIO()
    Image.fromarray(np.hstack(columns)).save(content, "JPEG", quality=85)
    return content.getvalue()


def clip(case: Case, frames: int) -> bytes:
    """A WebM of the first seconds: portrait, driver, result, and the truth where it has a file of its own."""
    rate = Fraction(rate_of(case.generated)).limit_denominator(1000)
    portrait = _square(load_picture(case.reference), CLIP_SIDE)
    panes = 4 if case.truth is not None else 3
    content = io.BytesIO()
    with av.open(content, "w", format="webm") as container:
        options = {"crf": "36", "b": "0", "deadline": "realtime", "cpu-used": "6"}
        stream: Any = container.add_stream("libvpx-vp9", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = panes * CLIP_SIDE, CLIP_SIDE, "yuv420p"
        for moment in in_step(case, min(frames, max(1, round(CLIP_SECONDS * rate)))):
            frame = VideoFrame.from_ndarray(_row(portrait, moment, case.truth is not None), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return content.getvalue()


def _row(portrait: Pixels, moment: Moment, with_truth: bool) -> Pixels:
    shown = [portrait, _square(moment.driving, CLIP_SIDE), _square(moment.generated, CLIP_SIDE)]
    if with_truth and moment.truth is not None:
        shown.append(_square(moment.truth, CLIP_SIDE))
    return np.ascontiguousarray(np.hstack(shown))


def _square(pixels: Pixels, side: int) -> Pixels:
    """The middle square of a picture at side x side."""
    shortest = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - shortest) // 2, (pixels.shape[1] - shortest) // 2
    return resize_to(pixels[top : top + shortest, left : left + shortest], side, side)
