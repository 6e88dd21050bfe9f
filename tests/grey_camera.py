"""A camera for peers in tests: no tests here."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack
from av.video.frame import VideoFrame

CIRCLE = 160
"""Greys of the camera, one for each frame, over and over."""


class Camera(MediaStreamTrack):
    """Grey pictures, each a little brighter than the one before, 30 a second."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    async def recv(self) -> VideoFrame:
        """The next picture, when it is time."""
        await asyncio.sleep(1 / 30)
        frame = VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + self.sent % CIRCLE, np.uint8), format="rgb24")
        frame.pts, frame.time_base = self.sent * 3000, Fraction(1, 90000)
        self.sent += 1
        return frame
