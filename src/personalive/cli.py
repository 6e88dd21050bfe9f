"""The `personalive` command: one function per command, each a thin shell around the module that does the work.

Nothing heavy is imported before a command runs, so that `--help` answers at once. Whatever goes wrong becomes one line
on stderr and an exit code: 1 an error that the user can mend, 2 wrong usage, 70 a fault of ours, 130 stopped.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import typer

from personalive import __version__, gallery
from personalive.errors import ConfigError, PersonaLiveError
from personalive.reporting import DEBUG_VARIABLE, FAILED, FAULT, STOPPED, give_up, progress_bar, reported, start_log
from personalive.training.recipe import STAGES

CONFIGS = ("mini", "toy")
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
    help="Render training people and the built-in pictures.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")


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


@app.command("animate")
@reported
def _animate(
    portrait: Annotated[
        str,
        typer.Argument(
            metavar="PORTRAIT", help="A picture, or a built-in portrait's name (`personalive info` lists them)."
        ),
    ],
    driving: Annotated[
        str, typer.Argument(metavar="DRIVING", help=f'A video, or "{gallery.DRIVING}" for the built-in clip.')
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .mp4 (with the driver's sound), .gif or .webp.")
    ] = Path("animated.mp4"),
    model: Annotated[str, typer.Option(help="A built-in model's name or a checkpoint file.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal videos.")] = 0,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    crop: Annotated[
        str, typer.Option(help="auto: cut picture and driver to the head. none: both are ready-made squares.")
    ] = "auto",
    face: Annotated[int, typer.Option(help="Which face of the picture, from the largest, 0.")] = 0,
    driver_face: Annotated[int, typer.Option(help="Which face of the driver, from the largest, 0.")] = 0,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show portrait, driver and result in a row.")
    ] = False,
    rotation_gain: Annotated[float | None, typer.Option(help="How strongly the head turns, 0 to 2.")] = None,
    translation_gain: Annotated[float | None, typer.Option(help="How strongly the head moves, 0 to 2.")] = None,
    scale_gain: Annotated[float | None, typer.Option(help="How strongly its size changes, 0 to 2.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = True,
) -> None:
    """Move the person in PORTRAIT as the person in DRIVING moves.

    Gains that are not given are the model's own. A built-in name wins over a file called the same: write ./name.
    """
    from personalive.animate import AnimateOptions, animate, prepare

    options = AnimateOptions(
        seed=seed, max_frames=max_frames, crop=cast(Any, crop), face=face, driver_face=driver_face,
        side_by_side=side_by_side, rotation_gain=rotation_gain, translation_gain=translation_gain,
        scale_gain=scale_gain, overwrite=overwrite,
    )  # fmt: skip
    job = prepare(portrait, driving, output, options)

    from personalive.pipeline import PersonaLive

    networks = PersonaLive.from_pretrained(model, device)
    with progress_bar("animating") as progress:
        done = animate(networks, job, progress)
    typer.echo(
        f"{done.path}: {done.frames} frames, {done.seconds:.1f} s at {done.rate:.4g} frames/s, "
        f"{done.width}x{done.height} pixels; made in {done.took:.1f} s ({done.frames / done.took:.1f} frames/s)"
    )


@app.command("info")
@reported
def _info() -> None:
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
        side, size = about.image_size, about.size / 1e6
        typer.echo(f"model      {name}: {side}x{side} pixels, {about.parameters / 1e6:.1f} M numbers, {size:.1f} MB")
        if about.description:
            typer.echo(f"           {about.description}")
    typer.echo(f"portraits  {', '.join(gallery.portraits()) or 'none in this installation'}")
    clip = gallery.DRIVING if gallery.has_driving() else "none in this installation"
    typer.echo(f"driving    {clip}")


@app.command("train")
@reported
def _train(
    run: Annotated[Path, typer.Option(help="The folder for checkpoints, log and sample pictures.")],
    stage: Annotated[str | None, typer.Option(help=f"One of {', '.join(STAGES)}, in this order.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder of rendered people (`personalive data render`).")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file with numbers that differ from the default.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="A single number, e.g. image.optimisation.steps=100; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or begin anew.")
    ] = True,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes; resume later.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(help="Of the batches and the first weights.")] = 0,
    config: Annotated[str, typer.Option(help=f"Sizes of the networks: {' or '.join(CONFIGS)}.")] = "mini",
    export: Annotated[
        Path | None, typer.Option(help="Write the run's networks as one checkpoint here (after training, if any).")
    ] = None,
    note: Annotated[str, typer.Option(help="What `personalive info` will say about the exported checkpoint.")] = "",
) -> None:
    """Train a stage of a model, or export a checkpoint.

    Ctrl-C saves a checkpoint and ends; the same command goes on from there.
    """
    _check_training(stage, data, export, config)
    start_log(logging.INFO, "%(asctime)s %(message)s")
    import torch

    from personalive import config as configs
    from personalive.training.loop import RunOptions
    from personalive.training.recipe import load_recipe
    from personalive.training.run import assemble, train_stage

    sizes = {"mini": configs.MINI, "toy": configs.TOY}[config]
    numbers = load_recipe(recipe, dict(_assignment(text) for text in assign or []))
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    if stage is not None and data is not None:
        options = RunOptions(run, budget_minutes=budget_minutes, resume=resume, seed=seed)
        figures = train_stage(stage, sizes, numbers, data, options)
        typer.echo(f"{run / stage}.safetensors: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if export is not None:
        from personalive.weights.load import save_networks

        save_networks(assemble(sizes, run), export, description=note)
        typer.echo(f"{export}: {export.stat().st_size / 1e6:.1f} MB")


def _check_training(stage: str | None, data: Path | None, export: Path | None, config: str) -> None:
    """Raises ConfigError for options that do not go together."""
    if stage is None and export is None:
        raise ConfigError("nothing to do; give --stage to train, --export to write a checkpoint, or both")
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    if stage is not None and data is None:
        raise ConfigError("--stage needs --data, the folder of rendered people; `personalive data render` makes one")
    if config not in CONFIGS:
        raise ConfigError(f"there is no config {config!r}; choose one of {', '.join(CONFIGS)}")


def _assignment(text: str) -> tuple[str, Any]:
    """ "a.b=1" -> ("a.b", 1). Values are JSON, or else text. Raises ConfigError without an equals sign."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as name=value, e.g. image.optimisation.steps=100")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


_FaceModel = Annotated[
    Path | None, typer.Option("--face-model", help="The face model (.npz); default: $PERSONALIVE_FACE_MODEL.")
]


@data_app.command("render")
@reported
def _data_render(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the shards.")],
    people: Annotated[int, typer.Option(help="How many people.")],
    face_model: _FaceModel = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames of each person.")] = 40,
    workers: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
    split: Annotated[
        str, typer.Option(help="train, test (people held out) or clip (held out, one clip each).")
    ] = "train",
    first_seed: Annotated[
        int | None, typer.Option(help="Seed of the first person; default: the split's first.")
    ] = None,
) -> None:
    """Render people with exact ground truth. Complete shards are kept: repeat the command to go on."""
    start_log(logging.INFO, "%(asctime)s %(message)s")
    from personalive.rendering.people import SEED_RANGES, render_people

    if split not in SEED_RANGES:
        raise ConfigError(f"there is no split {split!r}; choose one of {', '.join(SEED_RANGES)}")
    first = SEED_RANGES[cast(Any, split)][0] if first_seed is None else first_seed
    try:
        shards = render_people(_face_model(face_model), output, first, people, size, workers, frames, cast(Any, split))
    except KeyboardInterrupt:
        give_up("stopped; complete shards are kept, the same command goes on", STOPPED)
    typer.echo(f"{output}: {people} people in {len(shards)} shards")


@data_app.command("convert-obj")
@reported
def _data_convert_obj(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of OBJ files of the ICT-FaceKit release (FaceXModel).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz to write.")],
) -> None:
    """Make the face model file from the public ICT-FaceKit release."""
    from personalive.rendering.face_model import convert_obj

    model = convert_obj(folder, output)
    shapes = f"{len(model.identity_deltas)} identity and {len(model.expression_names)} expression shapes"
    typer.echo(f"{output}: {len(model.vertices)} vertices, {shapes}")


@data_app.command("assets")
@reported
def _data_assets(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for portraits and clip.")],
    face_model: _FaceModel = None,
) -> None:
    """Render the built-in portraits and the built-in driving clip."""
    from personalive.rendering.builtin import render_assets

    for path in render_assets(_face_model(face_model), output):
        typer.echo(str(path))


def _face_model(given: Path | None) -> Path:
    """The face model to use. Raises ConfigError when none is named or found."""
    from personalive.rendering.face_model import ENVIRONMENT_VARIABLE, find_face_model

    path = given or find_face_model()
    if path is None:
        raise ConfigError(
            f"no face model; give --face-model or set {ENVIRONMENT_VARIABLE} (`personalive data convert-obj` makes one)"
        )
    return path
