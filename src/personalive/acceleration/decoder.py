"""Another decoder in the place of the autoencoder's own: whoever decodes does not notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from personalive.acceleration.swap import plain
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


class InPieces(nn.Module):
    """A decoder for code of fixed shapes: whole chunks and single frames, whatever the number of latents."""

    def __init__(self, decoder: nn.Module, run: Callable[[Tensor], Tensor], chunk_frames: int) -> None:
        """decoder: what `run` computes."""
        super().__init__()
        self.decoder = decoder
        self.chunk_frames = chunk_frames
        self._run = run

    def forward(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) scaled latents -> (N, 3, 8h, 8w) in [0, 1]."""
        chunks, rest = divmod(len(latents), self.chunk_frames)
        pieces = torch.split(latents, [self.chunk_frames] * chunks + [1] * rest)
        return torch.cat([self._run(plain(piece)) for piece in pieces])


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
    found: nn.Module = networks.autoencoder
    while isinstance(found, SwappedDecoder | InPieces):
        found = found.decoder
    return isinstance(found, TinyDecoder)
