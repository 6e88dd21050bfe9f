"""The image encoder: parity with the published system's token, official names, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from parity_fill import DEVICE, fill, golden, official_rows, relative_error
from personalive.config import MINI, OFFICIAL, SMALL, TOY, ModelConfig
from personalive.models.image_encoder import ImageEncoder

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def test_official_names_and_shapes() -> None:
    with torch.device("meta"):
        module = ImageEncoder(SMALL.image_encoder).model
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in official_rows("small_image_encoder")}


def test_the_official_size_is_that_of_vit_l_14() -> None:
    with torch.device("meta"):
        module = ImageEncoder(OFFICIAL.image_encoder)
    assert sum(p.numel() for p in module.parameters()) == 303_966_208
    assert module.model.vision_model.embeddings.position_embedding.weight.shape == (257, 1024)


def test_parity_with_the_published_token() -> None:
    module = ImageEncoder(SMALL.image_encoder)
    fill(module.model, "small_image_encoder")
    stream = golden("stream_small")
    picture = Image.fromarray(stream["reference_u8"].cpu().numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)  # (224, 224, 3)
    with torch.inference_mode():
        token = module(((pixels - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1)[None].to(DEVICE))
    assert relative_error(token, stream["encoder_hidden_states"].reshape(token.shape)) < 1e-4


@pytest.mark.parametrize("config", [TOY, MINI], ids=lambda config: config.name)
def test_one_token_for_each_picture(config: ModelConfig) -> None:
    encoder = config.image_encoder
    module = ImageEncoder(encoder).eval()
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    with torch.inference_mode():
        tokens = module(pixels)
        assert tokens.shape == (2, 1, encoder.projection)
        torch.testing.assert_close(tokens[1:], module(pixels[1:]), rtol=1e-4, atol=1e-5)


def test_position_numbers_have_values_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = ImageEncoder(TOY.image_encoder)
    numbers = module.model.vision_model.embeddings.position_ids
    assert numbers.tolist() == [[0, 1, 2, 3, 4]]  # (32 / 16)^2 patches and the class
    assert "position_ids" not in " ".join(module.state_dict())


def test_every_parameter_learns() -> None:
    module = ImageEncoder(TOY.image_encoder)
    module(torch.randn(1, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
