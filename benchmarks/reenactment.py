"""Self-reenactment of held-out rendered people: python benchmarks/reenactment.py SHARDS... [--model M] [--sheet PNG].

Prints a Markdown table. SHARDS: clip-*.tar of `personalive data render`.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from personalive.data.shards import read_shards
from personalive.evaluation.reenactment import Reenacted, reenact, table
from personalive.pipeline import PersonaLive


def sheet(results: list[Reenacted], people: int = 8, frames: int = 4) -> Image.Image:
    """Rows of people: for some frames, truth and output side by side."""
    rows = []
    for result in results[:people]:
        chosen = np.linspace(8, len(result.truth) - 1, frames).astype(int)
        rows.append(np.hstack([np.hstack([result.truth[i], result.output[i]]) for i in chosen]))
    return Image.fromarray(np.vstack(rows))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = PersonaLive.from_pretrained(args.model)
    people = itertools.islice(read_shards(args.shards), args.people)
    results = list(reenact(model, people))
    print(f"{len(results)} people, {sum(len(r.truth) for r in results)} frames\n\n{table(results)}")
    ours, copy = (np.mean([r.figures[c]["L1"] for r in results]) for c in ("output", "copy"))
    print(f"\nL1 is {100 * (1 - ours / copy):.1f} % under copying the reference")
    if args.sheet:
        sheet(results).save(args.sheet)


if __name__ == "__main__":
    main()
