"""Memory over a whole `animate` run: python benchmarks/memory.py DRIVER PORTRAIT [--model M] [--bound-mb 16].

Animates the entire clip into a temporary file and prints the process's resident memory when frame 100 was written, at
the middle and at the end. Exits 1 when it grew by more than the bound from frame 100 on: memory is to depend on the
window, not on the clip's length. Needs /proc (Linux).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from personalive.animate import AnimatedVideo, animate, prepare
from personalive.pipeline import PersonaLive

SETTLED = 100
"""Frames after which the window, the encoder's look-ahead and the allocator's arenas are full."""

MEGABYTE = 1e6


def resident_bytes() -> int:
    """What this process has in memory now (the kernel's resident set)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(model: PersonaLive, driver: str, portrait: str) -> tuple[AnimatedVideo, list[int]]:
    """Animates the whole driver; the video's facts and the resident bytes after each frame that was written."""
    seen: list[int] = []

    def sample(written: int, _total: int | None) -> None:
        if written > len(seen):
            seen.extend([resident_bytes()] * (written - len(seen)))

    with tempfile.TemporaryDirectory() as folder:
        done = animate(model, prepare(portrait, driver, Path(folder) / "out.mp4"), sample)
    return done, seen


def main() -> None:
    """Print the three figures; exit 1 beyond the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver", help='a video, or "builtin"')
    parser.add_argument("portrait", help="a picture, or a built-in portrait's name")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--bound-mb", type=float, default=16.0, help="allowed growth after frame 100, in 10^6 bytes")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    done, seen = run(PersonaLive.from_pretrained(args.model), args.driver, args.portrait)
    if len(seen) <= 2 * SETTLED:
        sys.exit(f"{args.driver} has {len(seen)} frames; more than {2 * SETTLED} are needed to tell")
    at = {f"frame {SETTLED}": seen[SETTLED - 1], f"frame {len(seen) // 2}": seen[len(seen) // 2 - 1], "end": seen[-1]}
    grown = (max(seen[SETTLED - 1 :]) - seen[SETTLED - 1]) / MEGABYTE
    print(f"{done.frames} frames in {done.took:.0f} s; resident memory")
    for name, value in at.items():
        print(f"  {name:>12}: {value / MEGABYTE:8.1f} MB")
    print(f"  highest after frame {SETTLED}: {grown:+.1f} MB (bound {args.bound_mb:g} MB)")
    sys.exit(grown > args.bound_mb)


if __name__ == "__main__":
    main()
