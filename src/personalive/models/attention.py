"""Attention and what is built of it: the spatial transformer that both UNets use (docs/model.md, section 5.2).

Letters: N = B*F pictures (frames folded into the batch), n tokens of one picture, W width, d = W / heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from personalive.contracts import Keyframes, KeyValues


@dataclass(frozen=True)
class SharedKeyValues:
    """Keys and values that every frame of a session attends to beside its own: the reference and its keyframes.

    keys, values (B, heads, m, d); mask (B, 1, 1, m) to add to the scores (0 or -inf), or None when all are in use.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(N, n, W) -> (N, heads, n, d), a view."""
    count, n, width = tokens.shape
    return tokens.view(count, n, heads, width // heads).transpose(1, 2)  # (N, n, heads, d) -> (N, heads, n, d)


def merge_heads(tokens: Tensor) -> Tensor:
    """(N, heads, n, d) -> (N, n, W), the inverse of `split_heads`."""
    return tokens.transpose(1, 2).flatten(2)  # (N, n, heads, d) -> (N, n, W)


def as_tokens(pictures: Tensor) -> Tensor:
    """(N, W, h, w) -> (N, h*w, W), contiguous; a view where pictures are channels last."""
    return pictures.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def as_pictures(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, h*w, W) -> (N, W, h, w), the inverse of `as_tokens`: a channels-last view with the sides of `like`."""
    return tokens.view(tokens.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def share(reference: KeyValues, keyframes: Keyframes | None) -> tuple[SharedKeyValues, ...]:
    """The reference's keys and values followed by the keyframes' in use, for each transformer block.

    Slots that no session uses are dropped and no mask is made where every session uses what is left: in eager mode
    only, since that depends on data. Under torch.compile and torch.export every slot that is passed stays, masked, so
    a caller that knows which are in use passes a slice.
    """
    if keyframes is None or keyframes.used.shape[1] == 0:
        return tuple(SharedKeyValues(k, v) for k, v in zip(reference.keys, reference.values, strict=True))
    used, slots = keyframes.used, list(range(keyframes.used.shape[1]))
    masked = True
    if not torch.compiler.is_compiling():
        table: list[list[bool]] = used.tolist()
        slots = [s for s in slots if any(row[s] for row in table)]
        masked = not all(row[s] for row in table for s in slots)
        if not slots:
            return share(reference, None)
    parts = zip(reference.keys, reference.values, keyframes.key_values.keys, keyframes.key_values.values, strict=True)
    shared = []
    for key, value, slot_keys, slot_values in parts:
        mask = _slot_mask(used[:, slots], key) if masked else None
        keys, values = _append_slots(key, slot_keys, slots), _append_slots(value, slot_values, slots)
        shared.append(SharedKeyValues(keys, values, mask))
    return tuple(shared)


def _append_slots(own: Tensor, slots: Tensor, chosen: list[int]) -> Tensor:
    """(B, heads, n, d) and (B, S, heads, n, d) -> (B, heads, (1 + chosen) * n, d)."""
    return torch.cat([own, *(slots[:, s] for s in chosen)], dim=2)


def _slot_mask(used: Tensor, key: Tensor) -> Tensor:
    """Bool (B, S) -> (B, 1, 1, (1 + S) * n): 0 for the reference and used slots, -inf for the others."""
    n = key.shape[2]
    unused = functional.pad(~used.to(key.device), (1, 0)).repeat_interleave(n, dim=1)  # (B, 1 + S) -> (B, (1 + S) * n)
    mask = torch.zeros(unused.shape, dtype=key.dtype, device=key.device).masked_fill(unused, float("-inf"))
    return mask[:, None, None, :]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, shared: SharedKeyValues | None = None) -> Tensor:
    """Softmax attention of each picture's queries over its own and its session's shared keys. (N, n, W) -> (N, n, W).

    This is the one place where attention is computed: an acceleration that knows better swaps this function.
    """
    if shared is None:
        return merge_heads(_softmax(split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)))
    if query.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return attend_merged(query, key, value, heads, shared)
    return attend_concatenated(query, key, value, heads, shared)


def attend_concatenated(query: Tensor, key: Tensor, value: Tensor, heads: int, shared: SharedKeyValues) -> Tensor:
    """`attend` by concatenating own and shared keys for every frame: portable and differentiable, F copies."""
    frames = query.shape[0] // shared.keys.shape[0]
    q, k, v = split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)
    k = torch.cat([k, _per_frame(shared.keys, frames)], dim=2)  # (N, heads, n + m, d)
    v = torch.cat([v, _per_frame(shared.values, frames)], dim=2)
    mask = None
    if shared.mask is not None:
        mask = _per_frame(functional.pad(shared.mask, (q.shape[2], 0)), frames)  # (N, 1, 1, n + m)
    return merge_heads(_softmax(q, k, v, mask))


def _softmax(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention (N, heads, n, d) of queries (N, heads, n, d) over keys and values (N, heads, m, d)."""
    if torch.is_grad_enabled() and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # The CPU's fused kernel is several times slower than this in the backward pass (torch 2.13).
        scores: Tensor = query * query.shape[-1] ** -0.5 @ key.mT
        return (scores if mask is None else scores + mask).softmax(-1).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attend_merged(query: Tensor, key: Tensor, value: Tensor, heads: int, shared: SharedKeyValues) -> Tensor:
    """`attend` without a copy of the shared keys: two partial softmaxes merged by their log-sum-exps. CPU, no gradient.

    The frames of a session are one long row of queries to the shared keys.
    """
    own, own_sum = _partial(split_heads(query, heads), split_heads(key, heads), split_heads(value, heads), None)
    rows = query.view(shared.keys.shape[0], -1, query.shape[2])  # (N, n, W) -> (B, F * n, W)
    common, common_sum = _partial(split_heads(rows, heads), shared.keys, shared.values, shared.mask)
    weight = torch.sigmoid(own_sum.reshape(common_sum.shape) - common_sum)  # (B, F * n, heads), of the own part
    merged = torch.lerp(common, own.reshape(common.shape), weight[..., None].to(common.dtype))  # (B, F * n, heads, d)
    return merged.flatten(2).view_as(query)


def _partial(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention (K, rows, heads, d) and the log of its softmax's denominator (K, rows, heads), row by row."""
    result, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask)
    return result.transpose(1, 2), log_sum.transpose(1, 2)  # (K, heads, rows, ...) -> (K, rows, heads, ...)


def _per_frame(tensor: Tensor, frames: int) -> Tensor:
    """(B, ...) -> (B * F, ...): the same for each frame of a session."""
    return tensor.unsqueeze(1).expand(-1, frames, *tensor.shape[1:]).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention of tokens over themselves or over a context, projections without bias except the last.

    `context_width`: width of the context; None for self-attention.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor, context: Tensor | None = None, shared: SharedKeyValues | None = None) -> Tensor:
        """(N, n, W), optional context (N, T, context_width) -> (N, n, W)."""
        source = tokens if context is None else context
        query, key, value = self.to_q(tokens), self.to_k(source), self.to_v(source)
        result: Tensor = self.to_out(attend(query, key, value, self.heads, shared))
        return result

    def over_one_key(self, token: Tensor) -> Tensor:
        """Attention over a context of a single token (B, 1, context_width) -> (B, 1, W), whatever the query.

        The softmax over one key is 1, so neither queries nor keys need to be computed.
        """
        if token.shape[1] != 1:
            raise ValueError(f"one image token is expected, not {token.shape[1]}")
        result: Tensor = self.to_out(self.to_v(token))
        return result


class _GEGLU(nn.Module):
    """Linear to twice the inner width, one half gating the other with the exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, gate = self.proj(tokens).chunk(2, dim=-1)
        result: Tensor = hidden * functional.gelu(gate)
        return result


class FeedForward(nn.Module):
    """GEGLU feed-forward: (..., W) -> (..., W), inner width `multiplier` * W."""

    def __init__(self, width: int, multiplier: int) -> None:
        super().__init__()
        # The Identity keeps the official index of the last layer (dropout stood there).
        self.net = nn.Sequential(_GEGLU(width, width * multiplier), nn.Identity(), nn.Linear(width * multiplier, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        result: Tensor = self.net(tokens)
        return result


class TransformerBlock(nn.Module):
    """Self-attention (over shared keys too), attention to the image token, feed-forward; each with a residual."""

    def __init__(self, width: int, heads: int, image_token_dim: int, feed_forward: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        # norm2, attn2.to_q and attn2.to_k belong to the checkpoint but cannot influence the result: see over_one_key.
        self.attn2 = Attention(width, heads, image_token_dim)
        self.norm2 = nn.LayerNorm(width)
        self.ff = FeedForward(width, feed_forward)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image_token: Tensor, shared: SharedKeyValues | None) -> tuple[Tensor, Tensor]:
        """Tokens (N, n, W), image_token (B, 1, D) -> tokens, and the norm1 output, the block's reference feature."""
        feature = self.norm1(tokens)
        tokens = tokens + self.attn1(feature, shared=shared)
        image = self.attn2.over_one_key(image_token)
        # (N, n, W) -> (B, F * n, W): one vector of the session for every token of every frame
        tokens = (tokens.view(image.shape[0], -1, tokens.shape[2]) + image).view_as(tokens)
        return tokens + self.ff(self.norm3(tokens)), feature


class SpatialTransformer(nn.Module):
    """Group norm, 1x1 convolution, one transformer block over a picture's positions, 1x1 convolution, residual."""

    def __init__(self, width: int, heads: int, image_token_dim: int, feed_forward: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, image_token_dim, feed_forward)])
        self.proj_out = nn.Conv2d(width, width, 1)

    @property
    def block(self) -> TransformerBlock:
        """The only transformer block."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def forward(self, x: Tensor, image_token: Tensor, shared: SharedKeyValues | None) -> tuple[Tensor, Tensor]:
        """(N, W, h, w) -> the same, and the block's reference feature (N, h*w, W)."""
        tokens, feature = self.block(self._tokens(x), image_token, shared)
        return x + self.proj_out(as_pictures(tokens, x)), feature

    def feature(self, x: Tensor) -> Tensor:
        """The block's reference feature alone: (N, W, h, w) -> (N, h*w, W)."""
        feature: Tensor = self.block.norm1(self._tokens(x))
        return feature

    def _tokens(self, x: Tensor) -> Tensor:
        return as_tokens(self.proj_in(self.norm(x)))
