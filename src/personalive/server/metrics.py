"""What the server counts and measures, for Prometheus; one registry for each app, so that several can live together."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_STAGE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
_DELAY_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 10)


class Metrics:
    """Counters of one app. Safe to use from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.stages = Histogram(
            "personalive_stage_seconds",
            "Seconds of a stage: intake (decode and crop), portrait, step (the networks), encode (the JPEG).",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self.delay = Histogram(
            "personalive_delay_seconds",
            "From the arrival of a driving frame to the showing of its painted frame.",
            buckets=_DELAY_BUCKETS,
            registry=self.registry,
        )
        self.frames = Counter(
            "personalive_frames",
            "Frames: driven, skipped (above the driving rate), dropped (late), refused (no picture), shown.",
            ["fate"],
            registry=self.registry,
        )
        self.batch = Histogram(
            "personalive_batch_sessions",
            "Sessions in a batch.",
            buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
            registry=self.registry,
        )
        self.sessions = Gauge("personalive_sessions", "Sessions now.", registry=self.registry)
        self.capacity = Gauge("personalive_capacity", "Sessions that fit, 0: not measured.", registry=self.registry)
        self.depth = Gauge(
            "personalive_queue_frames", "Driving frames that wait for a step, all sessions.", registry=self.registry
        )
        self.gpu_memory = Gauge("personalive_gpu_memory_bytes", "Of torch on its device.", registry=self.registry)
        self.failures = Counter("personalive_failures", "Steps that failed.", registry=self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a stage; `perf_counter`, whatever clock the sessions run by."""
        began = time.perf_counter()
        yield
        self.stages.labels(name).observe(time.perf_counter() - began)

    def note_gpu_memory(self) -> None:
        """Asks torch, if it is there and uses a GPU."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            self.gpu_memory.set(torch.cuda.memory_allocated())

    def text(self) -> bytes:
        """The current values in Prometheus' text format."""
        return generate_latest(self.registry)
