"""What a painted face is seen to do: the motion encoder looks at the model's own pictures while the denoiser learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.models.motion_encoder import MotionEncoder
from personalive.motion.keypoints import crop_faces, face_box, pose_keypoints
from personalive.motion.signals import Observation
from personalive.training.checkpoint import load_modules
from personalive.training.motion_stage import READ, expression_loss


class MotionReader:
    """Frozen: the motion encoder and the linear map with which the motion stage read the expression from its tokens.

    Latents hardly differ where a brow or a corner of the mouth moves by half a pixel; what the tokens tell differs.
    """

    def __init__(self, config: ModelConfig, encoder: MotionEncoder, folder: Path) -> None:
        """Raises WeightsError where the run folder's motion stage has not left its map (`motion.safetensors`)."""
        self._config, self._encoder = config, encoder
        self._head = nn.Linear(config.motion_encoder.tokens * config.motion_encoder.token_dim, READ)
        load_modules({"expression_head": self._head}, folder / "motion.safetensors")
        self._head.requires_grad_(False).to(next(encoder.parameters()).device)

    def loss(self, pictures: Tensor, seen: Observation, signal_weights: Sequence[float]) -> Tensor:
        """How far N painted faces are from doing what was seen in their driving frames, in deviations of the data.

        pictures (N, 3, S, S) in [-1, 1], S = `image_size`; seen (N, ...): head motion says where the face is. The
        gradient goes into the pictures.
        """
        boxes = face_box(pose_keypoints(seen.head), self._config.image_size, self._config.keypoints)
        faces = crop_faces(pictures, boxes, self._config.motion_encoder.image_size)
        read, wanted = (self._head(tokens.flatten(1)).float() for tokens in (self._encoder(faces), seen.motion))
        return expression_loss(read, wanted, signal_weights)
