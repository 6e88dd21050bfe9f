"""Entries of a checkpoint that need not be stored: the project's own files leave them out.

The published architecture has them, so official checkpoints bring them and are checked for them. No result depends on:
queries, keys and their norm of the attention to the image token (one key: its softmax is 1, whatever the query); all of
the reference UNet's last transformer after the feature that is taken from it; the motion extractor's expression head
(the motion encoder does its work). And the encoding of a frame's place in the window is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from personalive.models.attention import TransformerBlock
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.reference_unet import ReferenceUNet
from personalive.models.temporal import FrameEncoding, frame_encoding

_IDLE_IN_BLOCK = ("norm2.", "attn2.to_q.", "attn2.to_k.")
_NEEDED_OF_THE_LAST = ("norm.", "proj_in.", "transformer_blocks.0.norm1.")


def idle_entries(module: nn.Module) -> dict[str, Tensor]:
    """What to put in the place of the entries of a network, or of a container of networks, that need not be stored.

    Zeros where no result depends on the value (on the meta device too: they have the shape and type alone), tables as
    they are computed.
    """
    found: dict[str, Tensor] = {}
    for name, part in module.named_modules():
        entries = part.state_dict()
        if isinstance(part, TransformerBlock):
            chosen = {entry for entry in entries if entry.startswith(_IDLE_IN_BLOCK)}
        elif isinstance(part, MotionExtractor):
            chosen = {entry for entry in entries if entry.startswith("detector.fc_exp.")}
        elif isinstance(part, ReferenceUNet):
            chosen = _after_the_last_feature(part)
        elif isinstance(part, FrameEncoding):
            found[f"{name}.pe".removeprefix(".")] = frame_encoding(*part.pe.shape[1:]).to(part.pe.dtype)
            continue
        else:
            continue
        for entry in chosen:
            found[f"{name}.{entry}".removeprefix(".")] = torch.zeros(entries[entry].shape, dtype=entries[entry].dtype)
    return found


def _after_the_last_feature(unet: ReferenceUNet) -> set[str]:
    last = unet.transformers()[-1]
    place = next(name for name, part in unet.named_modules() if part is last)
    return {f"{place}.{entry}" for entry in last.state_dict() if not entry.startswith(_NEEDED_OF_THE_LAST)}
