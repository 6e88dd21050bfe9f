"""Portraits, clips and whole data sets of rendered people, with several processes."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from personalive.data.jobs import run_jobs
from personalive.data.shards import PersonRecord, write_shard
from personalive.errors import ConfigError
from personalive.rendering.face_model import FaceModel, load_face_model
from personalive.rendering.flow import FlowRenderer
from personalive.rendering.motion import near_neutral
from personalive.rendering.pairs import flow_targets, plan_pair
from personalive.rendering.plans import Plan, plan_clip, plan_expression, plan_person
from personalive.rendering.records import render_person
from personalive.rendering.renderer import Renderer

Split = Literal["train", "test", "clip", "expression"]

SHARD_PEOPLE = 32
# Seeds of people; training and held-out people never meet. Below 10,000: built-in portraits and their driver.
SEED_RANGES: dict[Split, tuple[int, int]] = {
    "train": (10_000, 900_000),
    "test": (900_000, 1_000_000),
    "clip": (900_000, 1_000_000),
    "expression": (900_000, 1_000_000),
}

logger = logging.getLogger(__name__)


def _record(renderer: Renderer, flows: FlowRenderer, seed: int, frames: int, split: Split, pairs: bool) -> PersonRecord:
    """A person as the split wants it."""
    if split == "clip":
        return render_person(renderer, seed, plan_clip(seed, frames))
    if split == "expression":
        return render_person(renderer, seed, plan_expression(seed, frames))
    if not pairs:
        return render_person(renderer, seed, plan_person(seed, frames))
    plan = plan_pair(seed, frames)
    return render_person(renderer, seed, plan, flows, flow_targets(seed, plan))


def render_portrait(face_model: FaceModel | Path | str, person_seed: int, size: int) -> NDArray[np.uint8]:
    """A calm, near-frontal portrait (size, size, 3), RGB."""
    face, pose = near_neutral(np.random.default_rng([person_seed, 8]))
    plan = Plan(face[None], (pose,), ("reference",), (0,))
    with closing(Renderer(_loaded(face_model), size)) as renderer:
        picture: NDArray[np.uint8] = render_person(renderer, person_seed, plan).images[0]
    return picture


def render_clip(
    face_model: FaceModel | Path | str, person_seed: int, clip_seed: int, frames: int, size: int
) -> NDArray[np.uint8]:
    """A smooth clip (frames, size, size, 3) at 25 frames a second that starts near neutral, RGB."""
    with closing(Renderer(_loaded(face_model), size)) as renderer:
        return render_person(renderer, person_seed, plan_clip(clip_seed, frames)).images


def render_people(
    face_model: Path | str,
    out_dir: Path | str,
    first_seed: int,
    people: int,
    size: int,
    workers: int = 2,
    frames: int = 40,
    split: Split = "train",
    pairs: bool = True,
) -> list[Path]:
    """Render `people` people from `first_seed` on into shards `<split>-00000.tar`...; returns their paths.

    Complete shards are kept, so an interrupted run can be repeated. Split "clip" renders one smooth clip of `frames`
    frames per (held-out) person instead of the mixed frames, "expression" one in which only the face moves. `pairs`,
    for the splits "train" and "test": the people 2k and 2k + 1 share their plan, and exact flow is stored. Call it
    under `if __name__ == "__main__":` in a script, because the workers are fresh processes that import it.

    Raises:
        ConfigError: the seeds leave the range of the split, or a number is out of range.
        FaceModelError: the face model cannot be read.
    """
    low, high = SEED_RANGES[split]
    if people < 1 or workers < 1 or not low <= first_seed <= high - people:
        got = f"{people} from {first_seed} with {workers} workers"
        raise ConfigError(f"{split} people need seeds in [{low}, {high}) and at least one worker; got {got}")
    load_face_model(face_model)  # a bad file is one clear error here, not one per worker
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number in range(-(-people // SHARD_PEOPLE)):
        start = first_seed + number * SHARD_PEOPLE
        seeds = range(start, min(start + SHARD_PEOPLE, first_seed + people))
        jobs.append((out / f"{split}-{number:05d}.tar", seeds))
    waiting = [job for job in jobs if not job[0].exists()]
    logger.info("%s: %d shards, %d still to render", split, len(jobs), len(waiting))
    queue = [(face_model, *job, size, frames, split, pairs) for job in waiting]
    run_jobs(_render_shard, queue, workers, lambda path: logger.info("%s complete", path))
    return [path for path, _ in jobs]


_renderers: dict[tuple[str, int], tuple[Renderer, FlowRenderer]] = {}  # of this process: opening one costs seconds


def _render_shard(
    face_model: Path | str, path: Path, seeds: range, size: int, frames: int, split: Split, pairs: bool
) -> Path:
    """One worker's job."""
    key = (str(face_model), size)
    if key not in _renderers:
        renderer = Renderer(load_face_model(face_model), size)
        _renderers[key] = renderer, FlowRenderer(renderer, size)
    renderer, flows = _renderers[key]
    write_shard(path, (_record(renderer, flows, seed, frames, split, pairs) for seed in seeds))
    return path


def _loaded(face_model: FaceModel | Path | str) -> FaceModel:
    return face_model if isinstance(face_model, FaceModel) else load_face_model(face_model)
