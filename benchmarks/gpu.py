"""Every figure that waits for a GPU, in one run: speed, memory and error of each fast path at the official size.

Run `python benchmarks/gpu.py --output gpu.json` on a machine with a GPU: one line of JSON for each row as it comes, so
that a run that is cut off loses nothing, and the whole table as Markdown at the end. Random weights.
`--size toy --device cpu` tries the script itself.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalive import config as configs
from personalive.acceleration import offload
from personalive.acceleration.compile import compile_window
from personalive.acceleration.decoder import random_tiny_decoder
from personalive.acceleration.memory import make_plan
from personalive.acceleration.shapes import Shapes
from personalive.config import ModelConfig, override
from personalive.contracts import Keyframes, MotionSignals, Networks, ReferenceFeatures
from personalive.evaluation.bench import BenchReport, bench
from personalive.streaming import engine
from personalive.streaming.state import map_tensors
from personalive.weights.load import build_networks, modules

Change = Callable[[Networks], Networks]

ROWS: dict[str, tuple[torch.dtype, Change]] = {
    "eager fp16": (torch.float16, lambda networks: networks),
    "eager bf16": (torch.bfloat16, lambda networks: networks),
    "fp16, decoder channels last": (torch.float16, lambda networks: channels_last(networks)),
    "fp16, compiled": (torch.float16, compile_window),
    "fp16, compiled, CUDA graphs": (torch.float16, lambda networks: compile_window(networks, "reduce-overhead")),
    "fp16, compiled, tiny decoder": (torch.float16, lambda networks: random_tiny_decoder(compile_window(networks))),
    "fp16, 8GB preset": (torch.float16, lambda networks: small_card(networks)),
    "eager fp32": (torch.float32, lambda networks: networks),
}
"""What is tried: a precision, and what is done to the networks."""


def channels_last(networks: Networks) -> Networks:
    """The autoencoder in the layout that the GPU's convolutions prefer."""
    networks.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def small_card(networks: Networks) -> Networks:
    """What leaves the GPU on a card of 8 GB."""
    device = next(networks.denoising_unet.parameters()).device
    offload.apply(networks, offload.PRESETS["8GB"], device)
    return networks


def in_precision(networks: Networks, device: str, dtype: torch.dtype) -> Networks:
    """A copy on the device."""
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


def measure(base: Networks, name: str, device: str, keyframes: int, chunks: int, exact: Any) -> dict[str, Any]:
    """One row: the bench, and the mean difference of the pictures from float32, in 1/255."""
    dtype, change = ROWS[name]
    begin = time.perf_counter()
    networks = change(in_precision(base, device, dtype))
    report: BenchReport = bench(networks, keyframes, chunks, note=name)
    inputs, expected = exact
    with torch.inference_mode():
        error = (frames_of(networks, keyframes, inputs) - expected).abs().mean().item() * 255
    return {**dataclasses.asdict(report), "error_255": error, "took_s": time.perf_counter() - begin}


def exact_frames(base: Networks, device: str, keyframes: int) -> Any:
    """Random inputs, and what the float32 networks make of them."""
    networks = in_precision(base, device, torch.float32)
    torch.manual_seed(1)
    config = override(base.config, {"stream.keyframes": keyframes})
    shapes = Shapes(config, torch.float32, device)
    reference, slots = shapes.reference(networks)
    inputs = (
        reference,
        slots,
        shapes.signals(config.stream.window_frames),
        shapes.latents(config.stream.window_frames),
    )
    with torch.inference_mode():
        return inputs, frames_of(networks, keyframes, inputs)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| path | window | keyframes | frames/s | chunk ms | window ms | decode ms | UNet share of matrix rate "
        "| peak GB | planned GB | error /255 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['note']} | | {row['keyframes']} | failed: {row['failed']} | | | | | | | |")
            continue
        peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}"
        lines.append(
            f"| {row['note']} | {row['window']} | {row['keyframes']} | {row['frames_per_second']:.2f} "
            f"| {row['chunk_ms']:.1f} | {row['stages']['window']:.1f} | {row['stages']['decode']:.1f} "
            f"| {100 * row['share']:.0f} % | {peak} | {row['planned_gb']:.2f} | {row['error_255']:.3f} |"
        )
    return "\n".join(lines)


def planned(config: ModelConfig, name: str, keyframes: int) -> float:
    """What the memory plan says of a row, GB."""
    policy = offload.PRESETS["8GB" if "8GB" in name else "24GB"]
    return make_plan(config, ROWS[name][0], policy, keyframes).peak / 1e9


def main() -> None:
    """Every row at every number of keyframes, then the low-latency window."""
    parser = argparse.ArgumentParser(description="speed, memory and error of every fast path")
    parser.add_argument("--size", default="official", choices=["official", "mini", "small", "toy"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--keyframes", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    given = parser.parse_args()
    config: ModelConfig = getattr(configs, given.size.upper())
    torch.manual_seed(0)
    whole = build_networks(config)
    low = dataclasses.replace(whole, config=override(config, {"stream.levels": 2, "stream.chunk_frames": 2}))
    plans = [(whole, keyframes, given.rows) for keyframes in given.keyframes]
    plans.append((low, 0, [name for name in given.rows if name in ("eager fp16", "fp16, compiled")]))
    rows: list[dict[str, Any]] = []
    for base, keyframes, names in plans:
        exact = exact_frames(base, given.device, keyframes)
        for name in names:
            try:
                row = measure(base, name, given.device, keyframes, given.chunks, exact)
                row["planned_gb"] = planned(base.config, name, keyframes)
            except Exception as error:  # one path that fails must not cost the others
                row = {"note": name, "keyframes": keyframes, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
            rows.append(row)
            with given.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if given.device.startswith("cuda"):
                torch.cuda.empty_cache()
    print(table(rows))


if __name__ == "__main__":
    main()
