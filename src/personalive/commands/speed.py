"""`personalive bench speed`: how fast a model streams here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalive.choices import with_window
from personalive.config import CONFIGS, override
from personalive.errors import ConfigError
from personalive.reporting import reported

if TYPE_CHECKING:
    import torch

    from personalive.contracts import Networks


@reported
def measure_speed(
    model: Annotated[str, typer.Option(help="A model by name or path, as for `animate`.")] = "mini",
    random: Annotated[
        str | None, typer.Option(help=f"Instead of a model, random weights at one of the sizes {', '.join(CONFIGS)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    keyframes: Annotated[int, typer.Option(help="Keyframe slots in use, 0 to 8.")] = 0,
    chunks: Annotated[int, typer.Option(help="How many are measured.")] = 10,
    image_size: Annotated[int | None, typer.Option(help="With --random: another side of the pictures.")] = None,
    decoder: Annotated[str, typer.Option(help="vae (the model's own), taesd (tiny), or a file.")] = "vae",
    runtime: Annotated[
        str,
        typer.Option(
            help="What computes the UNet: eager, compile, aoti (compiled once, kept); on a CPU also onnxruntime, "
            "openvino, openvino-bfloat16 (quickest, rounds), on a GPU tensorrt; or a file (or a folder of them) that "
            "`personalive export` wrote; auto: the quickest that is installed."
        ),
    ] = "eager",
    window: Annotated[str | None, typer.Option(help="LEVELSxFRAMES instead of the model's own, e.g. 2x2.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measure a stream of one session: milliseconds of each stage, frames/s, memory, operations.

    Medians after a burn-in, the device synchronised around every piece.
    """
    if random is not None and random not in CONFIGS:
        raise ConfigError(f"there is no size {random!r}; choose one of {', '.join(CONFIGS)}")
    if not 0 <= keyframes <= 8 or chunks < 1:
        raise ConfigError("--keyframes is from 0 to 8, and --chunks at least 1")
    from personalive.device import choose_device, precision_named
    from personalive.evaluation.bench import bench

    dtype = precision_named(precision)
    if random is None:
        from personalive.pipeline import PersonaLive

        networks = PersonaLive.from_pretrained(
            model, device, dtype, decoder=decoder, runtime=runtime, window=window, tell=_tell
        ).networks
    else:
        networks = _random(random, choose_device(device), dtype, image_size, decoder, runtime, window)
    said = (random and "random weights", decoder != "vae" and f"decoder {decoder}", runtime != "eager" and runtime)
    report = bench(networks, keyframes, chunks, note=", ".join(str(part) for part in said if part))
    typer.echo(report.to_json() if as_json else report.to_table())


def _random(
    size: str,
    place: torch.device,
    dtype: torch.dtype | None,
    image_size: int | None,
    decoder: str,
    runtime: str,
    window: str | None,
) -> Networks:
    """Networks with random weights. Their files for other runtimes are of no use later."""
    import torch

    from personalive.acceleration.choice import choose_runtime
    from personalive.acceleration.decoder import random_tiny_decoder
    from personalive.weights.load import build_networks

    if decoder not in ("vae", "taesd"):
        raise ConfigError("with --random, --decoder is vae or taesd")
    config = CONFIGS[size]
    if image_size is not None:
        config = override(config, {"image_size": image_size})
    if window is not None:
        config = with_window(config, window)
    half = size == "official" and place.type == "cuda"
    networks = build_networks(config, place, dtype or (torch.float16 if half else torch.float32))
    if decoder == "taesd":
        networks = random_tiny_decoder(networks)
    with tempfile.TemporaryDirectory() as folder:
        return choose_runtime(networks, runtime, Path(folder), _tell)


def _tell(line: str) -> None:
    typer.echo(line, err=True)
