"""Every figure asked of the built-in model: python benchmarks/builtin_model.py CLIPS --expression SHARDS -o JSON.

CLIPS: clip-*.tar of `personalive data render --split clip`; SHARDS: expression-*.tar (`--split expression`): people
held out from training. docs/evaluation.md defines every measure. The JSON is written anew after each section, so that a
run that is stopped leaves what it has; `--sections` chooses some of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from personalive.config import override
from personalive.data.shards import PersonRecord, read_shards
from personalive.evaluation.animator import Animator, streamed
from personalive.evaluation.crossing import cross
from personalive.evaluation.expression import expression_alone
from personalive.evaluation.long_stream import long_stream
from personalive.evaluation.measures import RENDERED
from personalive.evaluation.mesh import FaceMesh
from personalive.evaluation.reenactment import CHANNELS, reenact
from personalive.evaluation.report import Row, markdown, provenance, write_json
from personalive.evaluation.statistics import estimate
from personalive.evaluation.steps import compare_steps
from personalive.evaluation.yardstick import Yardstick
from personalive.pipeline import PersonaLive
from personalive.plain_data import assignments

GOALS: dict[str, tuple[float, bool]] = {
    "SSIM": (0.68, True),
    "L1": (0.052, False),
    "expression": (0.8, True),
    "identity drift": (0.03, False),
    "sharpness loss": (0.05, False),
    "change ratio": (1.3, False),
    "nearer": (0.95, True),
    "gain": (0.0, True),
}
"""What was asked of a model trained on a CPU, and whether more is better."""


@dataclass(frozen=True)
class _Reenacted:
    """One person's figures by channel and measure."""

    name: str
    figures: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Steps:
    """One person's figures by number of steps."""

    name: str
    steps: dict[int, dict[str, float]]


class Evaluation:
    """The sections, each over some people."""

    def __init__(
        self,
        model: PersonaLive,
        clips: list[PersonRecord],
        faces: list[PersonRecord],
        frames: int,
        mesh: FaceMesh | None = None,
    ) -> None:
        self.model, self.clips, self.faces, self.frames, self.mesh = model, clips, faces, frames, mesh
        self.animate: Animator = streamed(model)
        self.reader = Yardstick.load()

    def reenactment(self) -> Iterator[Any]:
        """Self-reenactment, whole and by region, beside copying and the autoencoder."""
        for result in reenact(self.model, self.clips):
            yield _Reenacted(result.name, result.figures)

    def steps(self) -> Iterator[Any]:
        """One to four steps from noise."""
        for person in self.clips:
            yield _Steps(person.name, compare_steps(self.model, person.images))

    def expression(self) -> Iterator[Any]:
        """Expression alone."""
        for person in self.faces:
            yield expression_alone(self.animate, person, self.reader, self.mesh)

    def crossing(self) -> Iterator[Any]:
        """Everybody driven by the next."""
        for own, other in zip(self.clips, self.clips[1:] + self.clips[:1], strict=True):
            ends = (own.name, own.images[0]), (other.name, other.images)
            yield cross(self.animate, *ends, self.reader, true=own.images[1:])

    def long(self) -> Iterator[Any]:
        """Streams of minutes, of the first three people."""
        for person in self.clips[:3]:
            yield long_stream(self.animate, person.name, person.images[0], person.images, self.reader, self.frames)


def rows(section: str, cases: list[Any]) -> list[Row]:
    """The figures of a section over its cases."""

    def row(measure: str, values: list[float], goal: str = "") -> Row:
        asked, higher = GOALS.get(goal, (None, True))
        return Row(section, measure, estimate(values), asked, higher)

    if section == "reenactment":
        return [
            row(f"{channel}: {name}", [c.figures[channel][name] for c in cases], name if channel == "output" else "")
            for channel in CHANNELS
            for name in cases[0].figures[channel]
        ]
    if section == "steps":
        most = max(cases[0].steps)
        table = [
            row(f"{steps} steps: {name}", [c.steps[steps][name] for c in cases])
            for steps in cases[0].steps
            for name in ("L1", "SSIM")
        ]
        gains = [c.steps[most]["SSIM"] - c.steps[1]["SSIM"] for c in cases]
        return [*table, row(f"SSIM of {most} steps less one", gains, "gain")]
    if section == "expression":
        return [
            row(f"{part}: {name}", [getattr(c, part)[name] for c in cases], "expression" if "output" in part else "")
            for part in ("output", "seen", "output_mesh", "seen_mesh")
            for name in getattr(cases[0], part)
        ]
    if section == "crossing":
        own = row(f"output nearer to the portrait{RENDERED}", [c.nearer for c in cases], "nearer")
        return [own, row("the same of true frames", [c.seen for c in cases])]
    return [
        row(f"identity drift{RENDERED}", [c.identity_drift for c in cases], "identity drift"),
        row("sharpness loss", [c.sharpness_loss for c in cases], "sharpness loss"),
        row("change ratio", [c.temporal.change_ratio for c in cases], "change ratio"),
        row("flicker ratio", [c.temporal.flicker_ratio for c in cases]),
    ]


SECTIONS = ("reenactment", "steps", "expression", "crossing", "long")


def main() -> None:
    """Run the sections and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--expression", nargs="*", type=Path, default=[], help="shards with the heads held still")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--long-frames", type=int, default=2000)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="of the model's configuration: stream.levels=2 ...")
    parser.add_argument("--face-mesh", metavar="PYTHON", help="one that has mediapipe: reads the expression, too")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clips, faces = (list(itertools.islice(read_shards(p), args.people)) for p in (args.clips, args.expression))
    networks = PersonaLive.from_pretrained(args.model).networks
    changes = assignments(args.set)
    networks = dataclasses.replace(networks, config=override(networks.config, changes))
    mesh = None if args.face_mesh is None else FaceMesh(args.face_mesh)
    evaluation = Evaluation(PersonaLive(networks), clips, faces, args.long_frames, mesh)
    source = provenance(" ".join([args.model, *args.set]))
    done: dict[str, list[Any]] = {}
    table: list[Row] = []
    for section in args.sections:
        done[section] = list(getattr(evaluation, section)())
        if done[section]:
            table += rows(section, done[section])
        if args.output:
            write_json(args.output, table, source, done)
    print(markdown(table, source))


if __name__ == "__main__":
    main()
