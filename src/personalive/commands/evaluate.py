"""`personalive evaluate`: how good, how fast; of our model's outputs, or of videos that any system made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalive.errors import ConfigError, InputError
from personalive.reporting import FAILED, STOPPED, give_up, progress_bar, reported

if TYPE_CHECKING:
    from personalive.evaluation.cases import Case
    from personalive.evaluation.many import Finished
    from personalive.evaluation.networks import NetworkFiles
    from personalive.evaluation.outputs import Run


@reported
def evaluate_videos(
    generated: Annotated[Path | None, typer.Option(help="The folder of videos that a system made.")] = None,
    driving: Annotated[Path | None, typer.Option(help="Their drivers, called the same; or one video for all.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Their portraits, called the same; or one for all. With --model also: the first frames."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Instead of folders: a TOML or JSON file that lists the cases.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the report.")] = Path("evaluation"),
    cross: Annotated[
        bool, typer.Option("--cross", help="The drivers are other people than the portraits: no pixel measures.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many cases, from the first.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what cannot be scored (named in the report, exit code 1).")
    ] = False,
    max_frames: Annotated[int | None, typer.Option(min=3, help="Only so many frames of each video.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that score at a time.")] = 1,
    model: Annotated[
        str | None,
        typer.Option(help="Instead of --generated: animate the cases with this model, named as for `animate`."),
    ] = None,
    crop: Annotated[
        str, typer.Option(help="With --model. none: all are ready-made squares. auto: cut them to the head first.")
    ] = "none",
    seed: Annotated[int, typer.Option(help="With --model: equal seeds give equal videos.")] = 0,
    device: Annotated[str, typer.Option(help="With --model: auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="With --model: auto, float32, float16 or bfloat16.")] = "auto",
    memory: Annotated[str, typer.Option(help="With a large --model: auto, 24GB, 12GB, 8GB.")] = "auto",
    decoder: Annotated[str, typer.Option(help="With --model: vae (its own), taesd (tiny), or a file.")] = "vae",
    runtime: Annotated[str, typer.Option(help="With --model: what computes the UNet, as for `animate`.")] = "eager",
    window: Annotated[str | None, typer.Option(help="With --model: LEVELSxFRAMES, as for `animate`.")] = None,
    system: Annotated[str | None, typer.Option(help="What made the videos, for the report.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.001, help="How fast it made them, frames per second.")] = None,
    timed_on: Annotated[str, typer.Option(help="The machine of --fps.")] = "machine not named",
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another system's scores.json of the same cases; repeatable.")
    ] = None,
    lpips: Annotated[
        str | None, typer.Option(help="LPIPS and tLP: alex, vgg or squeeze (pip install lpips), or a TorchScript file.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            help="Who it is, of real people: a face recognition network's file, ONNX or TorchScript (of ArcFace for "
            "ID-SIM), or an installed package: face_recognition, insightface."
        ),
    ] = None,
    face_landmarks: Annotated[
        Path | None,
        typer.Option(help="A YuNet ONNX file, to align faces for --identity [default: --face-mesh, or eyes]."),
    ] = None,
    face_parameters: Annotated[
        Path | None, typer.Option(help="AED and APD: a SMIRK-like network, ONNX or TorchScript.")
    ] = None,
    i3d: Annotated[Path | None, typer.Option(help="FVD: an I3D as TorchScript.")] = None,
    face_mesh: Annotated[
        str | None, typer.Option(help="Motion by mediapipe, gaze too: a Python that has it, or: here.")
    ] = None,
) -> None:
    """Score videos against their drivers and portraits: JSON, CSV, Markdown and one HTML page.

    They are --generated already, by any system, or --model makes them here, timed. Files belong together by name
    (generated/anna.mp4, driving/anna.mp4, reference/anna.png) or by a manifest. What is finished is kept in the output
    folder: repeat the command to go on. See docs/evaluation.md.
    """
    from personalive.evaluation.beside import read_system, system_of
    from personalive.evaluation.exact import gallery_of
    from personalive.evaluation.many import with_scale
    from personalive.evaluation.networks import NetworkFiles
    from personalive.evaluation.page import Report, Shown
    from personalive.evaluation.scores import summarise, with_run, write_report

    networks = NetworkFiles(lpips, identity, face_landmarks, face_parameters, i3d, face_mesh)
    runs: dict[str, Run] = {}
    if model is None:
        cases, problems = _given(manifest, generated, driving, reference, cross)
    elif generated is not None or system is not None or fps is not None:
        raise ConfigError("--model makes the videos, names and times them: leave out --generated, --system and --fps")
    else:
        cases, problems = _planned(manifest, driving, reference, cross, output)
    if problems and not skip_bad:
        raise InputError(f"{problems[0]} ({len(problems)} such); add what is missing or leave it out with --skip-bad")
    gallery = gallery_of(cases)
    cases, source = cases[:limit], _stated(system or "not named", fps, timed_on)
    if model is not None:
        own = _Own(model, crop, seed, device, precision, memory, decoder, runtime, window, max_frames)
        cases, runs, bad, source = own.animate(cases, output, skip_bad)
        source |= next(({"peak memory": run.source["peak memory"]} for run in runs.values()), {})
        problems += bad
    if identity is not None:
        source |= {"face recogniser": _recogniser(networks)}
    finished, bad = _measured(cases, networks, output, gallery, max_frames, workers, skip_bad)
    problems += bad
    if not finished:
        raise InputError(f"none of the {len(problems)} cases could be scored: {problems[0]}")
    place, names = {case.name: case for case in cases}, [case.scored.figures.name for case in finished]
    scored = with_scale([place[name] for name in names], [case.scored for case in finished])
    scored = [with_run(one, runs.get(one.figures.name)) for one in scored]
    rows = summarise(scored)
    systems = [system_of(rows, source), *(read_system(path, names) for path in beside or [])]
    shown = {name: Shown(f.strip(), f.clip(), _panes(place[name])) for name, f in zip(names, finished, strict=True)}
    report = Report(rows, [one.figures for one in scored], problems, source, systems, shown)
    typer.echo(write_report(output, report))
    typer.echo(f"\n{output / 'report.html'}: {_told(finished, runs)}, {len(problems)} left out")
    for line in problems:
        typer.echo(f"left out: {line}", err=True)
    if problems:
        raise typer.Exit(FAILED)


def _given(
    manifest: Path | None, generated: Path | None, driving: Path | None, reference: Path | None, cross: bool
) -> tuple[list[Case], list[str]]:
    """Cases whose videos are there, from a manifest or from folders, whichever is named."""
    from personalive.evaluation.cases import find_cases
    from personalive.evaluation.manifest import read_manifest

    if manifest is not None:
        _only_manifest(driving, reference, cross)
        return read_manifest(manifest, generated)
    if generated is None or driving is None or reference is None:
        raise ConfigError("name the videos: --generated, --driving and --reference, or --manifest; or a --model")
    return find_cases(generated, driving, reference, cross)


def _planned(
    manifest: Path | None, driving: Path | None, reference: Path | None, cross: bool, output: Path
) -> tuple[list[Case], list[str]]:
    """Cases whose videos the model is to make."""
    from personalive.evaluation.cases import plan_cases
    from personalive.evaluation.manifest import read_manifest
    from personalive.evaluation.outputs import OUTPUTS

    if manifest is not None:
        _only_manifest(driving, reference, cross)
        return read_manifest(manifest, planned=output / OUTPUTS)
    if driving is None:
        raise ConfigError("name what the model is to animate: --manifest, or --driving (and --reference)")
    if reference is None and cross:
        raise ConfigError("--cross needs the other people's portraits; add --reference")
    return plan_cases(driving, reference, output / OUTPUTS, cross)


def _only_manifest(driving: Path | None, reference: Path | None, cross: bool) -> None:
    if driving is not None or reference is not None or cross:
        raise ConfigError(
            "--manifest says drivers, portraits and categories itself; leave out --driving, --reference and --cross"
        )


@dataclass(frozen=True)
class _Own:
    """Our model, as it was asked for."""

    model: str
    crop: str
    seed: int
    device: str
    precision: str
    memory: str
    decoder: str
    runtime: str
    window: str | None
    max_frames: int | None

    def animate(
        self, cases: list[Case], output: Path, skip_bad: bool
    ) -> tuple[list[Case], dict[str, Run], list[str], dict[str, str]]:
        """The cases as they were animated, what each took, what could not be done, and the report's source."""
        if self.crop not in ("auto", "none"):
            raise ConfigError(f"crop is {self.crop!r}; choose auto or none")
        from personalive.choices import with_window
        from personalive.device import choose_device, precision_named
        from personalive.evaluation.inputs import prepare_inputs
        from personalive.evaluation.outputs import Settings, animate_cases
        from personalive.evaluation.report import provenance
        from personalive.pipeline import PersonaLive
        from personalive.weights.find import find

        found, dtype = find(self.model), precision_named(self.precision)
        options = {"device": str(choose_device(self.device)), "precision": self.precision, "runtime": self.runtime}
        options |= {"decoder": self.decoder, "memory": self.memory, "crop": self.crop}
        options |= {} if self.window is None else {"window": self.window}
        settings = Settings(self.model, options, self.seed, self.max_frames)
        config = found.config if self.window is None else with_window(found.config, self.window)
        source = provenance(settings.title, settings.config(config))

        def opened() -> PersonaLive:
            return PersonaLive.from_pretrained(
                self.model, self.device, dtype, self.memory, self.decoder, self.runtime, self.window, tell=_tell
            )

        with progress_bar("animating", "videos") as progress:
            try:
                ready, bad = prepare_inputs(
                    cases, output, cut=self.crop == "auto", max_frames=self.max_frames, skip_bad=skip_bad
                )
                progress(0, len(ready))
                runs, worse = animate_cases(
                    opened, ready, output, settings, skip_bad=skip_bad, done=lambda count: progress(count, len(ready))
                )
            except KeyboardInterrupt:
                give_up("stopped; finished videos are kept, the same command goes on", STOPPED)
        return [case for case in ready if case.name in runs], runs, bad + worse, source


def _stated(system: str, fps: float | None, timed_on: str) -> dict[str, str]:
    """Where a report on another system's videos comes from."""
    from personalive.evaluation.beside import SPEED, TIMED_ON
    from personalive.evaluation.report import provenance

    return provenance(system) | ({} if fps is None else {SPEED: f"{fps:g}", TIMED_ON: timed_on})


def _recogniser(networks: NetworkFiles) -> str:
    """What the face recogniser is and how faces are brought to it, for the report."""
    from personalive.evaluation.networks import RECOGNISER_PACKAGES

    key = networks.key()["identity"]
    if networks.identity in RECOGNISER_PACKAGES:
        return key
    aligned = (
        "YuNet" if networks.landmarks is not None else "the face mesh" if networks.mesh is not None else "the eyes"
    )
    return f"{Path(str(networks.identity)).name} (sha256 {key[:12]}), faces aligned by {aligned}"


def _measured(
    cases: list[Case],
    networks: NetworkFiles,
    output: Path,
    gallery: tuple[Path, ...],
    max_frames: int | None,
    workers: int,
    skip_bad: bool,
) -> tuple[list[Finished], list[str]]:
    from personalive.evaluation.many import measure_all

    with progress_bar("scoring", "videos") as progress:
        progress(0, len(cases))
        try:
            return measure_all(
                cases, networks, output / "cases", gallery=gallery, max_frames=max_frames, workers=workers,
                skip_bad=skip_bad, done=lambda count: progress(count, len(cases)),
            )  # fmt: skip
        except KeyboardInterrupt:
            give_up("stopped; finished cases are kept, the same command goes on", STOPPED)


def _panes(case: Case) -> str:
    return "Portrait, driver, result" + (", truth." if case.truth is not None else ".")


def _told(finished: list[Finished], runs: dict[str, Run]) -> str:
    made = sum(not run.kept for run in runs.values())
    kept = sum(case.kept for case in finished)
    notes = [f"{made} animated now"] * bool(runs) + [f"{kept} kept from before"] * bool(kept)
    return f"{len(finished)} videos" + (f" ({', '.join(notes)})" if notes else "")


def _tell(line: str) -> None:
    typer.echo(line, err=True)
