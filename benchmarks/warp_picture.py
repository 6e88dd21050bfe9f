"""The picture of docs/architecture.md: python benchmarks/warp_picture.py OUT.png [--portrait NAME] [--frames 45 95].

A row for each driving frame of the built-in clip: driver, flow (grey: nothing moves; red: from the right, green: from
below), figure, seen, warped portrait, background plate, finished frame.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from personalive.gallery import find_driving, find_portrait
from personalive.media.frames import Pixels, load_picture, resize_picture, to_unit
from personalive.media.video import read_video
from personalive.motion import signals
from personalive.pipeline import PersonaLive
from personalive.warp.compose import PortraitGuide, portrait_layers, with_expression
from personalive.warp.driver import watch_driver
from personalive.warp.flow import identity_grid
from personalive.warp.portrait import build_surface, fit_portrait

GAIN = 3.0
"""How strongly the flow is coloured: a shift of 1 / GAIN of the picture's half is the brightest."""


def flow_picture(flow: Tensor) -> Tensor:
    """A flow (F, s, s, 2) as colours (F, 3, s, s) in [0, 1]."""
    shift = (flow - identity_grid(flow.shape[1], flow)) * GAIN / 2
    channels = torch.stack([0.5 + shift[..., 0], 0.5 + shift[..., 1], torch.full_like(shift[..., 0], 0.5)], dim=1)
    return channels.clamp(0, 1)


@torch.inference_mode()
def row(model: PersonaLive, portrait: Pixels, first: Pixels, frame: Pixels) -> Tensor:
    """The pictures of a driving frame whose clip begins with `first`: (7, 3, s, s) in [0, 1]."""
    networks, warp = model.networks, model.networks.reference_warp
    if warp is None:
        raise SystemExit("this model has no reference warp")
    picture = to_unit(resize_picture(portrait, model.config.output_size))
    _, own = signals.encode_reference(networks, portrait)
    surface = build_surface(warp, picture, fit_portrait(warp, picture, own.head, own.motion), own.head)
    layers = portrait_layers(picture, surface)
    guide = PortraitGuide(warp, layers, model.config.image_size)
    begin, driver = watch_driver(networks, to_unit(first))
    now, _ = watch_driver(networks, to_unit(frame), driver)
    signals.drive(networks, with_expression(own, layers), begin, now, guide=guide)
    moved = guide.moved
    assert moved is not None
    stream = model.start(portrait)
    chunk = model.config.stream.window_frames
    finished = stream.push(np.concatenate([first[None], np.repeat(frame[None], 2 * chunk - 1, axis=0)]))[-1]
    side = moved.flow.shape[1]
    masks = [moved.figure.expand(-1, 3, -1, -1), moved.seen.expand(-1, 3, -1, -1)]
    pictures = [to_unit(frame), flow_picture(moved.flow), *masks, layers.warped(moved), layers.plate]
    small = [functional.interpolate(each, size=side, mode="area") for each in (*pictures, to_unit(finished))]
    return torch.cat(small)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--portrait", default="emil")
    parser.add_argument("--frames", type=int, nargs="+", default=[45, 95, 113])
    args = parser.parse_args()
    with read_video(find_driving("builtin"), None) as video:
        clip = [frame.pixels for frame in islice(video, max(args.frames) + 1)]
    model = PersonaLive.from_pretrained(args.model, device="cpu")
    portrait = load_picture(find_portrait(args.portrait))
    found = torch.stack([row(model, portrait, clip[0], clip[number]) for number in args.frames])  # (F, 7, 3, s, s)
    levels = (found.clamp(0, 1) * 255).round().byte().permute(0, 3, 1, 4, 2)  # (F, s, 7, s, 3)
    Image.fromarray(levels.flatten(2, 3).flatten(0, 1).numpy()).save(args.out)


if __name__ == "__main__":
    main()
