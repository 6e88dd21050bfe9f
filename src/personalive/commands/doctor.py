"""`personalive doctor`: what is wrong here, and the command that mends it."""

from __future__ import annotations

import typer

from personalive.reporting import FAILED, reported


@reported
def show_diagnosis() -> None:
    """Check machine, torch, GPU, memory, weights, codecs and browser.

    Every problem comes with the one command that mends it. Exits with 1 where there is a problem.
    """
    from personalive.diagnosis import examine

    problems = 0
    for finding in examine():
        problems += finding.state == "problem"
        typer.echo(f"{finding.state:<8} {finding.about}: {finding.says}")
        if finding.mend:
            typer.echo(f"{'':<8}   -> {finding.mend}")
    if problems:
        typer.echo(f"{problems} problem{'s' if problems > 1 else ''} found")
        raise typer.Exit(FAILED)
    typer.echo("nothing is wrong")
