"""`personalive convert`: the published files as one folder of half-precision safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalive.errors import ConfigError, WeightsError
from personalive.reporting import reported

DTYPES = ("float16", "bfloat16", "float32")


@reported
def convert_weights(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write: new, or empty.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="A folder in the published layout; default: where `download` put it."),
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"Precision of the parameters: {', '.join(DTYPES)}.")] = "float16",
    config: Annotated[
        Path | None, typer.Option("--config", help="config.json of a model of another size than the official one.")
    ] = None,
) -> None:
    """Write the published .pth and .bin files as a model's folder: half the size, quick to load, without pickles.

    Every entry must fit: a missing or foreign one is named. Files that hold code are refused.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"there is no precision {dtype!r}; choose one of {', '.join(DTYPES)}")
    import torch

    from personalive.config import OFFICIAL
    from personalive.weights.find import official_folder
    from personalive.weights.folder import convert, read_config

    sizes = OFFICIAL if config is None else read_config(config.parent if config.name == "config.json" else config)
    try:
        convert(
            source or official_folder(), output, sizes, getattr(torch, dtype), lambda name: typer.echo(name, err=True)
        )
    except WeightsError as error:
        for line in error.details:
            typer.echo(line, err=True)
        raise
    size = sum(path.stat().st_size for path in output.iterdir())
    typer.echo(f"{output}: {size / 1e9:.2f} GB; use it with --model {output}")
