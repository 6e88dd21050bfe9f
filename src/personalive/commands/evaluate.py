"""`personalive evaluate`: scores of videos that any system made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalive.errors import ConfigError, InputError
from personalive.reporting import FAILED, STOPPED, give_up, progress_bar, reported

if TYPE_CHECKING:
    from personalive.evaluation.cases import Case
    from personalive.evaluation.many import Finished


@reported
def evaluate_videos(
    generated: Annotated[Path | None, typer.Option(help="The folder of videos that a system made.")] = None,
    driving: Annotated[Path | None, typer.Option(help="Their drivers, called the same; or one video for all.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Their portraits, called the same; or one picture for all.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Instead of folders: a TOML or JSON file that lists the cases.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the report.")] = Path("evaluation"),
    cross: Annotated[
        bool, typer.Option("--cross", help="The drivers are other people than the portraits: no pixel measures.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what cannot be scored (named in the report, exit code 1).")
    ] = False,
    max_frames: Annotated[int | None, typer.Option(min=3, help="Only so many frames of each video.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 1,
    system: Annotated[str, typer.Option(help="What made the videos, for the report.")] = "not named",
    fps: Annotated[float | None, typer.Option(min=0.001, help="How fast it made them, frames per second.")] = None,
    timed_on: Annotated[str, typer.Option(help="The machine of --fps.")] = "machine not named",
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another system's scores.json of the same cases; repeatable.")
    ] = None,
    lpips: Annotated[
        str | None, typer.Option(help="LPIPS and tLP: alex, vgg or squeeze (pip install lpips), or a TorchScript file.")
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="ID-SIM: an ArcFace-like network, ONNX or TorchScript.")] = None,
    face_landmarks: Annotated[Path | None, typer.Option(help="A YuNet ONNX file, to align faces for ID-SIM.")] = None,
    face_parameters: Annotated[
        Path | None, typer.Option(help="AED and APD: a SMIRK-like network, ONNX or TorchScript.")
    ] = None,
    i3d: Annotated[Path | None, typer.Option(help="FVD: an I3D as TorchScript.")] = None,
) -> None:
    """Score generated videos against their drivers and portraits: JSON, CSV, Markdown and one HTML page.

    Files belong together by name (generated/anna.mp4, driving/anna.mp4, reference/anna.png) or by a manifest. Finished
    cases are kept in the output folder: repeat the command to go on. See docs/evaluation.md.
    """
    from personalive.evaluation.beside import SPEED, TIMED_ON, read_system, system_of
    from personalive.evaluation.many import measure_all
    from personalive.evaluation.networks import NetworkFiles
    from personalive.evaluation.page import Report, Shown
    from personalive.evaluation.report import provenance
    from personalive.evaluation.scores import summarise, write_report

    cases, problems = _cases(manifest, generated, driving, reference, cross)
    if problems and not skip_bad:
        raise InputError(f"{problems[0]} ({len(problems)} such); add what is missing or leave it out with --skip-bad")
    networks = NetworkFiles(lpips, identity, face_landmarks, face_parameters, i3d)
    folder, place = output / "cases", {case.name: case for case in cases}
    with progress_bar("scoring", "videos") as progress:
        progress(0, len(cases))
        try:
            finished, bad = measure_all(
                cases, networks, folder, max_frames=max_frames, workers=workers, skip_bad=skip_bad,
                done=lambda count: progress(count, len(cases)),
            )  # fmt: skip
        except KeyboardInterrupt:
            give_up("stopped; finished cases are kept, the same command goes on", STOPPED)
    problems += bad
    if not finished:
        raise InputError(f"none of the {len(problems)} cases could be scored: {problems[0]}")
    rows = summarise([case.scored for case in finished])
    source = provenance(system) | ({} if fps is None else {SPEED: f"{fps:g}", TIMED_ON: timed_on})
    names = [case.scored.figures.name for case in finished]
    systems = [system_of(rows, source), *(read_system(path, names) for path in beside or [])]
    shown = {name: Shown(f.strip(), f.clip(), _panes(place[name])) for name, f in zip(names, finished, strict=True)}
    videos = [case.scored.figures for case in finished]
    typer.echo(write_report(output, Report(rows, videos, problems, source, systems, shown)))
    typer.echo(f"\n{output / 'report.html'}: {_told(finished)}, {len(problems)} left out")
    for line in problems:
        typer.echo(f"left out: {line}", err=True)
    if problems:
        raise typer.Exit(FAILED)


def _cases(
    manifest: Path | None, generated: Path | None, driving: Path | None, reference: Path | None, cross: bool
) -> tuple[list[Case], list[str]]:
    """From a manifest or from folders, whichever is named."""
    from personalive.evaluation.cases import find_cases
    from personalive.evaluation.manifest import read_manifest

    if manifest is not None:
        if driving is not None or reference is not None or cross:
            raise ConfigError(
                "--manifest says drivers, portraits and categories itself; leave out --driving, --reference and --cross"
            )
        return read_manifest(manifest, generated)
    if generated is None or driving is None or reference is None:
        raise ConfigError("name the videos: --generated, --driving and --reference, or --manifest")
    return find_cases(generated, driving, reference, cross)


def _panes(case: Case) -> str:
    return "Portrait, driver, result" + (", truth." if case.truth is not None else ".")


def _told(finished: list[Finished]) -> str:
    kept = sum(case.kept for case in finished)
    return f"{len(finished)} videos" + (f" ({kept} kept from before)" if kept else "")
