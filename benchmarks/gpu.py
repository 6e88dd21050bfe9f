"""Every figure that waits for a GPU: speed, memory and error of each fast path at the official size.

Run `PYTHONPATH=src:tests python benchmarks/gpu.py --output gpu.json` on a machine with a GPU, again and again until it
says that nothing is left: each call stops beginning rows after `--minutes` and goes on where the file ends. The file
has a line of JSON for each row; the tables for docs/performance.md are printed at the end of each call. Random
weights. `--dry-run` runs every row on toy networks on the CPU, for the script's own sake.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gpu_checks
import torch
from gpu_report import report_of
from gpu_rows import FIRST_ROWS, LOW_ROWS, ROWS, Try, in_precision
from torch import Tensor

from personalive import config as configs
from personalive.acceleration import offload
from personalive.acceleration.memory import make_plan
from personalive.acceleration.shapes import Shapes
from personalive.choices import with_window
from personalive.config import ModelConfig, override
from personalive.contracts import Keyframes, MotionSignals, Networks, ReferenceFeatures
from personalive.evaluation.bench import bench
from personalive.streaming import engine
from personalive.streaming.state import map_tensors

LOW_LATENCY = "2x2"
CHUNK = ("motion", "pose", "window", "decode")
"""The memory plan's stages of a chunk."""


def frames_of(networks: Networks, keyframes: int, inputs: tuple[Any, ...]) -> Tensor:
    """The pictures of one window's oldest chunk, float32 on the CPU."""
    reference, slots, window, latents = inputs
    parameter = next(networks.denoising_unet.parameters())

    def fitting(tensor: Tensor) -> Tensor:
        return tensor.to(parameter.device, parameter.dtype if tensor.is_floating_point() else tensor.dtype)

    shown: ReferenceFeatures = map_tensors(fitting, reference)
    driven: MotionSignals = map_tensors(fitting, window)
    kept = Keyframes(map_tensors(fitting, slots.key_values), slots.used) if keyframes else None
    clean = engine.denoise(networks, shown, latents.to(parameter.device), driven, kept)
    chunk = clean[0, : networks.config.stream.chunk_frames]
    return networks.autoencoder.decode(chunk.to(parameter.dtype)).float().cpu()


def measure(base: Networks, name: str, device: str, given: Try, chunks: int, exact: Any) -> dict[str, Any]:
    """One row: the bench, the mean difference of the pictures from float32 in 1/255, and what was planned.

    peak_gb is the row's own: what lay on the device before does not count. Planned are the stages of a chunk; portrait
    and keyframe are the check's "8 GB card".
    """
    dtype, change = ROWS[name]
    begin = time.perf_counter()
    others = torch.cuda.memory_allocated(device) / 1e9 if device.startswith("cuda") else 0.0
    inputs, expected = exact
    with given.until:
        networks = change(in_precision(base, device, dtype), given)
        report = dataclasses.asdict(bench(networks, given.keyframes, chunks, note=name))
        with torch.inference_mode():
            error = (frames_of(networks, given.keyframes, inputs) - expected).abs().mean().item() * 255
    took = time.perf_counter() - begin
    if report["peak_gb"] is not None:
        report["peak_gb"] -= others
    policy = offload.PRESETS["8GB"] if "8GB" in name else offload.IN_PLACE  # the bench decodes beside nothing
    plan = make_plan(base.config, dtype, policy, given.keyframes)
    planned = max(plan.at(stage) for stage in CHUNK) / 1e9
    delay = delay_ms(base.config, report["frames_per_second"], report["chunk_ms"])
    return {**report, **given.noted, "error_255": error, "took_s": took, "planned_gb": planned, "delay_ms": delay}


def delay_ms(config: ModelConfig, frames_per_second: float, chunk_ms: float, camera: float = 30.0) -> float:
    """From a frame that a camera of so many frames a second takes to its picture: the window's frames, and a chunk.

    A slower model gets as many frames as it can take. Without transport and drawing.
    """
    return (config.stream.window_frames - 1) / min(camera, frames_per_second) * 1e3 + chunk_ms


def exact_frames(base: Networks, device: str, keyframes: int) -> Any:
    """Random inputs, and what the float32 networks make of them."""
    networks = in_precision(base, device, torch.float32)
    torch.manual_seed(1)
    config = override(base.config, {"stream.keyframes": keyframes})
    shapes = Shapes(config, torch.float32, device)
    reference, slots = shapes.reference(networks)
    frames = config.stream.window_frames
    inputs = (reference, slots, shapes.signals(frames), shapes.latents(frames))
    with torch.inference_mode():
        return inputs, frames_of(networks, keyframes, inputs)


def jobs(base: Networks, given: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every row and every check by its key, in their order."""
    low = dataclasses.replace(base, config=with_window(base.config, LOW_LATENCY))
    exact: dict[str, Any] = {}
    found: dict[str, Callable[[], dict[str, Any]]] = {}

    def row(networks: Networks, name: str, keyframes: int, window: str) -> dict[str, Any]:
        about = f"{window}, {keyframes}"
        if about not in exact:
            exact.clear()  # one at a time: it takes memory
            exact[about] = exact_frames(networks, given.device, keyframes)
        return measure(networks, name, given.device, Try(keyframes, given.dry_run), given.chunks, exact[about])

    def check(*names: str) -> None:
        for key in gpu_checks.CHECKS:
            if key.startswith(names) and key not in found:
                found[key] = functools.partial(gpu_checks.CHECKS[key], base, given.device, given.dry_run)

    def rows(names: Iterable[str], keyframes: int) -> None:
        for name in names:
            found.setdefault(f"{name}, {keyframes} keyframes", functools.partial(row, base, name, keyframes, "own"))

    most, *fewer = given.keyframes
    check("no ", "8 GB card", "frames/s", "golden, eager")
    rows(FIRST_ROWS, most)
    for name in LOW_ROWS:
        found[f"{name}, low latency"] = functools.partial(row, low, name, 0, "low")
    check("warm start", *(f"golden, {name}" for name in FIRST_ROWS))
    for keyframes in fewer:
        rows(FIRST_ROWS, keyframes)
    rows(ROWS, most)
    check("golden")
    return {
        key: job for key, job in found.items() if not given.rows or any(key.startswith(part) for part in given.rows)
    }


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description="speed, memory and error of every fast path")
    parser.add_argument("--size", default="official", choices=["official", "mini", "small", "toy"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--keyframes", type=int, nargs="+", default=[3, 0])
    parser.add_argument("--rows", nargs="+", default=[], help="only those that begin so")
    parser.add_argument("--minutes", type=float, default=7, help="no row is begun later than this")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(arguments)
    if given.dry_run:
        given.size, given.device, given.chunks = "toy", "cpu", 1
    return given


def main(arguments: list[str] | None = None) -> None:
    """Whatever the output file has not yet, as far as the time goes."""
    began, given = time.monotonic(), options(arguments)
    config: ModelConfig = getattr(configs, given.size.upper())
    torch.manual_seed(0)
    # The yardstick is float32: torch would take TF32 for convolutions, with a mantissa as short as half precision's.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    done = [json.loads(line) for line in given.output.read_text().splitlines()] if given.output.exists() else []
    base = gpu_checks.filled(config, given.device)
    left = {key: job for key, job in jobs(base, given).items() if key not in {row["key"] for row in done}}
    while left and time.monotonic() - began < 60 * given.minutes:
        key = next(iter(left))
        job = left.pop(key)
        try:
            row = {"note": key, **job(), "key": key}
        except Exception as error:  # one path that fails must not cost the others
            keyframes = key.rpartition(", ")[2]
            row = {"note": key, "keyframes": keyframes, "key": key,
                   "failed": f"{type(error).__name__}: {str(error)[:200]}"}  # fmt: skip
        done.append(row)
        with given.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        torch._dynamo.reset()  # graphs of rows that are over would count towards a limit
        if given.device.startswith("cuda"):
            torch.cuda.empty_cache()
    print(report_of(done))
    print(f"\nleft, call again: {', '.join(left)}" if left else "\nnothing is left")


if __name__ == "__main__":
    main()
