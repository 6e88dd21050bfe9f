"""What eight-bit linear layers would do to the frames: the UNet's rounded and put back, all else in float32.

Run `PYTHONPATH=src:tests python benchmarks/quantisation.py`. On a CPU this says nothing about speed, but the error is
the one that a GPU would make: a product of rounded numbers is the product of the numbers that were rounded to. "fp8" is
e4m3 with a scale for each token and each row of the weights, as the GPU's kernels take them; "int8 weights" keeps
activations whole. The golden is `stream_small` (512 px, filled parameters), the other model is the built-in one.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from parity_fill import golden
from personalive.contracts import Networks
from personalive.gallery import find_driving, find_portrait
from personalive.media.frames import load_picture, resize_picture
from personalive.motion import signals
from personalive.stream import Stream
from personalive.streaming import engine
from personalive.weights.find import open_model
from test_stream_parity import driving_chunk, filled_networks, noise

Rounding = Callable[[Tensor], Tensor]

FP8_MOST = torch.finfo(torch.float8_e4m3fn).max


def fp8(rows: Tensor) -> Tensor:
    """(..., W) rounded to float8 e4m3, each row with a scale of its own."""
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MOST
    return (rows / scale).to(torch.float8_e4m3fn).to(rows.dtype) * scale


def int8(rows: Tensor) -> Tensor:
    """(..., W) rounded to 255 symmetric levels, each row with a scale of its own."""
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (rows / scale).round() * scale


def whole(rows: Tensor) -> Tensor:
    """As they are."""
    return rows


PATHS = {"fp8": (fp8, fp8), "int8": (int8, int8), "int8 weights": (int8, whole)}
"""How weights and activations are rounded."""


class Rounded(nn.Module):
    """A linear layer of rounded weights on rounded activations."""

    def __init__(self, layer: nn.Linear, weights: Rounding, given: Rounding) -> None:
        super().__init__()
        self.weight, self.bias, self.given = weights(layer.weight), layer.bias, given

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., V)."""
        return functional.linear(self.given(tokens), self.weight, self.bias)


class Fp8(nn.Module):
    """What `Rounded` says of fp8, computed in eight bits: on a GPU from Ada or Hopper on, in bfloat16, or on a CPU."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / FP8_MOST  # (V, 1)
        self.scale, self.bias = scale, layer.bias
        self.weight = (layer.weight / scale).to(torch.float8_e4m3fn)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., V)."""
        rows = tokens.flatten(0, -2)  # (N, W)
        scale = rows.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / FP8_MOST
        given = (rows / scale).to(torch.float8_e4m3fn)
        product = torch._scaled_mm(given, self.weight.mT, scale, self.scale.mT, out_dtype=tokens.dtype)
        return (product if self.bias is None else product + self.bias).view(*tokens.shape[:-1], -1)


def replaced(networks: Networks, change: Callable[[nn.Linear], nn.Module]) -> Networks:
    """The networks with all linear layers of the denoising UNet changed but those of the time embedding."""
    unet, count = copy.deepcopy(networks.denoising_unet), 0
    for name, layer in list(unet.named_modules()):
        if not isinstance(layer, nn.Linear) or "time_emb" in name:
            continue
        # The kernels take sides that are multiples of 16, as all of the official model's are.
        if layer.in_features % 16 == layer.out_features % 16 == 0:
            parent, _, own = name.rpartition(".")
            setattr(unet.get_submodule(parent), own, change(layer))
            count += 1
    print(f"{count} layers replaced", flush=True)
    return dataclasses.replace(networks, denoising_unet=unet)


def rounded(networks: Networks, path: str) -> Networks:
    """The networks with rounded layers."""
    return replaced(networks, lambda layer: Rounded(layer, *PATHS[path]))


def golden_frames(networks: Networks, steps: int) -> Tensor:
    """The golden's stream: the frames of its first steps, 255 levels."""
    features, own = signals.encode_reference(networks, golden("stream_small")["reference_u8"].numpy())
    first = signals.observe(networks, driving_chunk(0))[0:1]
    device, frames = features.latents.device, []
    state = engine.start(networks, features, signals.lead_in(networks, own, first), 0, noise(0, 12).to(device))
    for step in range(steps):
        driving = signals.drive(networks, own, first, signals.observe(networks, driving_chunk(step)))
        state, latents = engine.step(networks, state, driving, noise(1 + step, 4).to(device))
        frames.append(networks.autoencoder.decode(latents[0].to(features.latents.dtype)))
    return torch.cat(frames).float() * 255


def builtin_frames(networks: Networks, chunks: int) -> Tensor:
    """A built-in portrait driven by the built-in clip, 255 levels."""
    from personalive.media.video import read_video  # not above: gpu.py runs where no video can be read

    side, config = networks.config.image_size, networks.config.stream
    with read_video(find_driving("builtin")) as video:
        count = config.lead_in_frames + chunks * config.chunk_frames
        driving = np.stack([resize_picture(frame.pixels, side) for frame in islice(video, count)])
    portrait = resize_picture(load_picture(find_portrait("ada")), networks.config.output_size)
    return torch.from_numpy(Stream(networks, portrait).push(driving)).float()


@torch.inference_mode()
def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description="the error of eight-bit linear layers")
    parser.add_argument("--steps", type=int, default=5, help="of the golden")
    parser.add_argument("--chunks", type=int, default=8, help="of the built-in model")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), choices=list(PATHS))
    given = parser.parse_args()
    rows = ["| model | linear layers | mean difference /255 | largest |", "|---|---|---|---|"]
    tried: list[tuple[str, Networks, Callable[[Networks], Tensor]]] = [
        ("built-in", open_model("mini"), lambda networks: builtin_frames(networks, given.chunks)),
        ("stream_small", filled_networks(), lambda networks: golden_frames(networks, given.steps)),
    ]
    for name, networks, frames in tried:
        exact = frames(networks)
        for path in given.paths:
            apart = (frames(rounded(networks, path)) - exact).abs()
            rows.append(f"| {name} | {path} | {apart.mean():.3f} | {apart.max():.0f} |")
            print(rows[-1], flush=True)
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
