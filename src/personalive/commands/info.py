"""`personalive info`: what is installed and what it would run on."""

from __future__ import annotations

import typer

from personalive import __version__, gallery
from personalive.errors import PersonaLiveError
from personalive.reporting import reported


@reported
def show_info() -> None:
    """List the built-in models and pictures, and the device."""
    import platform

    import torch

    from personalive.device import choose_device, describe_device
    from personalive.weights.describe import describe_checkpoint
    from personalive.weights.load import BUILT_IN, find_model

    typer.echo(f"personalive {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    typer.echo(f"device     {describe_device(choose_device())}")
    for name in BUILT_IN:
        try:
            about = describe_checkpoint(find_model(name))
        except PersonaLiveError as error:
            typer.echo(f"model      {name}: cannot be used: {error}")
            continue
        side, size = about.output_size, about.size / 1e6
        typer.echo(f"model      {name}: {side}x{side} pixels, {about.parameters / 1e6:.1f} M numbers, {size:.1f} MB")
        if about.description:
            typer.echo(f"           {about.description}")
    typer.echo(f"portraits  {', '.join(gallery.portraits()) or 'none in this installation'}")
    clip = gallery.DRIVING if gallery.has_driving() else "none in this installation"
    typer.echo(f"driving    {clip}")
