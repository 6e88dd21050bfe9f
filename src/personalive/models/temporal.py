"""The two modules after each layer of the denoising UNet: motion (driving tokens) and temporal (frames) attention.

Both have the same shape: group norm, linear, one block of two attentions and a GEGLU feed-forward, linear, residual
(docs/model.md, sections 5.3 and 5.4). Parameter names, `temporal_transformer` in both, are the published ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from personalive.models.attention import Attention, FeedForward, as_pictures, as_tokens


def frame_encoding(max_frames: int, width: int) -> Tensor:
    """(1, max_frames, W): sin on even, cos on odd channels, of place * 10000^(-2i/W)."""
    # On the CPU even where the network is built on the meta device: the table need not be in a checkpoint.
    place = torch.arange(max_frames, dtype=torch.float32, device="cpu")[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float32, device="cpu")
    frequency = torch.exp(even * (-torch.log(torch.tensor(10000.0, device="cpu")) / width))
    angle = place * frequency  # (max_frames, W / 2)
    pair = torch.stack([angle.sin(), angle.cos()], dim=2)  # interleaved: (max_frames, W / 2, 2)
    return pair.flatten(1)[None]


class FrameEncoding(nn.Module):
    """Adds the fixed encoding of a frame's place in the window. The buffer is part of the checkpoint."""

    pe: Tensor

    def __init__(self, max_frames: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", frame_encoding(max_frames, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, F, W) -> (P, F, W)."""
        if tokens.shape[1] > self.pe.shape[1]:
            raise ValueError(f"{tokens.shape[1]} frames are more than max_frames = {self.pe.shape[1]}")
        return tokens + self.pe[:, : tokens.shape[1]].to(tokens.dtype)


class MotionAttention(Attention):
    """Attention of a frame's positions over that frame's motion tokens."""


class TemporalAttention(Attention):
    """Self-attention over the frames of a window at one position; queries, keys and values know their place."""

    def __init__(self, width: int, heads: int, max_frames: int) -> None:
        super().__init__(width, heads)
        self.pos_encoder = FrameEncoding(max_frames, width)

    def over_frames(self, tokens: Tensor, chunk_frames: int | None) -> Tensor:
        """(P, F, W) -> (P, F, W); with `chunk_frames`, frames see only the frames of their own chunk."""
        placed: Tensor = self.pos_encoder(tokens)
        chunk = placed.shape[1] if chunk_frames is None else chunk_frames
        if placed.shape[1] % chunk:
            raise ValueError(f"{placed.shape[1]} frames do not divide into chunks of {chunk}")
        chunks = placed.reshape(-1, chunk, placed.shape[2])  # (P * F / chunk, chunk, W)
        return self.forward(chunks).view_as(placed)  # (P, F, W)


class _AttentionPair(nn.Module):
    """Two attentions and a feed-forward, each after its own layer norm, each with a residual."""

    def __init__(self, attention_blocks: list[Attention], width: int, feed_forward: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(attention_blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in attention_blocks)
        self.ff = FeedForward(width, feed_forward)
        self.ff_norm = nn.LayerNorm(width)

    def over_motion(self, tokens: Tensor, motion: Tensor) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            tokens = tokens + attention(norm(tokens), motion)
        return self.feed_forward(tokens)

    def over_frames(self, tokens: Tensor, chunk_frames: int | None) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            assert isinstance(attention, TemporalAttention)
            tokens = tokens + attention.over_frames(norm(tokens), chunk_frames)
        return self.feed_forward(tokens)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = tokens + self.ff(self.ff_norm(tokens))
        return result


class _TokenTransformer(nn.Module):
    """What both modules hold under the name `temporal_transformer`."""

    def __init__(self, attention_blocks: list[Attention], width: int, feed_forward: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([_AttentionPair(attention_blocks, width, feed_forward)])
        self.proj_out = nn.Linear(width, width)

    @property
    def block(self) -> _AttentionPair:
        block = self.transformer_blocks[0]
        assert isinstance(block, _AttentionPair)
        return block

    def tokens(self, x: Tensor) -> Tensor:
        """(N, W, h, w) -> (N, h*w, W), normalised and projected."""
        projected: Tensor = self.proj_in(as_tokens(self.norm(x)))
        return projected

    def residual(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (N, W, h, w) plus the projected tokens (N, h*w, W)."""
        return x + as_pictures(self.proj_out(tokens), x)


class MotionModule(nn.Module):
    """Brings each frame's motion tokens into that frame by two cross-attentions."""

    def __init__(self, width: int, heads: int, motion_dim: int, feed_forward: int, norm_groups: int) -> None:
        super().__init__()
        attentions: list[Attention] = [MotionAttention(width, heads, motion_dim) for _ in range(2)]
        self.temporal_transformer = _TokenTransformer(attentions, width, feed_forward, norm_groups)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """Pictures (N, W, h, w), motion (N, T, motion_dim) -> (N, W, h, w)."""
        inner = self.temporal_transformer
        return inner.residual(x, inner.block.over_motion(inner.tokens(x), motion))


class TemporalModule(nn.Module):
    """Lets the frames of a window see each other, position by position. A fresh one changes nothing."""

    def __init__(self, width: int, heads: int, max_frames: int, feed_forward: int, norm_groups: int) -> None:
        super().__init__()
        attentions: list[Attention] = [TemporalAttention(width, heads, max_frames) for _ in range(2)]
        self.temporal_transformer = _TokenTransformer(attentions, width, feed_forward, norm_groups)
        # Image-level training comes first: the window must start as independent frames.
        nn.init.zeros_(self.temporal_transformer.proj_out.weight)
        nn.init.zeros_(self.temporal_transformer.proj_out.bias)

    def forward(self, x: Tensor, frames: int, chunk_frames: int | None = None) -> Tensor:
        """Pictures (B*F, W, h, w) -> the same; `chunk_frames` restricts attention to chunks of that many frames."""
        inner = self.temporal_transformer
        tokens = inner.tokens(x)
        positions = tokens.view(-1, frames, *tokens.shape[1:]).transpose(1, 2)  # (B*F, n, W) -> (B, n, F, W)
        seen = inner.block.over_frames(positions.flatten(0, 1), chunk_frames)  # (B*n, F, W)
        back = seen.view_as(positions).transpose(1, 2).flatten(0, 1)  # (B, n, F, W) -> (B*F, n, W)
        return inner.residual(x, back)
