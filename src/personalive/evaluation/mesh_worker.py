"""The face mesh in a process of its own, so that mediapipe may live in another environment than the product.

Run by path, with any Python that has mediapipe 0.10 and numpy. It says READY, then takes frames on
stdin (height and width as two little-endian uint32, then RGB bytes) and gives for each, on stdout, POINTS points
(x, y, z) as little-endian float32, in pixels, z towards the picture; NaN where there is no face. Its models come inside
mediapipe's wheel (Apache-2.0): nothing is fetched. Every frame is read on its own.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any, BinaryIO

import numpy as np

READY = b"ready\n"
SIZE = struct.Struct("<II")
POINTS = 478
"""468 of the face, then five of each iris, its middle first: 468 of the person's right eye, 473 of the left."""


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what mediapipe prints must not come between the answers
    from mediapipe.python.solutions.face_mesh import FaceMesh

    mesh = FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1)
    answers.write(READY)
    answers.flush()
    frames = sys.stdin.buffer
    while True:
        size = frames.read(SIZE.size)
        if len(size) < SIZE.size:
            return
        answers.write(_points(mesh, frames, *SIZE.unpack(size)).tobytes())
        answers.flush()


def _points(mesh: Any, frames: BinaryIO, height: int, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    picture = np.frombuffer(frames.read(height * width * 3), np.uint8).reshape(height, width, 3)
    found = mesh.process(picture).multi_face_landmarks
    if not found:
        return np.full((POINTS, 3), np.nan, "<f4")
    places = np.array([[point.x, point.y, point.z] for point in found[0].landmark])
    return (places * (width, height, width)).astype("<f4")


if __name__ == "__main__":
    main()
