"""`personalive serve`: the live page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from personalive.reporting import reported, start_log


@reported
def serve_live(
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on [default: 127.0.0.1]; on any other a token is asked of clients."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port [default: 8000]; 0 takes a free one.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A built-in model's name or a checkpoint file [default: mini].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ... [default: auto].")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="vae (the model's own), taesd (tiny, downloaded), or a file [default: vae].")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What computes the UNet: auto (on a CPU OpenVINO, if installed), eager, compile, aoti (compiled once, "
            "kept); on a CPU also onnxruntime, openvino, openvino-bfloat16 (quickest, rounds), on a GPU cuda-graphs, "
            "tensorrt; or "
            "a file (or a folder of them) of `personalive export` [default: auto]."
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="LEVELSxFRAMES of the model's window [default: live, 2x2 for mini]."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels, e.g. 512 [default: the model's, 256 for mini].")
    ] = None,
    token: Annotated[str | None, typer.Option(help="What clients must show; made up where needed and not set.")] = None,
    max_sessions: Annotated[
        int | None, typer.Option(help="How many sessions at most [default: as many as can have --rate, as measured].")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Frames per second that every session is promised [default: 8].")
    ] = None,
    badge: Annotated[bool | None, typer.Option("--badge/--no-badge", help='Write "AI" into every frame.')] = None,
    virtual_camera: Annotated[
        bool | None, typer.Option("--virtual-camera", help="Show the newest session as a camera of this machine.")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="A TOML file with these and further settings.")] = None,
) -> None:
    """Serve the live page: a portrait follows each viewer's camera.

    Each setting is also an environment variable, e.g. PERSONALIVE_PORT; a flag counts more than the environment, that
    more than the file.
    """
    start_log(logging.INFO, "%(asctime)s %(message)s")
    from personalive.server.run import bind, link, make_server, with_token
    from personalive.server.settings import load_settings

    flags = {
        "host": host, "port": port, "model": model, "device": device, "decoder": decoder,
        "runtime": runtime, "window": window, "size": size, "token": token, "max_sessions": max_sessions,
        "rate": rate, "badge": badge, "virtual_camera": virtual_camera,
    }  # fmt: skip
    chosen = with_token(load_settings(flags, settings))
    listening = bind(chosen)
    server = make_server(chosen)
    typer.echo(f"PersonaLive is at {link(chosen, listening.getsockname()[1])} (Ctrl-C stops it)")
    try:
        server.run([listening])
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
    finally:
        listening.close()
