"""Attention over the patches of a feature map: the three blocks that the motion encoder adds to its FAN trunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def grid_embedding(width: int, side: int) -> Tensor:
    """Sin-cos embedding (side * side, width) of a square grid, as diffusers' `PatchEmbed` makes it: a step is 1.

    The first half of the channels holds the column, the second the row; each half is sines, then cosines.
    """
    # The device is explicit so that the table has values even where a network is built on the meta device.
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    phases = places[:, None] * rates  # (side, width / 4)
    line = torch.cat([phases.sin(), phases.cos()], dim=1)  # (side, width / 2)
    columns = line[None, :, :].expand(side, side, -1)
    rows = line[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, width).float()


class PatchSelfAttention(nn.Module):
    """Multi-head self-attention of (N, n, width); projections without bias but for the last."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(N, n, width) -> the same shape."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, n, head_dim)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))  # (N, n, heads * head_dim) ->
        return out


class GatedProjection(nn.Module):
    """GEGLU: one half of a projection gated by the (exact) GELU of the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., inner)."""
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = hidden * F.gelu(gate)
        return gated


class GatedFeedForward(nn.Module):
    """GEGLU and a projection back. `net.1` is the place of a dropout that the official file counts."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        inner = factor * width
        self.net = nn.Sequential(GatedProjection(width, inner), nn.Identity(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        out: Tensor = self.net(x)
        return out


class PatchTransformerBlock(nn.Module):
    """Self-attention, then a feed-forward, each after its layer norm and added to its input."""

    def __init__(self, width: int, heads: int, head_dim: int, factor: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList([PatchSelfAttention(width, heads, head_dim)])
        self.norms = nn.ModuleList([nn.LayerNorm(width)])
        self.ff = GatedFeedForward(width, factor)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n, width) -> the same shape."""
        x = x + self.attention_blocks[0](self.norms[0](x))
        out: Tensor = x + self.ff(self.ff_norm(x))
        return out


class PatchEmbedding(nn.Module):
    """Patches of (N, C, S, S) -> tokens (N, n, width), with the embedding of their place added."""

    table: Tensor

    def __init__(self, channels: int, width: int, patch: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.register_buffer("table", grid_embedding(width, side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, (S / patch)^2, width)."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)  # (N, n, width)
        return tokens + self.table.to(tokens.dtype)


class PatchAttention(nn.Module):
    """Group norm, patches as tokens, a transformer block, patches back to pixels, residual.

    `side` is that of the feature map (a multiple of `patch`), `width` that of the tokens (a multiple of patch^2 and 4).
    """

    def __init__(
        self, channels: int, side: int, patch: int, *, width: int, heads: int, head_dim: int, factor: int, groups: int
    ) -> None:
        super().__init__()
        self.patch = patch
        self.side = side // patch
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.pos_embed = PatchEmbedding(channels, width, patch, self.side)
        self.transformer_blocks = nn.ModuleList([PatchTransformerBlock(width, heads, head_dim, factor)])
        self.proj_out = nn.Linear(width // patch**2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> the same shape."""
        tokens = self.transformer_blocks[0](self.pos_embed(self.norm(x)))  # (N, side * side, width)
        pixels = tokens.unflatten(-1, (self.patch, self.patch, -1))  # (N, side * side, p_row, p_col, c)
        pixels = self.proj_out(pixels).unflatten(1, (self.side, self.side))  # (N, row, col, p_row, p_col, C)
        picture = pixels.permute(0, 5, 1, 3, 2, 4)  # (N, C, row, p_row, col, p_col)
        out: Tensor = x + picture.flatten(4, 5).flatten(2, 3)  # (N, C, S, S)
        return out
