"""How fast a model streams on a device: milliseconds of each stage, frames a second, memory, operations.

Burn-in first; the device is synchronised around every measured piece; medians. Random weights do.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from personalive.acceleration.decoder import decodes_tiny, random_tiny_decoder
from personalive.acceleration.shapes import Shapes, stages_of
from personalive.config import ModelConfig, override
from personalive.contracts import Keyframes, KeyValues, MotionSignals, Networks
from personalive.device import describe_device, fetch, send
from personalive.media.frames import Pixels, as_levels, from_levels, to_levels
from personalive.motion import signals
from personalive.motion.signals import Observation
from personalive.streaming import engine
from personalive.streaming.state import StreamState
from personalive.warp.compose import guide_of, read_portrait, with_expression
from personalive.warp.driver import watch_driver
from personalive.weights.load import build_networks, modules

Clock = Callable[[], float]

PER_CHUNK = ("transfer in", "motion", "pose", "warp", "window", "decode", "compose", "transfer out")
"""The stages of a chunk, in their order; `warp` and `compose` where the model has a reference warp."""


@dataclass(frozen=True)
class BenchReport:
    """What was measured. stages, chunk_ms: median milliseconds; the chunk is measured by itself, not added up.

    tflop: operations of the stages, two for each multiply-accumulate; matrix_tflops: what the device does on one large
    matrix product in this precision, measured; share: of that, what the window's UNet pass reaches. peak_gb: on a GPU.
    """

    model: str
    device: str
    dtype: str
    image_size: int
    output_size: int
    window: str
    keyframes: int
    chunks: int
    stages: dict[str, float]
    chunk_ms: float
    frames_per_second: float
    first_chunk_ms: float
    tflop: dict[str, float]
    matrix_tflops: float
    share: float
    peak_gb: float | None = None
    note: str = ""

    def to_json(self) -> str:
        """Everything, for machines."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @property
    def size(self) -> str:
        """Sides of the pictures, in words: what the networks compute at, and what comes out where that is another."""
        plain = f"{self.image_size} px"
        return plain if self.output_size == self.image_size else f"{plain}, pictures of {self.output_size} px"

    def to_table(self) -> str:
        """Markdown, for people."""
        lines = [
            f"{self.model}, {self.size}, {self.dtype}, {self.window}, {self.keyframes} keyframes, "
            f"{self.device}{', ' + self.note if self.note else ''}; median of {self.chunks} chunks",
            "",
            "| stage | ms per chunk | TFLOP | TFLOP/s |",
            "|---|---|---|---|",
        ]
        for stage, milliseconds in self.stages.items():
            work = self.tflop.get(stage)
            cells = f"{work:.4f} | {work / milliseconds * 1e3:.3f}" if work else "|"
            lines.append(f"| {stage} | {milliseconds:.2f} | {cells} |")
        peak = "" if self.peak_gb is None else f"; {self.peak_gb:.2f} GB at the peak"
        lines += [
            f"| whole chunk | {self.chunk_ms:.2f} | {sum(self.tflop.values()):.4f} | |",
            "",
            f"{self.frames_per_second:.2f} frames/s; first chunk {self.first_chunk_ms / 1e3:.2f} s; the UNet does "
            f"{100 * self.share:.0f} % of the {self.matrix_tflops:.3f} TFLOP/s measured on matrices{peak}",
        ]
        return "\n".join(lines)


@torch.inference_mode()
def bench(
    networks: Networks,
    keyframes: int = 0,
    chunks: int = 10,
    burn_in: int = 2,
    clock: Clock = time.perf_counter,
    note: str = "",
) -> BenchReport:
    """Measure one session. keyframes: how many slots are in use from the start; no more are admitted.

    The networks' precision and device are what is measured.
    """
    networks = _without_admission(networks, keyframes)
    config = networks.config
    parameter = next(networks.denoising_unet.parameters())
    timer = _Timer(clock, parameter.device)
    session = _Session(networks, keyframes)
    if parameter.is_cuda:
        torch.cuda.reset_peak_memory_stats(parameter.device)
    first = timer.time(session.chunk)
    for _ in range(burn_in):
        session.chunk()
    whole = [timer.time(session.chunk) for _ in range(chunks)]
    stages: dict[str, list[float]] = {stage: [] for stage in session.stages}
    for _ in range(chunks):
        session.chunk(lambda stage, piece: stages[stage].append(timer.time(piece)))
    medians = {stage: statistics.median(times) for stage, times in stages.items()}
    tflop = count_tflop(config, keyframes, tiny=decodes_tiny(networks))
    rate = matrix_tflops(parameter.device, parameter.dtype, timer)
    chunk_ms = statistics.median(whole)
    return BenchReport(
        model=config.name,
        device=describe_device(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        image_size=config.image_size,
        output_size=config.output_size,
        window=f"{config.stream.levels} levels of {config.stream.chunk_frames} frames",
        keyframes=keyframes,
        chunks=chunks,
        stages=medians,
        chunk_ms=chunk_ms,
        frames_per_second=config.stream.chunk_frames / chunk_ms * 1e3,
        first_chunk_ms=first,
        tflop=tflop,
        matrix_tflops=rate,
        share=tflop["window"] / medians["window"] * 1e3 / rate,
        peak_gb=torch.cuda.max_memory_allocated(parameter.device) / 1e9 if parameter.is_cuda else None,
        note=note,
    )


def count_tflop(config: ModelConfig, keyframes: int, tiny: bool = False) -> dict[str, float]:
    """TFLOP of a chunk's stages: convolutions, linear layers and attention, counted without computing.

    tiny: decoded by the tiny decoder.
    """
    config = override(config, {"stream.keyframes": keyframes})
    networks = build_networks(config, "meta")
    for module in modules(networks).values():
        module.to("meta")
    networks = random_tiny_decoder(networks) if tiny else networks
    shapes = Shapes(config)
    reference, slots = shapes.reference(networks)
    stages = stages_of(networks, shapes, reference, shapes.signals(config.stream.window_frames), slots)
    counts = {}
    for stage in [stage for stage in PER_CHUNK if stage in stages]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            stages[stage]()
        counts[stage] = counter.get_total_flops() / 1e12
    return counts


def matrix_tflops(device: torch.device, dtype: torch.dtype, timer: _Timer, side: int | None = None) -> float:
    """TFLOP/s of one large square matrix product: what the device can do, as a yardstick."""
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = [timer.time(lambda: a @ b) for _ in range(12)]
    return 2 * side**3 / statistics.median(times[2:]) * 1e3 / 1e12


class _Timer:
    """Milliseconds of a piece of work, the device synchronised on both sides."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self._clock, self._device = clock, device

    def time(self, piece: Callable[[], object]) -> float:
        self._synchronise()
        begin = self._clock()
        piece()
        self._synchronise()
        return (self._clock() - begin) * 1e3

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


Around = Callable[[str, Callable[[], object]], object]


def _plainly(stage: str, piece: Callable[[], object]) -> None:
    del stage
    piece()


class _Session:
    """A stream by its pieces, on random pictures, so that each can be measured."""

    def __init__(self, networks: Networks, keyframes: int) -> None:
        self.networks = networks
        config = networks.config
        generator = np.random.default_rng(0)
        side, chunk = config.driver_size, config.stream.chunk_frames
        self.frames: Pixels = generator.integers(0, 256, (chunk, side, side, 3), dtype=np.uint8)
        portrait = generator.integers(0, 256, (config.output_size, config.output_size, 3), dtype=np.uint8)
        self.reference, own = signals.encode_reference(networks, portrait)
        layers = read_portrait(networks, portrait, own)
        self.own, self.guide = with_expression(own, layers), guide_of(networks, layers)
        self.first, self.driver = watch_driver(networks, from_levels(as_levels(self.frames[0])))
        lead_in = signals.lead_in(networks, self.own, self.own)
        state = engine.start(networks, self.reference, lead_in, 0, reference_motion=self.own.motion)
        self.state = _with_keyframes(state, keyframes)
        self.device = self.reference.latents.device
        self.given: dict[str, Any] = {}

    def chunk(self, around: Around = _plainly) -> Pixels:
        """One chunk, stage by stage; `around` runs each."""
        for stage, piece in self._pieces().items():
            around(stage, piece)
        painted: Pixels = self.given["pixels"]
        return painted

    @property
    def stages(self) -> list[str]:
        """Names of the stages of a chunk, those of `PER_CHUNK` that this model has."""
        return list(self._pieces())

    def _pieces(self) -> dict[str, Callable[[], object]]:
        steps = (self._bring, self._observe, self._drive, self._warp, self._denoise, self._decode, self._compose)
        pieces: dict[str, Callable[[], object]] = dict(zip(PER_CHUNK, (*steps, self._fetch), strict=True))
        if self.guide is None:
            del pieces["warp"], pieces["compose"]
        return pieces

    def _bring(self) -> None:
        self.given["images"] = torch.cat([from_levels(send(as_levels(frame), self.device)) for frame in self.frames])

    def _observe(self) -> None:
        self.given["seen"], _ = watch_driver(self.networks, self.given["images"], self.driver)

    def _drive(self) -> None:
        def note(target: Observation) -> Tensor:
            """Nothing to add yet: the warp is a stage of its own."""
            self.given["target"] = target
            return target.motion.new_zeros(())

        guide = None if self.guide is None else note
        self.given["signals"] = signals.drive(self.networks, self.own, self.first, self.given["seen"], guide=guide)

    def _warp(self) -> None:
        assert self.guide is not None
        driving: MotionSignals = self.given["signals"]
        self.given["signals"] = MotionSignals(driving.motion, driving.pose + self.guide(self.given["target"])[None])

    def _denoise(self) -> None:
        self.state, self.given["latents"] = engine.step(self.networks, self.state, self.given["signals"])

    def _decode(self) -> None:
        latents: Tensor = self.given["latents"][0]
        self.given["frames"] = self.networks.autoencoder.decode(latents.to(self.reference.latents.dtype))

    def _compose(self) -> None:
        assert self.guide is not None
        self.given["frames"] = self.guide.composed(self.given["frames"])

    def _fetch(self) -> None:
        self.given["pixels"] = fetch(to_levels, self.given["frames"]).wait().numpy()


def _without_admission(networks: Networks, keyframes: int) -> Networks:
    """The same networks with so many slots, and no frame ever far enough to become a keyframe."""
    fixed = override(networks.config, {"stream.keyframes": keyframes, "stream.tau": 1e30})
    return dataclasses.replace(networks, config=fixed)


def _with_keyframes(state: StreamState, keyframes: int) -> StreamState:
    """The state as if all slots had been filled, with the reference's own features, long enough ago to count."""

    def fill(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part[:, None].repeat(1, keyframes, 1, 1, 1) for part in parts)

    own = state.reference.key_values
    used = torch.ones_like(state.keyframes.used)
    filled = Keyframes(KeyValues(fill(own.keys), fill(own.values)), used)
    return dataclasses.replace(state, keyframes=filled, steps=state.steps + 100)
