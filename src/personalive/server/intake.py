"""From what a client sends to a framed picture: decode, find the face, cut. Off the event loop, latest-wins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from personalive.errors import InputError
from personalive.media.frames import Pixels
from personalive.motion.face_crop import SteadyCrop
from personalive.motion.face_finder import FaceFinder
from personalive.server.metrics import Metrics
from personalive.server.session import Driven, Session

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[], None]], object]
"""Runs a function some time, on another thread: `Executor.submit`."""


@dataclass(frozen=True)
class Raw:
    """A frame as it came: how to decode it to (H, W, 3), the client's capture time (ms), when it came (s)."""

    decode: Callable[[], Pixels]
    captured: float | None
    came: float


class Intake:
    """One session's way in. At most one frame waits while another is worked on; a newer one replaces it."""

    def __init__(self, session: Session, side: int, run: Run, came: Callable[[], None], metrics: Metrics) -> None:
        """`side`: of the pictures that drive the model; `came` is called when a framed picture waits for the worker."""
        self._session = session
        self._side = side
        self._run = run
        self._came = came
        self._metrics = metrics
        self._steady: SteadyCrop | None = None
        self._shape: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._next: Raw | None = None
        self._busy = False

    def offer(self, raw: Raw) -> None:
        """A frame that has come; taken if the driving rate wants it."""
        if not self._session.wants(raw.came):
            self._metrics.frames.labels("skipped").inc()
            return
        with self._lock:
            if self._next is not None:
                self._session.drop()
                self._metrics.frames.labels("dropped").inc()
            self._next = raw
            if self._busy:
                return
            self._busy = True
        self._run(self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                raw, self._next = self._next, None
                if raw is None:
                    self._busy = False
                    return
            self._take(raw)

    def _take(self, raw: Raw) -> None:
        try:
            with self._metrics.stage("intake"):
                framed = self._frame(raw.decode())
        except Exception as error:  # whatever it was, the next frame has its chance
            if not isinstance(error, InputError):
                logger.exception("a driving frame could not be used")
            self._metrics.frames.labels("refused").inc()
            return
        before = self._session.dropped
        self._session.put(Driven(framed, raw.captured, raw.came))
        self._metrics.frames.labels("driven").inc()
        self._metrics.frames.labels("dropped").inc(self._session.dropped - before)
        self._came()

    def _frame(self, pixels: Pixels) -> Pixels | None:
        """The head-and-shoulders square (S, S, 3), mirrored where asked; None without a face."""
        if self._steady is None or pixels.shape != self._shape:
            # Another resolution: places in the old one mean nothing.
            self._steady, self._shape = SteadyCrop(FaceFinder()), pixels.shape
        crop = self._steady.update(pixels)
        if not crop.found:
            return None
        square = crop.cut(pixels, self._side)
        return np.ascontiguousarray(square[:, ::-1]) if self._session.controls.mirror else square
