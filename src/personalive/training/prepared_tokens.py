"""The motion tokens of every frame, for stages that need nothing else of the frozen networks."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from personalive.config import ModelConfig
from personalive.media.frames import resize_tensor
from personalive.motion.signals import face_crops
from personalive.training.clips import Corpus
from personalive.training.prepared import checksum, load_motion_networks, piecewise


def prepare_tokens(
    config: ModelConfig, folder: Path | None, corpus: Corpus, cache: Path | None, device: torch.device
) -> Tensor:
    """Returns what a run folder's motion networks see in every frame, as the product would: tokens (P, F, T, D).

    They are kept in the safetensors file `cache`, if one is named, for as long as networks and pictures stay the same.
    Without a folder the networks are fresh ones. Raises WeightsError where the motion stage has not run.
    """
    extractor, encoder = load_motion_networks(config, folder)
    fingerprint = "" if cache is None else checksum((extractor, encoder), corpus)
    if cache is not None and cache.exists():
        with safe_open(str(cache), "pt") as file:
            if (file.metadata() or {}).get("fingerprint") == fingerprint:
                kept: Tensor = file.get_tensor("tokens")
                return kept
    extractor.to(device), encoder.to(device)

    def read(images: Tensor) -> Tensor:
        head = extractor(resize_tensor(images, config.motion_extractor.image_size))
        tokens: Tensor = encoder(face_crops(config, images, head))
        return tokens

    with torch.no_grad():
        found = [piecewise(read, images.to(device).float() / 255, config.image_size).cpu() for images in corpus.images]
    tokens = torch.stack(found)
    if cache is not None:
        part = cache.with_suffix(".part")
        save_file({"tokens": tokens}, str(part), metadata={"fingerprint": fingerprint})
        os.replace(part, cache)
    return tokens
