"""Attention: every path computes the same softmax over own, reference and keyframe tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from personalive.contracts import Keyframes, KeyValues
from personalive.models.attention import (
    Attention,
    SharedKeyValues,
    TransformerBlock,
    as_pictures,
    as_tokens,
    attend,
    attend_concatenated,
    attend_merged,
    merge_heads,
    share,
    split_heads,
)
from personalive.models.temporal import MotionModule, TemporalModule, frame_encoding

HEADS, HEAD_DIM = 2, 4
WIDTH = HEADS * HEAD_DIM


def explicit(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention written out, one picture and one head at a time: (rows, d), (m, d), (m, d)."""
    scores = (query @ keys.T) / query.shape[1] ** 0.5
    result: Tensor = scores.softmax(dim=1) @ values
    return result


def tokens(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slots(sessions: int, count: int, n: int, seed: int, used: list[list[bool]]) -> tuple[KeyValues, Keyframes]:
    reference = KeyValues(
        (tokens(sessions, HEADS, n, HEAD_DIM, seed=seed),), (tokens(sessions, HEADS, n, HEAD_DIM, seed=seed + 1),)
    )
    shape = (sessions, count, HEADS, n, HEAD_DIM)
    values = KeyValues((tokens(*shape, seed=seed + 2),), (tokens(*shape, seed=seed + 3),))
    return reference, Keyframes(values, torch.tensor(used, dtype=torch.bool).reshape(sessions, count))


def test_heads_split_and_merge_are_inverse() -> None:
    x = tokens(3, 5, WIDTH)
    split = split_heads(x, HEADS)
    assert split.shape == (3, HEADS, 5, HEAD_DIM)
    assert torch.equal(split[1, 1, 2], x[1, 2, HEAD_DIM:])
    assert torch.equal(merge_heads(split), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pictures_and_tokens_are_inverse(layout: torch.memory_format) -> None:
    x = tokens(2, 6, 3, 4).contiguous(memory_format=layout)
    rows = as_tokens(x)
    assert rows.shape == (2, 12, 6)
    assert torch.equal(rows[1, 1 * 4 + 2], x[1, :, 1, 2])
    assert torch.equal(as_pictures(rows, x), x)


@settings(deadline=None, max_examples=40)
@given(
    sessions=st.integers(1, 3),
    frames=st.integers(1, 4),
    n=st.integers(1, 9),
    data=st.data(),
)
def test_every_path_is_the_written_out_softmax(sessions: int, frames: int, n: int, data: st.DataObject) -> None:
    """Each frame attends to its own tokens, the reference's and those of its session's used slots, nothing else."""
    count = data.draw(st.integers(0, 3))
    used = data.draw(
        st.lists(st.lists(st.booleans(), min_size=count, max_size=count), min_size=sessions, max_size=sessions)
    )
    scale = data.draw(st.sampled_from([0.1, 1.0, 30.0]))
    reference, keyframes = slots(sessions, count, n, 10, used)
    (shared,) = share(reference, keyframes)
    q, k, v = (tokens(sessions * frames, n, WIDTH, seed=s, scale=scale) for s in (1, 2, 3))
    with torch.no_grad():
        merged = attend_merged(q, k, v, HEADS, shared)
    concatenated = attend_concatenated(q, k, v, HEADS, shared)
    for b in range(sessions):
        for f in range(frames):
            for h in range(HEADS):
                part = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
                i = b * frames + f
                chosen = [s for s in range(count) if used[b][s]]
                all_keys = [k[i, :, part], reference.keys[0][b, h]] + [
                    keyframes.key_values.keys[0][b, s, h] for s in chosen
                ]
                all_values = [v[i, :, part], reference.values[0][b, h]] + [
                    keyframes.key_values.values[0][b, s, h] for s in chosen
                ]
                expected = explicit(q[i, :, part], torch.cat(all_keys), torch.cat(all_values))
                torch.testing.assert_close(merged[i, :, part], expected, rtol=1e-4, atol=2e-5)
                torch.testing.assert_close(concatenated[i, :, part], expected, rtol=1e-4, atol=2e-5)


def test_attend_gives_the_same_with_and_without_gradient() -> None:
    reference, keyframes = slots(2, 2, 5, 20, [[True, False], [False, False]])
    (shared,) = share(reference, keyframes)
    q, k, v = (tokens(6, 5, WIDTH, seed=s) for s in (1, 2, 3))
    with torch.no_grad():
        quick = attend(q, k, v, HEADS, shared)
    slow = attend(q.requires_grad_(), k, v, HEADS, shared)
    assert slow.requires_grad
    torch.testing.assert_close(quick, slow.detach(), rtol=1e-5, atol=1e-5)


def test_share_makes_no_mask_and_no_slot_where_none_is_needed() -> None:
    reference, keyframes = slots(2, 3, 4, 30, [[True, False, False], [True, False, False]])
    (shared,) = share(reference, keyframes)
    assert shared.mask is None
    assert shared.keys.shape[2] == 2 * 4
    reference, keyframes = slots(2, 3, 4, 30, [[True, False, False], [True, True, False]])
    (shared,) = share(reference, keyframes)
    assert shared.mask is not None
    assert shared.mask.shape == (2, 1, 1, 3 * 4)
    reference, keyframes = slots(2, 3, 4, 30, [[False] * 3] * 2)
    for nothing in (keyframes, slots(2, 0, 4, 30, [[], []])[1], None):
        (shared,) = share(reference, nothing)
        assert shared.keys is reference.keys[0]
        assert shared.mask is None


def test_attention_over_one_key_is_full_attention_whatever_the_query() -> None:
    attention = Attention(WIDTH, HEADS, context_width=6)
    token = tokens(2, 1, 6)
    full = attention(tokens(2, 7, WIDTH, seed=5), token)
    torch.testing.assert_close(attention.over_one_key(token).expand(-1, 7, -1), full)
    with pytest.raises(ValueError, match="one image token"):
        attention.over_one_key(tokens(2, 2, 6))


def test_the_block_uses_each_sessions_own_image_token() -> None:
    block = TransformerBlock(WIDTH, HEADS, 6, 2)
    x, token = tokens(6, 4, WIDTH), tokens(2, 1, 6, seed=1)
    together, _ = block(x, token, None)
    for b in range(2):
        alone, _ = block(x[3 * b : 3 * b + 3], token[b : b + 1], None)
        torch.testing.assert_close(together[3 * b : 3 * b + 3], alone)


def test_frame_encoding_follows_the_formula() -> None:
    width = 12
    encoding = frame_encoding(5, width)
    assert encoding.shape == (1, 5, width)
    for place in range(5):
        for i in range(width // 2):
            angle = torch.tensor(place * 10000.0 ** (-2 * i / width))
            torch.testing.assert_close(encoding[0, place, 2 * i], angle.sin(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(encoding[0, place, 2 * i + 1], angle.cos(), rtol=1e-5, atol=1e-6)


def test_a_fresh_temporal_module_changes_nothing_and_a_trained_one_does() -> None:
    module = TemporalModule(WIDTH, HEADS, 8, 2, 2)
    x = tokens(8, WIDTH, 3, 3)
    assert torch.equal(module(x, frames=4), x)
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    assert not torch.allclose(module(x, frames=4), x, atol=1e-3)


def test_temporal_attention_stays_at_its_position_and_in_its_session() -> None:
    module = TemporalModule(WIDTH, HEADS, 8, 2, 1)
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    torch.nn.init.ones_(module.temporal_transformer.norm.weight)
    module.temporal_transformer.norm = torch.nn.Identity()  # type: ignore[assignment]  # it mixes positions of a frame
    x = tokens(2 * 4, WIDTH, 2, 3)
    changed = x.clone()
    changed[1, :, 1, 2] += 1.0  # session 0, frame 1, one position
    difference = (module(changed, frames=4) - module(x, frames=4)).abs().amax(dim=1)  # (8, 2, 3)
    assert (difference[:4, 1, 2] > 1e-4).all(), "every frame of the session sees the change at that position"
    difference[:4, 1, 2] = 0
    assert difference.max() == 0


def test_chunks_do_not_leak_into_each_other() -> None:
    module = TemporalModule(WIDTH, HEADS, 8, 2, 2)
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    x = tokens(8, WIDTH, 2, 2)
    changed = x.clone()
    changed[5] += tokens(WIDTH, 2, 2, seed=9)
    apart = (module(changed, 8, chunk_frames=4) - module(x, 8, chunk_frames=4)).abs().amax(dim=(1, 2, 3))
    assert (apart[:4] == 0).all()
    assert (apart[4:] > 1e-4).all()
    whole = (module(changed, 8) - module(x, 8)).abs().amax(dim=(1, 2, 3))
    assert (whole > 1e-5).all()


def test_the_place_in_the_window_matters_within_chunks_too() -> None:
    module = TemporalModule(WIDTH, HEADS, 8, 2, 2)
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    half = tokens(4, WIDTH, 2, 2)
    result = module(torch.cat([half, half]), 8, chunk_frames=4)
    assert not torch.allclose(result[:4], result[4:], atol=1e-4)


def test_temporal_module_names_what_does_not_fit() -> None:
    module = TemporalModule(WIDTH, HEADS, 4, 2, 2)
    with pytest.raises(ValueError, match="5 frames are more than max_frames = 4"):
        module(tokens(5, WIDTH, 2, 2), frames=5)
    with pytest.raises(ValueError, match="do not divide"):
        module(tokens(4, WIDTH, 2, 2), frames=4, chunk_frames=3)


def test_motion_tokens_reach_their_own_frame_only() -> None:
    module = MotionModule(WIDTH, HEADS, 6, 2, 2)
    x, motion = tokens(4, WIDTH, 2, 2), tokens(4, 3, 6, seed=1)
    changed = motion.clone()
    changed[2] += 1.0
    difference = (module(x, changed) - module(x, motion)).abs().amax(dim=(1, 2, 3))
    assert difference[2] > 1e-4
    assert (difference[[0, 1, 3]] == 0).all()


def test_shared_keys_reach_only_their_own_session() -> None:
    q, k, v = (tokens(4, 3, WIDTH, seed=s) for s in (1, 2, 3))
    keys, values = tokens(2, HEADS, 5, HEAD_DIM, seed=4), tokens(2, HEADS, 5, HEAD_DIM, seed=5)
    other = values.clone()
    other[1] += 1.0
    with torch.no_grad():
        before = attend(q, k, v, HEADS, SharedKeyValues(keys, values))
        after = attend(q, k, v, HEADS, SharedKeyValues(keys, other))
    assert torch.equal(before[:2], after[:2])
    assert ((before[2:] - after[2:]).abs().amax(dim=(1, 2)) > 1e-3).all()
