"""The nouns that cross folders: frozen values with their shapes written down.

Letters: B sessions in a batch, F frames, T motion tokens per frame, C channels, h and w latent sides, S keyframe
slots, n = tokens of one transformer block. Frames always come second: (B, F, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from personalive.config import ModelConfig
    from personalive.models.autoencoder import Autoencoder
    from personalive.models.denoising_unet import DenoisingUNet
    from personalive.models.image_encoder import ImageEncoder
    from personalive.models.motion_encoder import MotionEncoder
    from personalive.models.motion_extractor import MotionExtractor
    from personalive.models.pose_guider import PoseGuider
    from personalive.models.reference_unet import ReferenceUNet
    from personalive.models.reference_warp import ReferenceWarp


@dataclass(frozen=True)
class HeadMotion:
    """What the motion extractor sees in frames (docs/model.md, section 2.3); any leading shape, written (...) here.

    keypoints (..., 21, 3) canonical; angles (..., 3) pitch, yaw, roll in degrees; translation (..., 3);
    scale (..., 1). Posed keypoints are `keypoints @ R * scale`, then x and y moved by the translation.
    """

    keypoints: Tensor
    angles: Tensor
    translation: Tensor
    scale: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> HeadMotion:
        """The same function applied to each of the four: `head.map(lambda part: part[2:5])` has three frames."""
        return HeadMotion(
            function(self.keypoints), function(self.angles), function(self.translation), function(self.scale)
        )


@dataclass(frozen=True)
class MotionSignals:
    """What drives F frames: motion (B, F, T, D) tokens and pose (B, F, C, h, w) features of the pose guider."""

    motion: Tensor
    pose: Tensor


@dataclass(frozen=True)
class KeyValues:
    """Projected keys and values of one picture's features, a pair for each transformer block of the denoising UNet.

    Each tensor is (B, heads, n, head_dim) for a reference, (B, S, heads, n, head_dim) for keyframe slots.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class ReferenceFeatures:
    """Everything constant for a reference picture, computed once.

    latents (B, C, h, w) scaled; image_token (B, 1, D); key_values: the reference UNet's features, projected by the
    denoising UNet's own to_k and to_v.
    """

    latents: Tensor
    image_token: Tensor
    key_values: KeyValues


@dataclass(frozen=True)
class Keyframes:
    """Remembered frames of each session: slots of projected features and which of them are in use.

    key_values: (B, S, heads, n, head_dim) each; used (B, S) bool, on the CPU. S is `StreamConfig.keyframes`, fixed.
    """

    key_values: KeyValues
    used: Tensor


@dataclass(frozen=True)
class Networks:
    """The modules of one model, in evaluation mode, and the config that they were built from. No session state.

    reference_warp is None where `config.warp` is not enabled.
    """

    config: ModelConfig
    autoencoder: Autoencoder
    image_encoder: ImageEncoder
    reference_unet: ReferenceUNet
    denoising_unet: DenoisingUNet
    motion_extractor: MotionExtractor
    motion_encoder: MotionEncoder
    pose_guider: PoseGuider
    reference_warp: ReferenceWarp | None = None
