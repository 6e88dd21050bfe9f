"""Checkpoints and settings beside each other: one table of crossings, with speed, and the paper's rows beside ours.

A variant is a model with some of its stream's settings changed (keyframes, tau, the start, the chunk's size): what
needs other weights is another checkpoint. Measured as the paper's ablations are (`ablations.crossed`); speed is that of
the whole stream, one viewer, on this machine, from the second chunk on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from personalive.config import override
from personalive.data.shards import PersonRecord
from personalive.errors import ConfigError, InputError
from personalive.evaluation.ablations import ABLATIONS, MEASURES, PAPER_TAU, TITLES, CrossedFigures, crossed
from personalive.evaluation.animator import Reader, streamed
from personalive.evaluation.statistics import Estimate, estimate
from personalive.evaluation.stopwatch import Stopwatch
from personalive.evaluation.yardstick import packaged
from personalive.pipeline import PersonaLive
from personalive.weights.record import sha256_of

VERSION = 2
"""To be raised with every change to what is measured."""

CHANGEABLE = "stream."
"""Where a setting's name begins that may be changed without other weights."""


@dataclass(frozen=True)
class Variant:
    """A name, a model (anything that `weights.find` knows) and settings of its stream."""

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantFigures:
    """A variant's crossings and its frames per second."""

    name: str
    cases: tuple[CrossedFigures, ...]
    speed: float

    def estimate(self, measure: str) -> Estimate:
        """Over the crossings in which it could be measured."""
        return estimate([getattr(case, measure) for case in self.cases])


def parse(text: str) -> Variant:
    """NAME=MODEL or NAME=MODEL,stream.keyframes=0,stream.tau=12. Raises ConfigError naming what is wrong."""
    name, _, rest = text.partition("=")
    model, *words = rest.split(",")
    if not name.strip() or not model.strip():
        raise ConfigError(f"{text!r} is no variant; write NAME=MODEL, or NAME=MODEL,stream.keyframes=0")
    settings = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key.startswith(CHANGEABLE):
            raise ConfigError(f"{name}: {key!r} cannot be changed in a trained model; settings begin with {CHANGEABLE}")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            raise ConfigError(f"{name}: {key}={value} is no number, true or false") from None
    return Variant(name.strip(), model.strip(), settings)


def opened(variant: Variant) -> PersonaLive:
    """The model with the variant's settings. Raises WeightsError or ConfigError."""
    model = PersonaLive.from_pretrained(variant.model)
    networks = model.networks
    return PersonaLive(dataclasses.replace(networks, config=override(networks.config, variant.settings)))


def measure(
    variant: Variant, people: Sequence[PersonRecord], reader: Reader, frames: int, kept: Path
) -> VariantFigures:
    """The variant's figures, kept in the folder `kept` under what they follow from, and taken from there."""
    path = kept / f"{_key(variant, people, frames)}.json"
    if path.exists():
        return _load(path)
    model = opened(variant)
    clock = Stopwatch(streamed(model), chunk=model.config.stream.chunk_frames)
    cases = crossed(clock, people, reader, frames)
    found = VariantFigures(variant.name, tuple(cases), clock.frames_per_second)
    kept.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(asdict(found), indent=1), "utf-8")  # with NaN, which only this program reads
    partial.replace(path)
    return found


def paper(name: str) -> dict[str, float] | None:
    """The paper's figures of a variant of this name: of its Table 2, or "tau N" of its Table 3."""
    rows = {ablation.name: ablation.paper for ablation in ABLATIONS} | PAPER_TAU
    return rows.get(name)


def table(found: Sequence[VariantFigures]) -> str:
    """Markdown: a line for each variant, mean and interval; the paper's figure behind it where there is one."""
    head = [f"{TITLES[ours]} ({theirs})" for ours, (theirs, _) in MEASURES.items()]
    lines = [f"| | {' | '.join(head)} | frames/s |", "|---" * (len(head) + 2) + "|"]
    for figures in found:
        published = paper(figures.name)
        cells = []
        for name in MEASURES:
            e = figures.estimate(name)
            number = "not measured" if not e.count else str(e) if e.count > 1 else f"{e.mean:.4f}"
            cells.append(number + ("" if published is None else f" ({published[name]:g})"))
        lines.append(f"| {figures.name} | {' | '.join(cells)} | {figures.speed:.2f} |")
    return "\n".join(lines)


def _key(variant: Variant, people: Sequence[PersonRecord], frames: int) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, variant.name, variant.settings, frames]).encode())
    digest.update(f"{model_identity(variant.model)} {sha256_of(packaged())}".encode())
    for person in people:
        digest.update(person.name.encode() + person.images.tobytes())
    return digest.hexdigest()[:24]


def model_identity(model: str) -> str:
    """What tells a model from others: a file's hash; sizes and times of a folder's files; else its name."""
    for path in (Path(model), Path(str(resources.files("personalive"))) / "assets" / f"{model}.safetensors"):
        if path.is_file():
            return sha256_of(path)
        if path.is_dir():
            some = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(path.rglob("*")) if p.is_file()]
            return json.dumps(some)
    return model


def _load(path: Path) -> VariantFigures:
    try:
        entries = json.loads(path.read_text("utf-8"))
        cases = tuple(CrossedFigures(**case) for case in entries["cases"])
        return VariantFigures(entries["name"], cases, entries["speed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not what was kept there; delete it and repeat the command") from error
