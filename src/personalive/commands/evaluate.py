"""`personalive evaluate`: scores of a folder of videos that any system made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalive.errors import InputError
from personalive.reporting import FAILED, progress_bar, reported


@reported
def evaluate_folder(
    generated: Annotated[Path, typer.Option(help="The folder of videos that a system made.")],
    driving: Annotated[Path, typer.Option(help="Their drivers, called the same; or one video for all.")],
    reference: Annotated[Path, typer.Option(help="Their portraits, called the same; or one picture for all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the report.")] = Path("evaluation"),
    cross: Annotated[
        bool, typer.Option("--cross", help="The drivers are other people than the portraits: no pixel measures.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what cannot be scored (named in the report, exit code 1).")
    ] = False,
    max_frames: Annotated[int | None, typer.Option(min=3, help="Only so many frames of each video.")] = None,
    system: Annotated[str, typer.Option(help="What made the videos, for the report.")] = "not named",
) -> None:
    """Score generated videos against their drivers and portraits: JSON, CSV, Markdown and one HTML page.

    Files belong together by name: generated/anna.mp4, driving/anna.mp4, reference/anna.png. See docs/evaluation.md.
    """
    from personalive.evaluation.folders import find_triples, score, strip
    from personalive.evaluation.scores import summarise, write_report
    from personalive.evaluation.yardstick import Yardstick

    triples, problems = find_triples(generated, driving, reference)
    if problems and not skip_bad:
        raise InputError(f"{problems[0]} ({len(problems)} such); add what is missing or leave it out with --skip-bad")
    reader, videos, strips = Yardstick.load(), [], {}
    with progress_bar("scoring") as progress:
        for number, triple in enumerate(triples):
            progress(number, len(triples))
            try:
                video = score(triple, reader, cross, max_frames)
                videos.append(video)
                strips[triple.name] = strip(triple, video.frames)
            except InputError as error:
                if not skip_bad:
                    raise
                problems.append(str(error))
    if not videos:
        raise InputError(f"none of the {len(triples) + len(problems)} videos could be scored: {problems[0]}")
    table = write_report(output, system, summarise(videos, cross), videos, strips, problems)
    typer.echo(table)
    typer.echo(f"\n{output / 'report.html'}: {len(videos)} videos, {len(problems)} left out")
    for line in problems:
        typer.echo(f"left out: {line}", err=True)
    if problems:
        raise typer.Exit(FAILED)
