"""The denoising UNet: a window of noisy latents, driven by motion and pose, dressed by a reference (model.md 5).

Holds the weights of two published files: those named `temporal_modules` are temporal_module.pth's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from personalive.config import UNetConfig
from personalive.contracts import Keyframes, KeyValues, MotionSignals
from personalive.models.attention import share, split_heads
from personalive.models.unet_blocks import Conditions, UNetTrunk


class DenoisingUNet(UNetTrunk):
    """Stable Diffusion 1.5's UNet over frames, with a motion and a temporal module after each layer."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, framewise=True)
        width = config.channels[0]
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)
        if config.motion_in_time:
            last = nn.Linear(4 * width, 4 * width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            first = nn.Linear(config.motion_tokens * config.motion_dim, 4 * width)
            self.motion_embedding = nn.Sequential(first, nn.SiLU(), last)

    def project(self, features: Sequence[Tensor]) -> KeyValues:
        """Reference features (N, n, width) of each block -> its keys and values, (N, heads, n, head_dim) each."""
        transformers = self.transformers()
        if len(features) != len(transformers):
            raise ValueError(f"{len(features)} features, but {len(transformers)} transformer blocks")
        attentions = [transformer.block.attn1 for transformer in transformers]
        heads = self.config.heads
        pairs = list(zip(attentions, features, strict=True))
        return KeyValues(
            tuple(split_heads(attention.to_k(feature), heads) for attention, feature in pairs),
            tuple(split_heads(attention.to_v(feature), heads) for attention, feature in pairs),
        )

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        image_token: Tensor,
        signals: MotionSignals,
        reference: KeyValues,
        keyframes: Keyframes | None = None,
        chunk_frames: int | None = None,
        temporal: bool = True,
    ) -> Tensor:
        """The prediction (noise or v, as trained) for each frame, (B, F, C, h, w).

        latents (B, F, C, h, w); timesteps (B, F) integer; image_token (B, 1, D); signals.motion (B, F, T, D);
        signals.pose (B, F, channels[0], h, w); reference and keyframes: see `project` and `contracts`. Slots of
        keyframes that are not in use have no influence. `chunk_frames` restricts temporal attention to chunks of that
        many frames; `temporal=False` skips the temporal modules, so that frames are independent.
        """
        frames = latents.shape[1]
        motion = signals.motion.flatten(0, 1)  # (B, F, T, D) -> (N, T, D)
        time = self.time_embedding(timesteps.flatten())  # (N, time_dim)
        if self.config.motion_in_time:
            time = time + self.motion_embedding(motion.flatten(1))
        conditions = Conditions(
            time=functional.silu(time),
            image_token=image_token,
            motion=motion,
            frames=frames,
            temporal=temporal,
            chunk_frames=chunk_frames,
            shared=share(reference, keyframes),
        )
        x = self.conv_in(latents.flatten(0, 1)) + signals.pose.flatten(0, 1)  # (N, channels[0], h, w)
        x, _ = self.run(x, conditions)
        prediction: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return prediction.contiguous().view(latents.shape)  # (N, C, h, w) -> (B, F, C, h, w)
