"""The `personalive` command: its commands (`commands/`) under their names, and what they share.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Whatever goes wrong becomes one line
on stderr and an exit code: 1 an error that the user can mend, 2 wrong usage, 70 a fault of ours, 130 stopped.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from personalive import __version__
from personalive.commands.animate import animate_portrait
from personalive.commands.bench import bench_live
from personalive.commands.compare import compare_variants
from personalive.commands.convert import convert_weights
from personalive.commands.data import assets, benchmark, convert_obj_release, render
from personalive.commands.doctor import show_diagnosis
from personalive.commands.download import download_weights
from personalive.commands.evaluate import evaluate_videos
from personalive.commands.export import export_window
from personalive.commands.info import show_info
from personalive.commands.prepare import prepare
from personalive.commands.serve import serve_live
from personalive.commands.speed import measure_speed
from personalive.commands.train import train_stage_or_export
from personalive.reporting import DEBUG_VARIABLE, FAILED, FAULT, STOPPED, start_log

_EPILOG = f"Exit codes: 0 done, {FAILED} error, 2 wrong usage, {FAULT} fault of the program, {STOPPED} stopped."

app = typer.Typer(
    help="A portrait that moves as you move.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # one plain line per error; a quicker --help, too
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Training people, rendered or from video, and the built-in pictures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
bench_app = typer.Typer(help="Measure speed and delay on this machine.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends in SystemExit. `arguments` default to the command line's."""
    # Before torch is imported: threads that spin while they wait make a busy machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="personalive")
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"personalive {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error (also: {DEBUG_VARIABLE}=1).")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    start_log(logging.WARNING, "warning: %(message)s")


app.command("animate")(animate_portrait)
app.command("serve")(serve_live)
app.command("download")(download_weights)
app.command("convert")(convert_weights)
app.command("export")(export_window)
app.command("doctor")(show_diagnosis)
app.command("evaluate")(evaluate_videos)
app.command("compare")(compare_variants)
app.command("info")(show_info)
app.command("train")(train_stage_or_export)
bench_app.command("live")(bench_live)
bench_app.command("speed")(measure_speed)
data_app.command("render")(render)
data_app.command("benchmark")(benchmark)
data_app.command("prepare")(prepare)
data_app.command("convert-obj")(convert_obj_release)
data_app.command("assets")(assets)
