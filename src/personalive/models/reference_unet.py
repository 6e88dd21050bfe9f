"""The reference UNet: a picture's latents -> the features that the denoising UNet's self-attention looks up."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from personalive.config import UNetConfig
from personalive.errors import ConfigError
from personalive.models.unet_blocks import Conditions, UNetTrunk


class ReferenceUNet(UNetTrunk):
    """Stable Diffusion 1.5's UNet without its output head, at timestep 0 (docs/model.md, section 4.3)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, framewise=False)

    def forward(self, latents: Tensor, image_token: Tensor, pose: Tensor | None = None) -> tuple[Tensor, ...]:
        """The norm1 output of each transformer block, in execution order: (N, n, width) each.

        latents (N, C, h, w) scaled; image_token (N, 1, D); pose (N, channels[0], h, w), the picture's own pose
        features, exactly if `config.reference_pose`. The pass ends at the last block's norm1: that block's attention
        and feed-forward, and whatever would follow it, exist for the checkpoint's sake and are never computed.
        """
        if (pose is not None) != self.config.reference_pose:
            raise ConfigError(
                f"unet.reference_pose is {self.config.reference_pose}, but pose features are "
                f"{'missing' if pose is None else 'given'}"
            )
        x = self.conv_in(latents)
        if pose is not None:
            x = x + pose
        time = self.time_embedding(torch.zeros(1, device=latents.device))
        conditions = Conditions(functional.silu(time), image_token, stop_at=self.attention_count - 1)
        return self.run(x, conditions)[1]
