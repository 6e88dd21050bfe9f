"""`personalive bench speed`: how fast a model streams here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from personalive.errors import ConfigError
from personalive.reporting import reported

SIZES = ("official", "mini", "small", "toy")


@reported
def measure_speed(
    model: Annotated[str, typer.Option(help="A model by name or path, as for `animate`.")] = "mini",
    random: Annotated[
        str | None, typer.Option(help=f"Instead of a model, random weights at one of the sizes {', '.join(SIZES)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    keyframes: Annotated[int, typer.Option(help="Keyframe slots in use, 0 to 8.")] = 0,
    chunks: Annotated[int, typer.Option(help="How many are measured.")] = 10,
    image_size: Annotated[int | None, typer.Option(help="With --random: another side of the pictures.")] = None,
    decoder: Annotated[str, typer.Option(help="vae (the model's own), taesd (tiny), or a file.")] = "vae",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the window's UNet pass first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measure a stream of one session: milliseconds of each stage, frames/s, memory, operations.

    Medians after a burn-in, the device synchronised around every piece.
    """
    if random is not None and random not in SIZES:
        raise ConfigError(f"there is no size {random!r}; choose one of {', '.join(SIZES)}")
    if not 0 <= keyframes <= 8 or chunks < 1:
        raise ConfigError("--keyframes is from 0 to 8, and --chunks at least 1")
    import torch

    from personalive import config as configs
    from personalive.device import choose_device, precision_named
    from personalive.evaluation.bench import bench

    dtype, note = precision_named(precision), ""
    if random is None:
        from personalive.pipeline import PersonaLive

        tell = lambda line: typer.echo(line, err=True)  # noqa: E731
        networks = PersonaLive.from_pretrained(_path_or_name(model), device, dtype, decoder=decoder, tell=tell).networks
    else:
        from personalive.weights.load import build_networks

        place = choose_device(device)
        sizes: Any = getattr(configs, random.upper())
        if image_size is not None:
            sizes = configs.override(sizes, {"image_size": image_size})
        half = random == "official" and place.type == "cuda"
        networks = build_networks(sizes, place, dtype or (torch.float16 if half else torch.float32))
        note = "random weights"
        if decoder == "taesd":
            from personalive.acceleration.decoder import random_tiny_decoder

            networks = random_tiny_decoder(networks)
        elif decoder != "vae":
            raise ConfigError("with --random, --decoder is vae or taesd")
    if decoder != "vae":
        note = ", ".join(filter(None, [note, f"decoder {decoder}"]))
    if compiled:
        from personalive.acceleration.compile import compile_window

        networks, note = compile_window(networks), ", ".join(filter(None, [note, "compiled"]))
    report = bench(networks, keyframes, chunks, note=note)
    typer.echo(report.to_json() if as_json else report.to_table())


def _path_or_name(model: str) -> str | Path:
    return model
