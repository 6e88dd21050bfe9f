"""`personalive bench live`: how far the picture is behind, measured as a viewer sees it."""

from __future__ import annotations

from typing import Annotated

import typer

from personalive.errors import ConfigError
from personalive.reporting import reported


@reported
def bench_live(
    model: Annotated[str, typer.Option(help="A built-in model's name or a checkpoint file.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    decoder: Annotated[str, typer.Option(help="What decodes, as for `animate`.")] = "vae",
    runtime: Annotated[str, typer.Option(help="What computes the UNet, as for `serve`.")] = "auto",
    window: Annotated[str, typer.Option(help="LEVELSxFRAMES of the model's window, as for `serve`.")] = "live",
    sessions: Annotated[str, typer.Option(help="Numbers of viewers at the same time, one run each.")] = "1,2,4",
    seconds: Annotated[float, typer.Option(help="Length of a run, after its first settling.")] = 30.0,
    settle: Annotated[float, typer.Option(help="Seconds at a run's start that do not count.")] = 10.0,
    overload: Annotated[
        float, typer.Option(help="Instead: so many minutes of 60 frames/s; the delay must not grow.")
    ] = 0.0,
    memory: Annotated[float, typer.Option(help="Instead: so many minutes of streaming; memory must stay flat.")] = 0.0,
    disconnects: Annotated[int, typer.Option(help="Instead: so many abrupt disconnects; nothing may stay.")] = 0,
) -> None:
    """Measure capture-to-display delay against the floor that the model's window sets."""
    numbers = _numbers(sessions)
    import time

    from personalive.pipeline import PersonaLive
    from personalive.server import bench, endurance

    networks = PersonaLive.from_pretrained(model, device, decoder=decoder, runtime=runtime, window=window)
    if overload:
        asked = bench.run(endurance.overload(networks, 60 * overload))
        typer.echo(
            f"overload, {overload:g} min of {asked.sent:.0f} frames/s ({asked.sustained:.1f} are sustained): "
            f"median delay {asked.first:.0f} ms at first, {asked.last:.0f} ms at the end; {asked.dropped} dropped late"
        )
    if memory:
        tenths = bench.run(endurance.memory(networks, 60 * memory))
        change = 100 * (tenths[-1] / tenths[0] - 1)
        typer.echo(f"memory, {memory:g} min, MB after each tenth: {', '.join(f'{size:.0f}' for size in tenths)}")
        typer.echo(f"from the first tenth to the end: {change:+.1f} %")
    if disconnects:
        began = time.monotonic()
        left = bench.run(endurance.disconnects(networks, disconnects))
        typer.echo(
            f"{disconnects} abrupt disconnects in {time.monotonic() - began:.0f} s: left behind "
            f"{left.sessions} sessions, {left.worker_sessions} of the worker's, {left.tasks} tasks, "
            f"{left.threads} threads, {left.files} open files, {left.megabytes:+.1f} MB, "
            f"{left.late_megabytes:+.1f} of them with the second half"
        )
    if overload or memory or disconnects:
        return
    typer.echo("| sessions | driven /s | shown /s | p50 ms | p95 ms | floor ms | above | chunk's work ms | dropped |")
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for number in numbers:
        done = bench.run(bench.measure(networks, number, seconds, settle))
        typer.echo(
            f"| {done.sessions} | {done.rate:.1f} | {done.shown:.1f} | {done.p50:.0f} | {done.p95:.0f} | "
            f"{done.floor:.0f} | {done.above:+.0f} | {done.step:.0f} | {done.dropped} |"
        )


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"--sessions {text}: give numbers of viewers, e.g. 1,2,4")
    return numbers
