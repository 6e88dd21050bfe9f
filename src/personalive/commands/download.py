"""`personalive download`: the published weights, fetched and verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalive.reporting import STOPPED, give_up, reported, transfer_bars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalive.weights.download import Plan
    from personalive.weights.manifest import Part
    from personalive.weights.sources import Source


@reported
def download_weights(
    what: Annotated[
        str, typer.Argument(metavar="[WHAT]", help="official, taesd (tiny decoder), or base-unet (comes by itself).")
    ] = "official",
    source: Annotated[
        str, typer.Option("--from", help="hub, a mirror's URL, or a folder in the published layout.")
    ] = "hub",
    target: Annotated[
        Path | None,
        typer.Option("--to", help="The folder; default: ./pretrained_weights if it has them, else the user's cache."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch again what is there but is not what the source has.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
) -> None:
    """Fetch published weights: size and licence first, then resumable and verified.

    What is in the folder already is used as it is. Afterwards no network is needed: --model official.
    """
    from personalive.weights.download import is_complete
    from personalive.weights.find import bundle, official_folder
    from personalive.weights.manifest import BASE_UNET
    from personalive.weights.official import denoising_gaps
    from personalive.weights.sources import find_source

    parts, folder = bundle(what), target or official_folder()
    if is_complete(folder, parts) and not repair:
        typer.echo(f"{folder}: {what} is complete; `personalive doctor` checks every byte of it")
    else:
        _fetch(parts, find_source(source), folder, repair, dry_run)
    if what != "official" or dry_run or is_complete(folder, [BASE_UNET]):
        return
    gaps = denoising_gaps(folder)
    if gaps:
        typer.echo(
            f"the denoising UNet's files leave {len(gaps)} entries open (e.g. {gaps[0]}): the base UNet is needed"
        )
        _fetch([BASE_UNET], find_source(source), folder, repair, dry_run)


def _fetch(parts: Sequence[Part], source: Source, folder: Path, repair: bool, dry_run: bool) -> None:
    """Plan, tell, fetch."""
    from personalive.weights import download

    plan = download.plan(parts, source, folder, repair)
    _tell(plan)
    download.require_room(plan)
    if dry_run:
        return
    done = {errand.place: errand.arrived for errand in plan.errands}
    totals = {errand.place: errand.file.size for errand in plan.errands}
    try:
        with transfer_bars(done, totals) as advance:
            download.carry_out(plan, source, advance)
    except KeyboardInterrupt:
        give_up("stopped; what has arrived is kept, the same command goes on", STOPPED)
    download.adopt(folder, plan.ready)
    typer.echo(f"{folder}: {len(plan.errands)} files fetched and verified, {len(plan.ready)} were there")


def _tell(plan: Plan) -> None:
    """Terms, sizes and the sum, before the first byte."""
    for repository, terms in plan.licences.items():
        typer.echo(f"licence  {repository}: {terms}")
    for place in plan.ready:
        typer.echo(f"there    {place}")
    for errand in plan.errands:
        arrived = f" ({errand.arrived / 1e6:.1f} MB are there)" if errand.arrived else ""
        typer.echo(f"fetch    {errand.place}: {errand.file.size / 1e6:.1f} MB{arrived}")
    typer.echo(f"to fetch {plan.missing_bytes / 1e9:.2f} GB into {plan.folder}")
