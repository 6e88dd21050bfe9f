"""`personalive export`: the window's UNet pass as a file for other runtimes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from personalive.errors import ConfigError
from personalive.reporting import reported

KINDS = {"onnx": ".onnx", "aoti": ".pt2", "tensorrt": ".engine"}


@reported
def export_window(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file: .onnx, .pt2 for aoti, .engine for tensorrt.")
    ],
    to: Annotated[str, typer.Option("--to", help=f"One of {', '.join(KINDS)}.")] = "onnx",
    model: Annotated[str, typer.Option(help="A model by name or path, as for `animate`.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    keyframes: Annotated[int, typer.Option(help="For how many keyframes in use; a file serves one number.")] = 0,
) -> None:
    """Write the window's UNet pass, with fixed shapes: ONNX, or compiled ahead of time for this device."""
    if to not in KINDS:
        raise ConfigError(f"there is no export to {to!r}; choose one of {', '.join(KINDS)}")
    if output.suffix != KINDS[to]:
        raise ConfigError(f"{output}: an export to {to} ends in {KINDS[to]}")
    if to == "tensorrt":
        importlib.import_module(to)  # before a model is loaded for nothing
    from personalive.acceleration.export import export_onnx, export_package
    from personalive.acceleration.tensorrt import export_engine
    from personalive.device import precision_named
    from personalive.pipeline import PersonaLive

    dtype = precision_named(precision)
    networks = PersonaLive.from_pretrained(model, device, dtype, tell=lambda line: typer.echo(line, err=True)).networks
    write = {"onnx": export_onnx, "aoti": export_package, "tensorrt": export_engine}[to]
    written = write(networks, output, keyframes)
    size = written.stat().st_size / 1e6
    typer.echo(
        f"{written}: {size:.1f} MB, {keyframes} keyframes, with {written.name}.json; use it by --runtime {written}"
    )
