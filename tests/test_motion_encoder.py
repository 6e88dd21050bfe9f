"""The motion encoder: parity with the published code, official names, its parts, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from parity_fill import fill, golden, official_rows, relative_error
from personalive.config import MINI, OFFICIAL, TOY, ModelConfig
from personalive.errors import ConfigError
from personalive.models.motion_encoder import ConvBlock, Hourglass, MotionEncoder, token_embedding
from personalive.models.patch_attention import PatchAttention, grid_embedding


def toy_faces(frames: int) -> Tensor:
    side = TOY.motion_encoder.image_size
    return torch.rand(frames, 3, side, side, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.fixture
def toy() -> MotionEncoder:
    torch.manual_seed(0)
    return MotionEncoder(TOY.motion_encoder).eval()


def test_official_names_and_shapes() -> None:
    with torch.device("meta"):
        module = MotionEncoder(OFFICIAL.motion_encoder)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in official_rows("motion_encoder")}


def test_parity_with_the_published_encoder() -> None:
    module = MotionEncoder(OFFICIAL.motion_encoder)
    fill(module, "motion_encoder")
    expected = golden("motion_encoder")
    frames = slice(None, None, 3)  # the first and the last of four, for time
    faces = F.interpolate(expected["faces_28px"][frames], size=224, mode="bilinear", align_corners=False) * 2 - 1
    with torch.inference_mode():
        tokens = module(faces)
    assert relative_error(tokens[None], expected["motion"][:, frames]) < 1e-4
    assert relative_error(module.pe, expected["pe"]) < 1e-6


@pytest.mark.parametrize("config", [TOY, MINI], ids=lambda config: config.name)
def test_shapes_of_every_size(config: ModelConfig) -> None:
    encoder = config.motion_encoder
    module = MotionEncoder(encoder).eval()
    with torch.inference_mode():
        tokens = module(torch.zeros(2, 3, encoder.image_size, encoder.image_size))
    assert tokens.shape == (2, encoder.tokens, encoder.token_dim)
    assert tokens.isfinite().all()


def test_faces_of_another_size_are_refused(toy: MotionEncoder) -> None:
    with pytest.raises(ConfigError, match="32x32 are expected, not 64x32"):
        toy(torch.zeros(1, 3, 32, 64))


def test_a_face_does_not_see_its_neighbours(toy: MotionEncoder) -> None:
    faces = toy_faces(3)
    with torch.inference_mode():
        torch.testing.assert_close(toy(faces)[1:2], toy(faces[1:2]), rtol=1e-4, atol=1e-5)


def test_different_faces_give_different_tokens(toy: MotionEncoder) -> None:
    with torch.inference_mode():
        tokens = toy(toy_faces(2))
    assert (tokens[0] - tokens[1]).abs().max() > 1e-4


def test_training_moves_every_parameter_and_the_running_statistics(toy: MotionEncoder) -> None:
    before = toy.model.bn1.running_mean.clone()  # type: ignore[union-attr]
    toy.train()(toy_faces(4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in toy.parameters())
    assert not torch.equal(before, toy.model.bn1.running_mean)  # type: ignore[arg-type]


def test_tables_have_values_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = MotionEncoder(TOY.motion_encoder)
    values = {name: buffer for name, buffer in module.named_buffers() if not buffer.is_meta}
    assert {"pe", *(f"model.att_{i}.pos_embed.table" for i in (1, 2, 3))} == set(values)


def test_grid_embedding_is_that_of_diffusers() -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs = get_2d_sincos_pos_embed(24, 5, base_size=5)
    np.testing.assert_allclose(grid_embedding(24, 5).numpy(), np.asarray(theirs), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), half=st.integers(1, 16))
def test_token_embedding_has_unit_pairs_and_begins_at_zero(tokens: int, half: int) -> None:
    table = token_embedding(tokens, 2 * half)
    assert table.shape == (1, tokens, 2 * half)
    sines, cosines = table[0, :, :half], table[0, :, half:]
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones(tokens, half))
    torch.testing.assert_close(table[0, 0], torch.cat([torch.zeros(half), torch.ones(half)]))


def test_patches_go_back_where_they_came_from() -> None:
    block = PatchAttention(4, 8, 2, width=16, heads=2, head_dim=8, factor=2, groups=2)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(block.norm.weight)
    # With the transformer silent, a patch convolution that lists its pixels in order (row, column, channel) and an
    # identity at the end, the block must give back the normalised picture on top of its input.
    block.pos_embed.table.zero_()
    with torch.no_grad():
        for row in range(2):
            for column in range(2):
                for channel in range(4):
                    block.pos_embed.proj.weight[(row * 2 + column) * 4 + channel, channel, row, column] = 1
        block.proj_out.weight.copy_(torch.eye(4))
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(block(x), x + block.norm(x))


def test_conv_block_concatenates_half_and_two_quarters() -> None:
    block = ConvBlock(8, 16).eval()
    for convolution in (block.conv1, block.conv2, block.conv3):
        nn.init.zeros_(convolution.weight)
    assert block.downsample is not None
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(block(x), block.downsample(x))
    assert [c.out_channels for c in (block.conv1, block.conv2, block.conv3)] == [8, 4, 4]
    assert ConvBlock(8, 8).downsample is None


@pytest.mark.parametrize(("depth", "side"), [(1, 2), (2, 7), (4, 56), (3, 17)])
def test_hourglass_keeps_odd_sizes(depth: int, side: int) -> None:
    module = Hourglass(4, depth).eval()
    with torch.inference_mode():
        assert module(torch.randn(1, 4, side, side)).shape == (1, 4, side, side)
    assert len(list(module.children())) == 3 * depth + 1
