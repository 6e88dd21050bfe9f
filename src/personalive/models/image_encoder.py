"""The image encoder: a picture -> one token of its appearance, by CLIP's vision tower (docs/model.md, section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from personalive.config import ImageEncoderConfig


class ImageEncoder(nn.Module):
    """transformers' CLIPVisionModelWithProjection in `model`, whose official keys load into it unchanged."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        options: dict[str, Any] = {
            "hidden_size": config.hidden,
            "intermediate_size": config.intermediate,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "patch_size": config.patch,
            "image_size": config.image_size,
            "projection_dim": config.projection,
            "hidden_act": config.activation,
            "attn_implementation": "sdpa",
        }
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(**options))
        # Not in checkpoints, so it needs values even where the network is built on the meta device.
        embeddings = self.model.vision_model.embeddings
        places = torch.arange(embeddings.num_positions, device="cpu")[None]
        embeddings.register_buffer("position_ids", places, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S), normalised as CLIP's preprocessing does, S = config.image_size -> (N, 1, projection)."""
        embedding: Tensor = self.model(pixel_values=pixels).image_embeds  # (N, projection)
        return embedding[:, None]
