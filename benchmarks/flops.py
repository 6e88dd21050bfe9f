"""Floating-point operations of one window pass of the denoising UNet at production size: as published, and ours.

Run `python benchmarks/flops.py`. Nothing is computed: the networks live on the meta device, and torch's FlopCounterMode
counts two operations for each multiply-accumulate of convolutions, linear layers and attention. Norms, activations
and sums are not counted. "As published" carries out the published order of computation (docs/parity.md): the
reference's and the keyframes' keys and values are projected again for each of the 16 frames, and the cross-attention
to the image token is computed in full.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from personalive.config import OFFICIAL, ModelConfig
from personalive.contracts import Keyframes, KeyValues, MotionSignals
from personalive.models.attention import SharedKeyValues, TransformerBlock
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.reference_unet import ReferenceUNet

# The published code's own counts in TFLOP, by number of keyframes (two per multiply-accumulate).
PUBLISHED = {0: 24.05, 3: 31.16}

# On the meta device attention is not fused: its two matrix products are batched ones, and nothing else is.
KINDS = {"convolution": "conv", "addmm": "linear", "mm": "linear", "bmm": "attention", "baddbmm": "attention"}

Counts = dict[str, int]


class PublishedOrder(TransformerBlock):
    """The same parameters, applied in the published order. `features`: (1, n, W) of the reference and each keyframe."""

    features: tuple[Tensor, ...] = ()

    def forward(self, tokens: Tensor, image_token: Tensor, shared: SharedKeyValues | None) -> tuple[Tensor, Tensor]:
        """Tokens (F, n, W), image_token (1, 1, D); `shared` is ignored in favour of `features`."""
        del shared
        frames = tokens.shape[0]
        feature = self.norm1(tokens)
        context = torch.cat([feature, *(f.expand(frames, -1, -1) for f in self.features)], dim=1)  # (F, (2 + S) * n, W)
        tokens = tokens + self.attn1(feature, context)
        tokens = tokens + self.attn2(self.norm2(tokens), image_token.expand(frames, -1, -1))
        return tokens + self.ff(self.norm3(tokens)), feature


def use_published_order(unet: DenoisingUNet, pictures: Sequence[Sequence[Tensor]]) -> None:
    """Replace the transformer blocks. `pictures`: the features of the reference and of each keyframe."""
    config = unet.config
    for place, transformer in enumerate(unet.transformers()):
        width = transformer.proj_in.in_channels
        block = PublishedOrder(width, config.heads, config.image_token_dim, config.feed_forward)
        block.features = tuple(features[place] for features in pictures)
        transformer.transformer_blocks[0] = block


def count(config: ModelConfig, keyframes: int, published: bool) -> Counts:
    """Operations by kind of one window pass for one session."""
    unet_config, side, frames = config.unet, config.latent_size, config.stream.window_frames
    with torch.device("meta"):
        reference_unet, unet = ReferenceUNet(unet_config), DenoisingUNet(unet_config)
        token = torch.empty(1, 1, unet_config.image_token_dim)
        features = reference_unet(torch.empty(1, unet_config.latent_channels, side, side), token)
        reference = unet.project(features)
        latents = torch.empty(1, frames, unet_config.latent_channels, side, side)
        timesteps = torch.empty(1, frames, dtype=torch.long)
        motion = torch.empty(1, frames, unet_config.motion_tokens, unet_config.motion_dim)
        signals = MotionSignals(motion, torch.empty(1, frames, unet_config.channels[0], side, side))
        slots = KeyValues(*(tuple(t[:, None].expand(-1, keyframes, -1, -1, -1) for t in kv) for kv in _pair(reference)))
        if published:
            use_published_order(unet, [features] * (1 + keyframes))
    used = torch.ones(1, keyframes, dtype=torch.bool)  # on the CPU: its values decide, and meta tensors have none
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(latents, timesteps, token, signals, reference, Keyframes(slots, used))
    return by_kind(counter)


def motion_projections(config: ModelConfig) -> int:
    """Operations of all keys and values of the motion tokens in one window pass: keeping them saves less."""
    with torch.device("meta"):
        named = DenoisingUNet(config.unet).named_modules()
    widths = [
        module.out_features
        for name, module in named
        if name.endswith((".to_k", ".to_v")) and "motion_modules" in name and isinstance(module, torch.nn.Linear)
    ]
    tokens = config.stream.window_frames * config.unet.motion_tokens
    return 2 * tokens * config.unet.motion_dim * sum(widths)


def _pair(key_values: KeyValues) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return key_values.keys, key_values.values


def by_kind(counter: FlopCounterMode) -> Counts:
    """The counter's operations, summed by kind. Raises KeyError for an operation of no known kind."""
    counts: Counts = {"conv": 0, "linear": 0, "attention": 0}
    for operation, flops in counter.get_flop_counts()["Global"].items():
        counts[KINDS[str(operation).rsplit(".", maxsplit=1)[-1]]] += flops
    return counts


def table(rows: Sequence[tuple[int, Counts, Counts]]) -> str:
    """Markdown: a line for each number of keyframes and order of computation, in TFLOP."""
    lines = [
        "| keyframes | computation | conv | linear | attention | total TFLOP | published code's count | less |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for keyframes, published, ours in rows:
        for name, counts in (("as published", published), ("ours", ours)):
            cells = " | ".join(f"{counts[kind] / 1e12:.3f}" for kind in ("conv", "linear", "attention"))
            known = f"{PUBLISHED[keyframes]:.2f}" if keyframes in PUBLISHED and counts is published else ""
            total = sum(counts.values())
            less = "" if counts is published else f"{100 * (1 - total / sum(published.values())):.1f} %"
            lines.append(f"| {keyframes} | {name} | {cells} | {total / 1e12:.3f} | {known} | {less} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="TFLOP of one 16-frame window at production size")
    parser.add_argument("--keyframes", type=int, nargs="+", default=[0, 3])
    chosen: list[int] = parser.parse_args().keyframes
    print(f"keys and values of the motion tokens: {motion_projections(OFFICIAL) / 1e9:.2f} GFLOP of it\n")
    print(table([(k, count(OFFICIAL, k, published=True), count(OFFICIAL, k, published=False)) for k in chosen]))


if __name__ == "__main__":
    main()
