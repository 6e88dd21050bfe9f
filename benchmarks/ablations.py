"""The paper's ablations at a reduced budget: python benchmarks/ablations.py DATA RUN CLIPS -o FOLDER.

RUN: a run folder whose `rollout` stage has ended; from its weights the stream stage is trained once for each variant,
for the same number of steps, in FOLDER/<variant>. Then everybody in CLIPS (shards of people held out,
`personalive data render --split clip`) is driven by the next. A variant whose checkpoint is in FOLDER is not trained
again, one whose figures are there is not measured again: repeat the command to go on. It prints a table with the
paper's figures beside ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from personalive.data.shards import PersonRecord, read_shards
from personalive.evaluation.ablations import ABLATIONS, MEASURES, Ablation, crossed
from personalive.evaluation.animator import streamed
from personalive.evaluation.report import provenance
from personalive.evaluation.yardstick import Yardstick
from personalive.pipeline import PersonaLive

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


def measure(checkpoint: Path, people: list[PersonRecord], frames: int) -> dict[str, float]:
    """Means over the crossings, kept beside the checkpoint."""
    kept = checkpoint.with_suffix(".json")
    if not kept.exists():
        animate = streamed(PersonaLive.from_pretrained(str(checkpoint)))
        cases = [asdict(figures) for figures in crossed(animate, people, Yardstick.load(), frames)]
        kept.write_text(json.dumps({"source": provenance(checkpoint.name), "cases": cases}, indent=1), "utf-8")
    cases = json.loads(kept.read_text("utf-8"))["cases"]
    return {name: float(np.nanmean([case[name] for case in cases])) for name in MEASURES}


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each variant, ours and the paper's; then whether each moves the way of the paper's."""
    names = " | ".join(f"{ours} ({theirs})" for ours, (theirs, _) in MEASURES.items())
    lines = [f"| | {names} | the same way as the paper |", "|---" * (len(MEASURES) + 2) + "|"]
    for ablation in ABLATIONS:
        ours, full = found[ablation.name], found["full"]
        cells = [f"{ours[m]:.4f} ({ablation.paper[m]:g})" for m in MEASURES]
        same = [m for m in MEASURES if agree(ours[m] - full[m], ablation.paper[m] - ABLATIONS[0].paper[m])]
        lines.append(f"| {ablation.name} | {' | '.join(cells)} | {', '.join(same)} |")
    return "\n".join(lines)


def agree(ours: float, theirs: float) -> bool:
    """Both changes go one way; where the paper's printed digits do not change there is no way to agree with."""
    return abs(theirs) > 1e-9 and math.copysign(1, ours) == math.copysign(1, theirs)


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
    checkpoints = {ablation.name: train(ablation, args) for ablation in ABLATIONS}
    people = list(itertools.islice(read_shards([args.clips]), args.people))
    found = {name: measure(path, people, args.frames) for name, path in checkpoints.items()}
    print(table(found))


if __name__ == "__main__":
    main()
