"""The tiny decoder by whatever a user calls it, read strictly from either of the layouts that its files have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import AutoencoderConfig
from personalive.errors import ConfigError, WeightsError
from personalive.models.tiny_decoder import TinyDecoder, understands
from personalive.weights.find import LAYOUT, home, official_folder
from personalive.weights.load import load_state
from personalive.weights.manifest import TINY_DECODER
from personalive.weights.official import read_published

OWN = "vae"
TINY = "taesd"

_NUMBERED = re.compile(r"(\d+)\.(.+)")


def find_decoder(name: str, config: AutoencoderConfig, beside: Path = Path(LAYOUT)) -> Path | None:
    """The file of a decoder: None for "vae", the model's own; "taesd", downloaded; or the path of a file like it.

    beside: the model's folder, where a downloaded one may lie, too.

    Raises:
        WeightsError: there is no such file.
        ConfigError: the tiny decoder cannot read this autoencoder's latents.
    """
    if name == OWN:
        return None
    if not understands(config):
        raise ConfigError(
            f"the decoder {name!r} reads latents of Stable Diffusion's autoencoder, and this model has another one: "
            f"take --decoder {OWN}"
        )
    if name != TINY:
        if not Path(name).is_file():
            raise WeightsError(f"{name}: no such decoder; choose {OWN}, {TINY}, or a file of TAESD's architecture")
        return Path(name)
    folders = (beside, official_folder(), home() / LAYOUT)
    found = [path for folder in folders for place in TINY_DECODER.places if (path := folder / place).is_file()]
    if not found:
        raise WeightsError(f"the tiny decoder is not on this machine: `personalive download {TINY}` (some MB)")
    return found[0]


def load_tiny_decoder(path: Path, device: str | torch.device, dtype: torch.dtype) -> TinyDecoder:
    """The tiny decoder of a file, in evaluation mode. Raises WeightsError where it does not fit exactly."""
    with torch.device("meta"):
        decoder = TinyDecoder().to(dtype)
    load_state(decoder, _named(read_published(path)), str(path))
    return decoder.to(device).eval()


def _named(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Our names. A file of the whole autoencoder has "decoder.layers.2..."; one of the decoder alone counts from its
    first step, which has no weights, so that its "3..." is the same."""
    decoder = {key.removeprefix("decoder."): tensor for key, tensor in tensors.items() if key.startswith("decoder.")}
    if decoder:
        foreign = {key: tensor for key, tensor in tensors.items() if not key.startswith(("decoder.", "encoder."))}
        return {**decoder, **foreign}
    return {_shifted(key): tensor for key, tensor in tensors.items()}


def _shifted(key: str) -> str:
    numbered = _NUMBERED.fullmatch(key)
    return f"layers.{int(numbered[1]) - 1}.{numbered[2]}" if numbered else key
