"""The paper's ablations at a reduced budget: python benchmarks/ablations.py DATA RUN CLIPS -o FOLDER.

RUN: a run folder whose `rollout` stage has ended; from its weights the stream stage is trained once for each variant,
for the same number of steps, in FOLDER/<variant>. Then everybody in CLIPS (shards of people held out,
`personalive data render --split clip`) is driven by the next. A variant whose checkpoint is in FOLDER is not trained
again, one whose figures are there is not measured again: repeat the command to go on. Measured and written as
`personalive compare` does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from personalive.data.shards import read_shards
from personalive.evaluation.ablations import ABLATIONS, MEASURES, Ablation
from personalive.evaluation.comparison import write_comparison
from personalive.evaluation.variants import Variant, VariantFigures, measure
from personalive.evaluation.yardstick import Yardstick

SHARED = ("autoencoder", "motion", "image", "rollout", "prepared.train", "prepared.test")


def train(ablation: Ablation, args: argparse.Namespace) -> Path:
    """The variant's checkpoint, trained if it is not there."""
    name = ablation.name.replace(" ", "-")
    checkpoint: Path = args.output / f"{name}.safetensors"
    if checkpoint.exists():
        return checkpoint
    run = args.output / name
    run.mkdir(parents=True, exist_ok=True)
    for part in SHARED:
        own, shared = run / f"{part}.safetensors", args.run / f"{part}.safetensors"
        if shared.exists() and not own.exists():
            own.symlink_to(shared.resolve())
    recipe = {"stream.optimisation.steps": args.steps} | ablation.recipe
    command = [sys.executable, "-m", "personalive", "train", "--stage", "stream", "--data", str(args.data)]
    command += ["--run", str(run), "--device", args.device, "--processes", str(args.processes)]
    command += [word for key, value in recipe.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    sizes = [word for key, value in ablation.config.items() for word in ("--config-set", f"{key}={json.dumps(value)}")]
    subprocess.run([*command, *args.extra, *sizes], check=True)
    export = [sys.executable, "-m", "personalive", "train", "--run", str(run), "--export", str(checkpoint), *sizes]
    subprocess.run(export, check=True)
    return checkpoint


def agreement(found: Sequence[VariantFigures]) -> str:
    """Markdown: by which measures each variant differs from the full system in the paper's direction."""
    full = {name: found[0].estimate(name).mean for name in MEASURES}
    lines = ["| | moves the same way as in the paper |", "|---|---|"]
    for ablation, figures in zip(ABLATIONS[1:], found[1:], strict=True):
        changes = {m: (figures.estimate(m).mean - full[m], ablation.paper[m] - ABLATIONS[0].paper[m]) for m in MEASURES}
        lines.append(f"| {ablation.name} | {', '.join(m for m, change in changes.items() if agree(*change))} |")
    return "\n".join(lines)


def agree(ours: float, theirs: float) -> bool:
    """Both change, and one way."""
    return ours * theirs > 0


def main() -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60, help="of the stream stage, the same for each variant")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--frames", type=int, default=126)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="more options of `personalive train`")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    variants = [Variant(ablation.name, str(train(ablation, args))) for ablation in ABLATIONS]
    people, reader = list(itertools.islice(read_shards([args.clips]), args.people)), Yardstick.load()
    found = [measure(variant, people, reader, args.frames, args.output / "cases") for variant in variants]
    print(f"{write_comparison(args.output, found)}\n\n{agreement(found)}")


if __name__ == "__main__":
    main()
