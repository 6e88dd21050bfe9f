"""Many cases on a few processes; what is done is kept and not measured again.

A finished case is a folder (figures.json, features.npz, strip.jpg, clip.webm) that appears complete or not at all. Its
name is a hash of everything that its figures follow from: the contents of its files, the way of measuring
(`score.VERSION`), the yardstick and the networks; of a rendered person also the portraits among which it is looked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from personalive.data.jobs import run_jobs
from personalive.errors import InputError, output_error
from personalive.evaluation import networks
from personalive.evaluation.cases import Case, hashed
from personalive.evaluation.clips import clip, strip
from personalive.evaluation.exact import load_exact, portrait_identities
from personalive.evaluation.face_points import mesh_points, yunet
from personalive.evaluation.identity import CaseEmbeddings, scale_figures
from personalive.evaluation.mesh import FaceMesh
from personalive.evaluation.meters import Instruments
from personalive.evaluation.networks import FaceNetwork, NetworkFiles, VideoNetwork
from personalive.evaluation.recogniser import open_recogniser
from personalive.evaluation.report import provenance
from personalive.evaluation.score import VERSION, Scored, VideoFigures, score
from personalive.evaluation.yardstick import Array, Yardstick, packaged


@dataclass(frozen=True)
class Finished:
    """A case that was measured, where it is kept, and whether it was there before."""

    scored: Scored
    folder: Path
    kept: bool

    def strip(self) -> bytes:
        """JPEG."""
        return (self.folder / "strip.jpg").read_bytes()

    def clip(self) -> bytes:
        """WebM."""
        return (self.folder / "clip.webm").read_bytes()


def measure_all(
    cases: Sequence[Case],
    files: NetworkFiles,
    folder: Path,
    *,
    gallery: tuple[Path, ...] = (),
    max_frames: int | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    done: Callable[[int], object] = lambda _: None,
) -> tuple[list[Finished], list[str]]:
    """The cases in their order, kept under `folder`, and a line for each that could not be scored.

    gallery: the portraits among which rendered people are looked for. done: hears how many are finished. Without
    skip_bad the first bad case is raised as InputError; those finished before stay. With one worker everything runs
    in this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[int, Finished | str] = {}

    def take(result: tuple[int, Path | None, bool, str]) -> None:
        number, place, kept, problem = result
        if place is None and not skip_bad:
            raise InputError(problem)
        found[number] = problem if place is None else Finished(load(place), place, kept)
        done(len(found))

    open_instruments(files)  # a network that cannot be used is one clear line here, not one from each process
    asked = _Asked(files, folder, max_frames, gallery)
    jobs = [(number, case, asked) for number, case in enumerate(cases)]
    if workers == 1:
        for job in jobs:
            take(_job(*job))
    else:
        run_jobs(_job, jobs, workers, take)
    results = [found[number] for number in range(len(cases))]
    return [r for r in results if isinstance(r, Finished)], [r for r in results if isinstance(r, str)]


def with_scale(cases: Sequence[Case], scored: Sequence[Scored]) -> list[Scored]:
    """Return scored cases with what their cosines of identity are held against (identity.py) among their figures."""
    found = scale_figures(cases, [one.faces for one in scored], _hash_once)
    return [
        replace(one, figures=replace(one.figures, figures=one.figures.figures | more))
        for one, more in zip(scored, found, strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    """What every case of a run is measured with, and where it is kept."""

    files: NetworkFiles
    folder: Path
    max_frames: int | None
    gallery: tuple[Path, ...]


@functools.cache
def open_instruments(files: NetworkFiles) -> Instruments:
    """The networks, opened once in each process. Raises WeightsError or ConfigError for what cannot be used."""
    mesh, face = None if files.mesh is None else FaceMesh(files.mesh), files.face
    points = yunet(files.landmarks) if files.landmarks is not None else None if mesh is None else mesh_points(mesh)
    return Instruments(
        reader=Yardstick.load(),
        lpips=None if files.lpips is None else networks.lpips_distance(files.lpips),
        identity=None if files.identity is None else open_recogniser(files.identity, points),
        face=None if face is None else FaceNetwork(networks.open_network(face, ["expression", "pose"])),
        video=None if files.video is None else VideoNetwork(files.video),
        mesh=mesh,
    )


def key_of(case: Case, files: NetworkFiles, max_frames: int | None, gallery: Sequence[Path] = ()) -> str:
    """What a case's figures follow from, as 24 digits. Raises InputError for a file that cannot be read."""
    contents = {part: hashed(path) for part, path in {"generated": case.generated, **case.inputs}.items()}
    others = [_hash_once(path) for path in gallery] if case.portrait_person is not None else []
    given = [VERSION, _hash_once(packaged()), contents, others, case.name, case.cross, max_frames, files.key()]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:24]


_hash_once = functools.cache(hashed)


@functools.cache
def _faces(gallery: tuple[Path, ...], files: NetworkFiles) -> Array:
    return portrait_identities(gallery, open_instruments(files).reader)


def _job(number: int, case: Case, asked: _Asked) -> tuple[int, Path | None, bool, str]:
    """One case: its number, its folder (None: bad, and why), and whether it was kept from before."""
    try:
        place = asked.folder / key_of(case, asked.files, asked.max_frames, asked.gallery)
        if place.exists():
            return number, place, True, ""
        exact = load_exact(case, asked.gallery, _faces(asked.gallery, asked.files))
        scored = score(case, open_instruments(asked.files), asked.max_frames, exact)
        _keep(place, scored, case)
    except InputError as error:
        return number, None, False, f"{case.name}: {error}"
    return number, place, False, ""


def _keep(place: Path, scored: Scored, case: Case) -> None:
    partial = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir()
        (partial / "strip.jpg").write_bytes(strip(case, scored.figures.frames))
        (partial / "clip.webm").write_bytes(clip(case, scored.figures.frames))
        faces = {} if scored.faces is None else asdict(scored.faces)
        np.savez_compressed(partial / "features.npz", made=scored.features[0], true=scored.features[1], **faces)
        measured = {name: value for name, value in provenance("").items() if name in ("commit", "machine", "date")}
        text = json.dumps(asdict(scored.figures) | {"source": measured})
        (partial / "figures.json").write_text(text, "utf-8")  # with NaN, which only this program reads
        partial.rename(place)
    except OSError as error:
        raise output_error(place, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(place: Path) -> Scored:
    """A finished case as it was kept. Raises InputError for one that was changed since."""
    try:
        entries: dict[str, Any] = json.loads((place / "figures.json").read_text("utf-8"))
        entries["over_time"] = {name: tuple(values) for name, values in entries["over_time"].items()}
        with np.load(place / "features.npz") as stored:
            features = stored["made"], stored["true"]
            parts = {name: stored[name] for name in ("portrait", "output", "driver") if name in stored}
            faces = CaseEmbeddings(str(stored["measure"]), **parts) if parts else None
        figures = VideoFigures(**entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place} is not a finished case; delete it and repeat the command") from error
    return Scored(figures, features, faces)
