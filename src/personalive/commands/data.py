"""`personalive data`: training data, rendered, and the built-in pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from personalive.errors import ConfigError
from personalive.reporting import STOPPED, give_up, reported, start_log

_FaceModel = Annotated[
    Path | None, typer.Option("--face-model", help="The face model (.npz); default: $PERSONALIVE_FACE_MODEL.")
]


@reported
def render(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the shards.")],
    people: Annotated[int, typer.Option(help="How many people.")],
    face_model: _FaceModel = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames of each person.")] = 40,
    workers: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
    split: Annotated[
        str,
        typer.Option(
            help="train, test (people held out), clip (held out, one clip each) or expression (the same, heads still)."
        ),
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


@reported
def convert_obj_release(
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


@reported
def assets(
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
