"""Every figure that waits for a GPU: speed, memory and error of each fast path at the official size.

Run `PYTHONPATH=src:tests python benchmarks/gpu.py --output gpu.json` on a machine with a GPU, again and again until it
says that nothing is left: each call stops beginning rows after `--minutes` and goes on where the file ends. The file
has a line of JSON for each row; the tables for docs/performance.md are printed at the end of each call. Random
weights. `--dry-run` runs every row on toy networks on the CPU, for the script's own sake.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_checks
import torch
from quantisation import Fp8, replaced
from torch import Tensor

from personalive import config as configs
from personalive.acceleration import offload
from personalive.acceleration.choice import KINDS, choose_runtime
from personalive.acceleration.compile import compile_window
from personalive.acceleration.decoder import random_tiny_decoder
from personalive.acceleration.memory import make_plan
from personalive.acceleration.shapes import Shapes
from personalive.config import ModelConfig, override
from personalive.contracts import Keyframes, MotionSignals, Networks, ReferenceFeatures
from personalive.evaluation.bench import bench
from personalive.streaming import engine
from personalive.streaming.state import map_tensors
from personalive.weights.load import modules

LOW_LATENCY = {"stream.levels": 2, "stream.chunk_frames": 2}


@dataclass
class Try:
    """A row as it is tried: for how many keyframes, whether dry, and what it wants to be noted."""

    keyframes: int
    dry: bool
    noted: dict[str, Any] = field(default_factory=dict)


Change = Callable[[Networks, Try], Networks]


def as_it_is(networks: Networks, given: Try) -> Networks:
    """Eager."""
    del given
    return networks


def compiled(mode: str | None = None) -> Change:
    """torch.compile; dry, without its compiler, which takes minutes."""
    return lambda networks, given: compile_window(networks, mode, "eager" if given.dry else "inductor")


def exported(kind: str) -> Change:
    """A file made and opened; dry, an ONNX file, which a CPU makes in seconds."""

    def change(networks: Networks, given: Try) -> Networks:
        chosen = KINDS["onnxruntime" if given.dry else kind]
        with tempfile.TemporaryDirectory() as folder:
            path, begun = Path(folder) / f"window{chosen.suffix}", time.perf_counter()
            chosen.write(networks, path, given.keyframes)
            made = time.perf_counter()
            swapped = choose_runtime(networks, str(path), Path(folder))
            given.noted |= {"made_s": made - begun, "opened_s": time.perf_counter() - made}
            given.noted["file_mb"] = path.stat().st_size / 1e6
        return swapped

    return change


def channels_last(networks: Networks, given: Try) -> Networks:
    """The autoencoder in the layout that the GPU's convolutions prefer."""
    del given
    networks.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def small_card(networks: Networks, given: Try) -> Networks:
    """What leaves the GPU on a card of 8 GB."""
    del given
    device = next(networks.denoising_unet.parameters()).device
    offload.apply(networks, offload.PRESETS["8GB"], device)
    return networks


def tiny(networks: Networks, given: Try) -> Networks:
    """Compiled, and a tiny decoder where it fits (it does not fit the toy)."""
    networks = compiled()(networks, given)
    return networks if given.dry else random_tiny_decoder(networks)


def fp8(networks: Networks, given: Try) -> Networks:
    """Linear layers of the UNet in eight bits, compiled."""
    return compiled()(replaced(networks, Fp8), given)


HALF, BRAIN = torch.float16, torch.bfloat16
ROWS: dict[str, tuple[torch.dtype, Change]] = {
    "eager fp16": (HALF, as_it_is),
    "fp16, compiled": (HALF, compiled()),
    "fp16, compiled, tiny decoder": (HALF, tiny),
    "fp16, compiled, CUDA graphs": (HALF, compiled("reduce-overhead")),
    "fp16, package": (HALF, exported("aoti")),
    "fp16, TensorRT": (HALF, exported("tensorrt")),
    "eager bf16": (BRAIN, as_it_is),
    "fp16, decoder channels last": (HALF, channels_last),
    "fp16, 8GB preset": (HALF, small_card),
    "eager fp32": (torch.float32, as_it_is),
    "bf16, fp8 linear layers, compiled": (BRAIN, fp8),
}
"""What is tried, most telling first: a precision, and what is done to the networks."""

LOW_ROWS = ("eager fp16", "fp16, compiled")


def in_precision(networks: Networks, device: str, dtype: torch.dtype) -> Networks:
    """A copy on the device. Dry, float32: half precision on a CPU is no fast path, and ONNX there is for float32."""
    dtype = dtype if device.startswith("cuda") else torch.float32
    copies: dict[str, Any] = {
        name: copy.deepcopy(module).to(device, dtype) for name, module in modules(networks).items()
    }
    return dataclasses.replace(networks, **copies)


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
    """One row: the bench, and the mean difference of the pictures from float32, in 1/255."""
    dtype, change = ROWS[name]
    begin = time.perf_counter()
    networks = change(in_precision(base, device, dtype), given)
    report = bench(networks, given.keyframes, chunks, note=name)
    inputs, expected = exact
    with torch.inference_mode():
        error = (frames_of(networks, given.keyframes, inputs) - expected).abs().mean().item() * 255
    took = time.perf_counter() - begin
    policy = offload.PRESETS["8GB"] if "8GB" in name else offload.IN_PLACE  # the bench decodes beside nothing
    planned = make_plan(base.config, dtype, policy, given.keyframes).peak / 1e9
    return {**dataclasses.asdict(report), **given.noted, "error_255": error, "took_s": took, "planned_gb": planned}


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


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the paths, and under it what the checks say."""
    lines = [
        "| path | window | keyframes | frames/s | chunk ms | window ms | decode ms | UNet share of matrix rate "
        "| peak GB | planned GB | error /255 | made, opened s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    said = ["", "| check | |", "|---|---|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['note']} | | {row['keyframes']} | failed: {row['failed']} | | | | | | | | |")
        elif "stages" not in row:
            values = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("note", "key"))
            said.append(f"| {row['note']} | {values} |")
        else:
            peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}"
            made = f"{row['made_s']:.1f}, {row['opened_s']:.1f}" if "made_s" in row else ""
            lines.append(
                f"| {row['note']} | {row['window']} | {row['keyframes']} | {row['frames_per_second']:.2f} "
                f"| {row['chunk_ms']:.1f} | {row['stages']['window']:.1f} | {row['stages']['decode']:.1f} "
                f"| {100 * row['share']:.0f} % | {peak} | {row['planned_gb']:.2f} | {row['error_255']:.3f} | {made} |"
            )
    return "\n".join(lines + said)


def jobs(base: Networks, given: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every row and every check by its key, in their order."""
    low = dataclasses.replace(base, config=override(base.config, LOW_LATENCY))
    exact: dict[str, Any] = {}
    found: dict[str, Callable[[], dict[str, Any]]] = {}

    def row(networks: Networks, name: str, keyframes: int, window: str) -> dict[str, Any]:
        about = f"{window}, {keyframes}"
        if about not in exact:
            exact.clear()  # one at a time: it takes memory
            exact[about] = exact_frames(networks, given.device, keyframes)
        return measure(networks, name, given.device, Try(keyframes, given.dry_run), given.chunks, exact[about])

    for name, check in gpu_checks.CHECKS.items():
        found[name] = lambda check=check: check(in_precision(base, given.device, HALF), given.dry_run)  # type: ignore[misc]
    for keyframes in given.keyframes:
        for name in ROWS:
            found[f"{name}, {keyframes} keyframes"] = lambda n=name, k=keyframes: row(base, n, k, "own")  # type: ignore[misc]
    for name in LOW_ROWS:
        found[f"{name}, low latency"] = lambda n=name: row(low, n, 0, "low")  # type: ignore[misc]
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
        if given.device.startswith("cuda"):
            torch.cuda.empty_cache()
    print(table(done))
    print(f"\nleft, call again: {', '.join(left)}" if left else "\nnothing is left")


if __name__ == "__main__":
    main()
