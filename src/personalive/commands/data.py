"""`personalive data`: training data, rendered, and the built-in pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from personalive.errors import ConfigError
from personalive.reporting import FAILED, STOPPED, give_up, progress_bar, reported, start_log

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
    pairs: Annotated[
        bool,
        typer.Option(
            help="Two neighbouring people share expressions and poses, and exact flow is stored (train and test)."
        ),
    ] = True,
    first_seed: Annotated[
        int | None, typer.Option(help="Seed of the first person; default: the split's first.")
    ] = None,
) -> None:
    """Render people with exact ground truth. Complete shards are kept: repeat the command to go on.

    Beside the shards comes face_mesh.safetensors, the head mesh of the reference warp, which training reads.
    """
    start_log(logging.INFO, "%(asctime)s %(message)s")
    from personalive.rendering.face_mesh import write_face_mesh
    from personalive.rendering.people import SEED_RANGES, render_people

    if split not in SEED_RANGES:
        raise ConfigError(f"there is no split {split!r}; choose one of {', '.join(SEED_RANGES)}")
    first = SEED_RANGES[cast(Any, split)][0] if first_seed is None else first_seed
    model = _face_model(face_model)
    write_face_mesh(model, output)
    try:
        shards = render_people(model, output, first, people, size, workers, frames, cast(Any, split), pairs)
    except KeyboardInterrupt:
        give_up("stopped; complete shards are kept, the same command goes on", STOPPED)
    typer.echo(f"{output}: {people} people in {len(shards)} shards")


@reported
def benchmark(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for people, videos and cases.toml.")],
    face_model: _FaceModel = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 2,
) -> None:
    """Rebuild the rendered benchmark and check it. What is complete is kept: repeat the command to go on.

    30 people held out from training, 10 s each; `personalive evaluate --manifest OUTPUT/cases.toml` scores outputs.
    """
    from personalive.evaluation.rendered import build, check

    with progress_bar("rendering", "people") as progress:
        try:
            build(output, _face_model(face_model), workers, progress)
        except KeyboardInterrupt:
            give_up("stopped; complete people are kept, the same command goes on", STOPPED)
    found = check(output)
    for line in found.different:
        typer.echo(f"different: {line}", err=True)
    same = "exactly as recorded" if found.exact == found.people else "as recorded within the tolerance"
    verdict = "not the recorded benchmark" if found.different else f"ground truth {same}"
    typer.echo(
        f"{output}: {found.people} people, {verdict} (equal hashes: {found.exact}); pictures differ from the recorded "
        f"ones by at most {found.pixels:.2f} of 255 levels"
    )
    if found.different:
        raise typer.Exit(FAILED)


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
