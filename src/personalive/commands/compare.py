"""`personalive compare`: checkpoints and settings in one table, as the paper's ablations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from personalive.errors import ConfigError, InputError
from personalive.reporting import STOPPED, give_up, progress_bar, reported


@reported
def compare_variants(
    people: Annotated[
        list[Path], typer.Argument(metavar="SHARDS", help="Clips of people held out: clip-*.tar, or people/*.tar.")
    ],
    variant: Annotated[
        list[str], typer.Option(help="NAME=MODEL[,stream.keyframes=0,...]: a checkpoint, settings changed; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the table.")] = Path("variants"),
    count: Annotated[int, typer.Option("--people", min=2, help="So many of them, each driven by the next.")] = 8,
    frames: Annotated[int, typer.Option(min=12, help="Frames of each crossing; clips go to and fro.")] = 126,
) -> None:
    """Measure variants of the model on the same crossings: identity, expression, pose, change over time, speed.

    Variants called as the paper's rows ("full", "without keyframes", "tau 15", ...) have its figures beside them.
    Finished variants are kept in the output folder: repeat the command to go on or to add one.
    """
    from personalive.data.shards import read_shards
    from personalive.evaluation.comparison import write_comparison
    from personalive.evaluation.variants import measure, parse
    from personalive.evaluation.yardstick import Yardstick

    variants = [parse(text) for text in variant]
    names = [one.name for one in variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two variants are called {twice!r}; give each its own name")
    some = list(itertools.islice(read_shards(people), count))
    if len(some) < 2:
        raise InputError(f"{people[0]} holds one person; crossings need two or more")
    reader, found = Yardstick.load(), []
    with progress_bar("measuring", "variants") as progress:
        for number, one in enumerate(variants):
            progress(number, len(variants))
            try:
                found.append(measure(one, some, reader, frames, output / "kept"))
            except KeyboardInterrupt:
                give_up("stopped; finished variants are kept, the same command goes on", STOPPED)
    typer.echo(write_comparison(output, found))
    typer.echo(f"\n{output / 'variants.html'}: {len(found)} variants, {len(some)} crossings each")
