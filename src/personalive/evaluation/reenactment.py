"""Self-reenactment of rendered people held out from training, through the product's own stream.

The portrait is a clip's first frame, the driver is the clip, motion is predicted from its pixels. The output of every
frame is compared with the clip itself, and so are two yardsticks: copying the portrait, and the autoencoder's
reconstruction of the true frame, which no output of this model can be expected to beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from personalive.data.landmarks import landmarks_of
from personalive.data.shards import PersonRecord
from personalive.evaluation import metrics
from personalive.evaluation.temporal import compare
from personalive.media.frames import Pixels, resize_to, to_signed, to_uint8, to_unit
from personalive.pipeline import PersonaLive

CHANNELS = ("output", "copy", "autoencoder")
"""The product's output, and the two yardsticks."""


@dataclass(frozen=True)
class Reenacted:
    """One person's clip: truth and outputs (F, H, W, 3) uint8, both of the truth's size, and the measures per name and
    channel, means over F.
    """

    name: str
    truth: Pixels
    output: Pixels
    figures: dict[str, dict[str, float]]


def reenact(model: PersonaLive, people: Iterable[PersonRecord], seed: int = 0) -> Iterator[Reenacted]:
    """Stream every person's clip onto its own first frame and measure frames 1 and later."""
    for person in people:
        stream = model.start(person.images[0], seed=seed)
        truth = person.images[1:]
        output = np.concatenate([stream.push(person.images), stream.flush()])[1:]
        output = np.stack([resize_to(frame, *truth.shape[1:3]) for frame in output])
        figures = _measure(model, person, truth, output)
        yield Reenacted(person.name, truth, output, figures)


@torch.inference_mode()
def _measure(model: PersonaLive, person: PersonRecord, truth: Pixels, output: Pixels) -> dict[str, dict[str, float]]:
    side = model.config.output_size
    wanted = to_unit(truth)
    copy = resize_to(resize_to(person.images[0], side, side), truth.shape[1], truth.shape[2])
    rebuilt = model.networks.autoencoder.decode(model.networks.autoencoder.encode(to_signed(truth)))
    channels = {"output": to_unit(output), "copy": to_unit(copy).expand_as(wanted), "autoencoder": rebuilt}
    landmarks = torch.from_numpy(landmarks_of(person)[1:])
    return {
        name: _figures(picture, wanted, landmarks) | asdict(compare(to_uint8(picture), truth))
        for name, picture in channels.items()
    }


def _figures(picture: Tensor, truth: Tensor, landmarks: Tensor) -> dict[str, float]:
    side = truth.shape[-1]
    eyes = metrics.region(landmarks, 36, 42, side, 0.05) + metrics.region(landmarks, 42, 48, side, 0.05)
    masks = {
        "face": metrics.region(landmarks, 0, 68, side, 0.03),
        "mouth": metrics.region(landmarks, 48, 68, side, 0.06),
        "eyes": eyes.clamp(max=1),
    }
    figures = {
        "L1": float(metrics.l1(picture, truth).mean()),
        "SSIM": float(metrics.ssim(picture, truth).mean()),
        "MS-SSIM": float(metrics.ms_ssim(picture, truth).mean()),
        "PSNR": float(metrics.psnr(picture, truth).mean()),
    }
    return figures | {f"{name} L1": float(metrics.l1(picture, truth, m).nanmean()) for name, m in masks.items()}


def table(results: list[Reenacted]) -> str:
    """Markdown: one row per channel, the mean over people of every measure."""
    names = list(results[0].figures["output"])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for channel in CHANNELS:
        means = [float(np.mean([r.figures[channel][name] for r in results])) for name in names]
        lines.append(f"| {channel} | " + " | ".join(f"{m:.2f}" if m > 2 else f"{m:.4f}" for m in means) + " |")
    return "\n".join(lines)
