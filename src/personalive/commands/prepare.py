"""`personalive data prepare`: training data from a folder of videos."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from personalive.errors import InputError
from personalive.reporting import STOPPED, give_up, reported, start_log


@reported
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of videos, nested as it may be.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the shards.")],
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames of a clip, at 25 a second.")] = 40,
    clips: Annotated[int, typer.Option(help="The most clips from one file.")] = 20,
    split: Annotated[
        str | None, typer.Option(help="train or test: everybody goes there; default: by --test-share.")
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of the people that is held out for testing.")] = 0.1,
    person: Annotated[
        str,
        typer.Option(
            help="Regular expression that finds in a file's path below DIR who it shows, so that nobody comes into "
            r"both splits: '^[^/]+' for a folder a person, '\+(.+?)\+P' for VFHQ. Default: every file another person."
        ),
    ] = "",
    workers: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
) -> None:
    """Cut videos of people who talk into clips of one face each, for training; motion is not known.

    Shots are told apart, one face is followed in each, framed as a driving video is, at 25 frames a second. Complete
    shards are kept: repeat the command to go on. report.json says what was left out and why.
    """
    start_log(logging.INFO, "%(asctime)s %(message)s")
    from personalive.data.footage import FootageConfig
    from personalive.data.prepare import REPORT, Division, prepare_videos

    division = Division(cast(Any, split), test_share, person)
    try:
        report = prepare_videos(folder, output, FootageConfig(size, frames, clips), division, workers)
    except KeyboardInterrupt:
        give_up("stopped; complete shards are kept, the same command goes on", STOPPED)
    for line in report.summary():
        typer.echo(line)
    typer.echo(f"{output / REPORT}")
    if not any(outcome.clips for outcome in report.outcomes):
        raise InputError(f"{folder} gave no clip at all; {output / REPORT} says why")
