"""ffmpeg's WHIP sender (its muxer, in PyAV's libraries): a program of its own, as it waits with Python's lock held.

    python ffmpeg_peer.py http://127.0.0.1:8000/whip/studio certificate.pem key.pem

It sends grey pictures until its standard input ends.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

RATE = 15


def main() -> None:
    address, certificate, key = sys.argv[1:]
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    options = {"cert_file": certificate, "key_file": key}
    with av.open(address, "w", format="whip", options=options) as film:
        quick: dict[str, Any] = {"profile": "baseline", "preset": "ultrafast", "tune": "zerolatency", "g": str(RATE)}
        stream = cast(VideoStream, film.add_stream("libx264", rate=RATE, options=quick))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        number = 0
        while not over.wait(1 / RATE):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + number % 160, np.uint8), format="rgb24")
            frame.pts = number
            film.mux(stream.encode(frame))
            number += 1


if __name__ == "__main__":
    main()
