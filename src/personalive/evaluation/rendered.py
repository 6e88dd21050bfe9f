"""The rendered benchmark: 30 people held out from training, 10 s each, rebuilt from seeds and checked.

A folder of it holds people/<seed>.tar (pictures and exact ground truth), driving/<seed>.mp4, reference/<seed>.png (the
first frame) and cases.toml: everybody driven by the own clip, and everybody by the next one's. Any system can be run on
the videos; `personalive evaluate --manifest cases.toml --generated OUT` scores it, and with `--model MODEL` instead of
`--generated` our own. long.toml has three streams of 2,000 frames. What the renderer knows (motion, and who is shown)
is used by its exact measures.

Seeds and ground truth are checked by hash; where the last digits of another machine's arithmetic differ, by sums with a
tolerance. Pixels depend on the renderer's driver: a few small pictures of each person are compared with a tolerance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from personalive.data.jobs import run_jobs
from personalive.data.shards import GroundTruth, PersonRecord, read_shards, write_shard
from personalive.evaluation.long_stream import turn_length
from personalive.evaluation.temporal import ping_pong
from personalive.media.frames import Pixels
from personalive.media.video import read_video
from personalive.media.video_writer import VideoWriter
from personalive.rendering.face_model import load_face_model
from personalive.rendering.people import SEED_RANGES
from personalive.rendering.plans import FPS, plan_clip
from personalive.rendering.records import render_person
from personalive.rendering.renderer import Renderer

PEOPLE, FRAMES, SIDE = 30, 250, 128
FIRST_SEED = SEED_RANGES["clip"][0]
SHOWN = (0, 83, 166, 249)  # frames whose small pictures are compared
SMALL = 4  # side of a small picture, pixels
TRUTH_TOLERANCE = 1e-3  # of sums over a clip, in the unit of the field (degrees, half pictures)
PIXEL_TOLERANCE = 3.0  # mean difference of a person's small pictures, in levels of 255
LONG_PEOPLE, LONG_FRAMES = 3, 2000  # clips to and fro: long streams
CRF = 8  # of the drivers: hardly any loss
CLIP_COMMENT = "A rendered person of PersonaLive's own making; nobody real is shown"

Fingerprint = dict[str, Any]
"""Of one person: "truth" (SHA-256), "sums" (field -> three numbers), "pixels" (hexadecimal small pictures)."""


@dataclass(frozen=True)
class Check:
    """How a rebuilt benchmark compares with the recorded one.

    exact: people whose ground truth has the recorded hash; different: a line for each who is not the recorded one, in
    truth or in pixels; pixels: the largest mean difference of a person's small pictures, in levels of 255.
    """

    people: int
    exact: int
    different: tuple[str, ...]
    pixels: float


def build(
    folder: Path, face_model: Path, workers: int = 1, done: Callable[[int, int], object] = lambda *_: None
) -> None:
    """Render who is missing, then write videos, pictures and cases.toml. Complete files are kept.

    Call it under `if __name__ == "__main__":` in a script: the workers are fresh processes.
    """
    load_face_model(face_model)  # a bad file is one clear error here, not one per worker
    for name in ("people", "driving", "reference"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(face_model, folder, seed) for seed in seeds() if not _finished(folder, seed)]
    count = [PEOPLE - len(jobs)]
    done(count[0], PEOPLE)

    def hear(_: int) -> None:
        count[0] += 1
        done(count[0], PEOPLE)

    run_jobs(_render, jobs, workers, hear)
    for seed in seeds()[:LONG_PEOPLE]:
        _write_long(folder, seed)
    (folder / "cases.toml").write_text(manifest(), "utf-8")
    (folder / "long.toml").write_text(long_manifest(), "utf-8")


def seeds() -> range:
    """Of the people."""
    return range(FIRST_SEED, FIRST_SEED + PEOPLE)


def manifest() -> str:
    """cases.toml: without outputs, which are named by --generated."""
    lines = ["format = 1", 'name = "rendered benchmark"']
    names = [f"{seed:08d}" for seed in seeds()]
    for name, other in zip(names, [*names[1:], *names[:1]], strict=True):
        for case, category, driver in ((name, "self", name), (f"{name}-by-{other}", "cross", other)):
            lines += ["", "[[case]]", f'name = "{case}"', f'category = "{category}"']
            lines += [f'reference = "reference/{name}.png"', f'driving = "driving/{driver}.mp4"']
            lines += [f'portrait_person = "people/{name}.tar"', f'driver_person = "people/{driver}.tar"']
    return "\n".join([*lines, ""])


def long_manifest() -> str:
    """long.toml: the first people, each driven by the own clip to and fro for minutes."""
    lines = ["format = 1", 'name = "rendered benchmark, long streams"']
    for name in (f"{seed:08d}" for seed in seeds()[:LONG_PEOPLE]):
        lines += ["", "[[case]]", f'name = "{name}-long"', 'category = "self"']
        lines += [f'reference = "reference/{name}.png"', f'driving = "driving/{name}-long.mp4"']
        lines += [f'portrait_person = "people/{name}.tar"']
    return "\n".join([*lines, ""])


def check(folder: Path, recorded: Mapping[str, Fingerprint] | None = None) -> Check:
    """Compare the people of a folder with the recorded fingerprints (by default those in the package).

    Raises ShardError for a person that is missing or damaged.
    """
    known = load_fingerprints() if recorded is None else recorded
    exact, different, most = 0, [], 0.0
    for person in _people(folder, known):
        found, wanted = fingerprint(person), known[person.name]
        exact += found["truth"] == wanted["truth"]
        apart = np.abs(np.array(list(found["sums"].values())) - np.array(list(wanted["sums"].values()))).max()
        if apart > TRUTH_TOLERANCE:
            different.append(f"{person.name}: another ground truth (sums differ by {apart:.2g})")
        colours = float(np.abs(_small_pictures(found) - _small_pictures(wanted)).mean())
        most = max(most, colours)
        if colours > PIXEL_TOLERANCE:
            different.append(f"{person.name}: other pictures (by {colours:.1f} of 255 levels)")
    return Check(len(known), exact, tuple(different), most)


def fingerprint(person: PersonRecord) -> Fingerprint:
    """What tells this rendered person and clip from others. Raises ValueError for a person without ground truth."""
    if person.truth is None:
        raise ValueError(f"{person.name} has no ground truth")
    digest = hashlib.sha256(person.name.encode())
    sums = {}
    for field in fields(GroundTruth):
        values = np.round(np.asarray(getattr(person.truth, field.name), np.float64), 4) + 0.0  # no -0
        digest.update(f"{field.name} {values.shape}".encode() + values.astype("<f8").tobytes())
        weights = np.cos(np.arange(values.size)).reshape(values.shape)
        sums[field.name] = [round(float(v), 5) for v in (values.mean(), values.std(), (values * weights).mean())]
    small = [cv2.resize(person.images[at], (SMALL, SMALL), interpolation=cv2.INTER_AREA) for at in _shown(person)]
    return {"truth": digest.hexdigest(), "sums": sums, "pixels": np.stack(small).astype(np.uint8).tobytes().hex()}


def load_fingerprints() -> dict[str, Fingerprint]:
    """The recorded ones, by name."""
    path = Path(str(resources.files("personalive"))) / "assets" / "benchmark.json"
    found: dict[str, Fingerprint] = json.loads(path.read_text("utf-8"))
    return found


def record(people: Iterable[PersonRecord], path: Path) -> None:
    """Write the fingerprints of people: after a change to the renderer that is meant to change them."""
    found = {person.name: fingerprint(person) for person in people}
    path.write_text(json.dumps(found, separators=(",", ":")) + "\n", "utf-8")


def _shown(person: PersonRecord) -> list[int]:
    return [min(at, len(person.images) - 1) for at in SHOWN]


def _small_pictures(found: Fingerprint) -> NDArray[np.float64]:
    return np.frombuffer(bytes.fromhex(found["pixels"]), np.uint8).astype(np.float64)


def _people(folder: Path, known: Mapping[str, Fingerprint]) -> Iterator[PersonRecord]:
    for name in known:
        yield from read_shards([folder / "people" / f"{name}.tar"])


def _files(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    name = f"{seed:08d}"
    return (
        folder / "driving" / f"{name}.mp4",
        folder / "reference" / f"{name}.png",
        folder / "people" / f"{name}.tar",
    )


def _finished(folder: Path, seed: int) -> bool:
    return all(path.exists() for path in _files(folder, seed))


def _render(face_model: Path, folder: Path, seed: int) -> int:
    """One worker's job."""
    with closing(Renderer(load_face_model(face_model), SIDE)) as renderer:
        person = render_person(renderer, seed, plan_clip(seed, FRAMES, FPS))
    video, picture, shard = _files(folder, seed)
    write_video(video, person.images)
    Image.fromarray(person.images[0]).save(picture)
    write_shard(shard, [person])
    return seed


def _write_long(folder: Path, seed: int) -> None:
    """The clip to and fro, turned where the second and the last block of frames show the same (long_stream.py)."""
    video, _, _ = _files(folder, seed)
    output = video.with_name(f"{video.stem}-long.mp4")
    if output.exists():
        return
    with read_video(video) as reader:
        frames = np.stack([frame.pixels for frame in reader])
    write_video(output, frames[ping_pong(turn_length(len(frames), LONG_FRAMES), LONG_FRAMES)])


def write_video(path: Path, frames: Pixels) -> None:
    """A driver: nearly lossless H.264 at FPS."""
    height, width = frames.shape[1:3]
    with VideoWriter(path, width, height, rate=FPS, crf=CRF, comment=CLIP_COMMENT) as writer:
        for frame in frames:
            writer.write(frame)
