"""Another decoder in the place of the autoencoder's own: whoever decodes does not notice."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import Tensor, nn

from personalive.contracts import Networks
from personalive.errors import ConfigError
from personalive.models.autoencoder import Autoencoder
from personalive.models.tiny_decoder import TinyDecoder, understands


class SwappedDecoder(nn.Module):
    """An autoencoder whose pictures come from another decoder; `encode`, `config` and `model` are its own."""

    def __init__(self, autoencoder: Autoencoder, decoder: nn.Module) -> None:
        """decoder: (N, C, h, w) scaled latents -> (N, 3, 8h, 8w) in [0, 1]."""
        super().__init__()
        self.autoencoder = autoencoder
        self.config = autoencoder.config
        self.model = autoencoder.model
        self.encode = autoencoder.encode
        self.decoder = decoder

    def decode(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        images: Tensor = self.decoder(latents)
        return images


def swap_decoder(networks: Networks, decoder: nn.Module) -> Networks:
    """The networks with pictures decoded by another module, on their device and in their precision already."""
    own: nn.Module = networks.autoencoder
    own = own.autoencoder if isinstance(own, SwappedDecoder) else own
    swapped = SwappedDecoder(cast(Autoencoder, own), decoder)
    return dataclasses.replace(networks, autoencoder=cast(Autoencoder, swapped))


def random_tiny_decoder(networks: Networks) -> Networks:
    """The networks with a tiny decoder of fresh weights, to measure or count. ConfigError where it does not fit."""
    if not understands(networks.config.autoencoder):
        raise ConfigError(f"the tiny decoder does not fit the latents of {networks.config.name}")
    parameter = next(networks.autoencoder.parameters())
    with torch.device(parameter.device):
        return swap_decoder(networks, TinyDecoder().to(parameter.dtype).eval())


def decodes_tiny(networks: Networks) -> bool:
    """Whether the tiny decoder makes the pictures."""
    own: nn.Module = networks.autoencoder
    return isinstance(own, SwappedDecoder) and isinstance(own.decoder, TinyDecoder)
