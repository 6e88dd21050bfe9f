"""The autoencoder: parity with the published system's use of it, official names, scale, folding, range."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parity_fill import fill, golden, official_rows, relative_error
from personalive.config import MINI, OFFICIAL, SMALL, TOY, AutoencoderConfig, ModelConfig
from personalive.errors import ConfigError
from personalive.models.autoencoder import Autoencoder


def build(config: AutoencoderConfig) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(config).eval()


def pictures(frames: int, side: int = 32) -> Tensor:
    return torch.rand(frames, 3, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1


def test_official_names_and_shapes() -> None:
    with torch.device("meta"):
        module = Autoencoder(SMALL.autoencoder).model
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in official_rows("small_vae")}


def test_the_official_size_is_that_of_stable_diffusion() -> None:
    with torch.device("meta"):
        module = Autoencoder(OFFICIAL.autoencoder)
    assert sum(p.numel() for p in module.parameters()) == 83_653_863  # as published for sd-vae-ft-mse
    assert module.config.scaling_factor == 0.18215


def test_parity_with_the_published_stream() -> None:
    module = Autoencoder(SMALL.autoencoder)
    fill(module.model, "small_vae")
    stream = golden("stream_small")
    picture = stream["reference_u8"].permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, 512, 512)
    with torch.inference_mode():
        latents = module.encode(picture)
        frame = F.avg_pool2d(module.decode(stream["latents"][:1]), 16)
    assert relative_error(latents, stream["reference_latents"]) < 1e-4
    assert relative_error(frame, stream["video_pooled_16"][:1]) < 1e-4


@pytest.mark.parametrize("config", [TOY, MINI, SMALL], ids=lambda config: config.name)
def test_latents_are_an_eighth_and_pictures_come_back_in_range(config: ModelConfig) -> None:
    module = build(config.autoencoder)
    with torch.inference_mode():
        latents = module.encode(pictures(2, 64))
        decoded, signed = module.decode(latents * 30), module.decode_signed(latents * 30)
    assert latents.shape == (2, config.autoencoder.latent_channels, 8, 8)
    assert decoded.shape == signed.shape == (2, 3, 64, 64)
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    torch.testing.assert_close(decoded, (signed / 2 + 0.5).clamp(0, 1))


def test_encoding_is_the_mean_and_no_sample() -> None:
    module = build(TOY.autoencoder)
    with torch.inference_mode():
        folded = F.pixel_unshuffle(pictures(2), 2)
        mean = module.model.encode(folded).latent_dist.mean
        torch.testing.assert_close(module.encode(pictures(2)), mean * TOY.autoencoder.scaling_factor)
        assert torch.equal(module.encode(pictures(2)), module.encode(pictures(2)))


def test_the_scale_is_applied_once_each_way() -> None:
    one = build(replace(TOY.autoencoder, scaling_factor=1.0))
    three = build(replace(TOY.autoencoder, scaling_factor=3.0))
    with torch.inference_mode():
        latents = one.encode(pictures(1))
        torch.testing.assert_close(three.encode(pictures(1)), 3 * latents)
        torch.testing.assert_close(three.decode(3 * latents), one.decode(latents))


def test_a_picture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="36x32 is not a multiple of 8"):
        build(TOY.autoencoder).encode(torch.zeros(1, 3, 32, 36))


def test_latents_and_pictures_are_plain_in_memory() -> None:
    module = build(TOY.autoencoder)
    with torch.inference_mode():
        latents = module.encode(pictures(2))
        assert latents.is_contiguous()
        assert module.decode(latents).is_contiguous()


def test_every_parameter_learns() -> None:
    module = build(TOY.autoencoder).train()
    torch.autograd.backward(module.decode_signed(module.encode(pictures(2))).square().sum())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
