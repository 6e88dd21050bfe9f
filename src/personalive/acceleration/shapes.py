"""What a stream computes, on tensors of the right shapes: to plan memory, count operations, compile and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion, Keyframes, KeyValues, MotionSignals, Networks, ReferenceFeatures
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.signals import Observation
from personalive.streaming import engine
from personalive.warp.compose import PortraitGuide, PortraitLayers, portrait_layers
from personalive.warp.driver import DriverFace, SeenDriver, face_landmarks, follow_driver
from personalive.warp.fit import FittedHead
from personalive.warp.portrait import build_surface


@dataclass(frozen=True)
class Shapes:
    """Inputs of one session: on the meta device without memory, on another one random, in the networks' precision."""

    config: ModelConfig
    dtype: torch.dtype = torch.float32
    device: str = "meta"

    def tensor(self, *shape: int) -> Tensor:
        """Standard normal numbers, or nothing on the meta device."""
        if self.device == "meta":
            return torch.empty(shape, dtype=self.dtype, device="meta")
        return torch.randn(shape, device=self.device).to(self.dtype)

    def latents(self, frames: int) -> Tensor:
        """(1, F, C, h, w) float32, as the window is."""
        side = self.config.latent_size
        return self.tensor(1, frames, self.config.unet.latent_channels, side, side).float()

    def picture(self, side: int, frames: int = 1) -> Tensor:
        """(F, 3, side, side)."""
        return self.tensor(frames, 3, side, side)

    def signals(self, frames: int) -> MotionSignals:
        """Motion tokens and pose features of F frames."""
        unet, side = self.config.unet, self.config.latent_size
        motion = self.tensor(1, frames, unet.motion_tokens, unet.motion_dim)
        return MotionSignals(motion, self.tensor(1, frames, unet.channels[0], side, side))

    def motion(self, frames: int) -> HeadMotion:
        """Head motion (F, ...) float32."""
        count = self.config.motion_extractor.keypoints
        return HeadMotion(
            *(self.tensor(frames, *shape).float() for shape in ((count, 3), (3,), (3,), (1,))),
        )

    def fitted_head(self) -> FittedHead:
        """The head mesh as a portrait shows it."""
        mesh = self.config.warp.mesh
        return FittedHead(
            neutral=self.tensor(mesh.vertices, 3).float(),
            expressions=self.tensor(mesh.expressions, mesh.vertices, 3).float(),
            expression=self.tensor(mesh.expressions).float(),
            rotation=self.tensor(3, 3).float(),
            scale=self.tensor(1).float(),
            translation=self.tensor(2).float(),
            error=0.0,
        )

    @torch.no_grad()
    def layers(self, warp: ReferenceWarp) -> PortraitLayers:
        """A portrait as the reference warp moves it."""
        picture = self.picture(self.config.output_size).float()
        return portrait_layers(picture, build_surface(warp, picture, self.fitted_head(), self.motion(1)))

    @torch.no_grad()
    def reference(self, networks: Networks) -> tuple[ReferenceFeatures, Keyframes]:
        """A reference, and keyframe slots that are all in use with the reference's own features."""
        latents, token = self.latents(1)[:, 0].to(self.dtype), self.tensor(1, 1, self.config.unet.image_token_dim)
        pose = self.signals(1).pose[:, 0] if self.config.unet.reference_pose else None
        features = networks.reference_unet(latents, token, pose)
        reference = ReferenceFeatures(latents, token, networks.denoising_unet.project(features))
        slots = self.config.stream.keyframes

        def fill(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # Tensors of their own, as a stream has them: an expanded view would be no memory.
            return tuple(part[:, None].repeat(1, slots, 1, 1, 1) for part in parts)

        key_values = KeyValues(fill(reference.key_values.keys), fill(reference.key_values.values))
        return reference, Keyframes(key_values, torch.ones(1, slots, dtype=torch.bool))


def stages_of(
    networks: Networks,
    shapes: Shapes,
    reference: ReferenceFeatures,
    window: MotionSignals,
    slots: Keyframes,
    layers: PortraitLayers | None = None,
) -> dict[str, Callable[[], object]]:
    """What a stream computes: three stages (and `surface`) once for a portrait, the others once for a chunk.

    `surface`, `driver`, `warp` and `compose` are there for models with a reference warp; the portrait's head is fitted
    already. layers: the portrait's, by default made here.
    """
    config, chunk = shapes.config, shapes.config.stream.chunk_frames
    pose = window.pose[:, 0] if config.unet.reference_pose else None
    latents = shapes.latents(config.stream.window_frames)

    def observe() -> None:
        networks.motion_extractor(shapes.picture(config.motion_extractor.image_size, chunk))
        networks.motion_encoder(shapes.picture(config.motion_encoder.image_size, chunk))

    stages = {
        "image token": lambda: networks.image_encoder(shapes.picture(config.image_encoder.image_size)),
        "encode": lambda: networks.autoencoder.encode(shapes.picture(config.image_size)),
        "reference": lambda: networks.denoising_unet.project(
            networks.reference_unet(reference.latents, reference.image_token, pose)
        ),
        "motion": observe,
        "pose": lambda: networks.pose_guider(shapes.picture(config.image_size, chunk)),
        "window": lambda: engine.denoise(networks, reference, latents, window, slots),
        "decode": lambda: networks.autoencoder.decode(latents[0, :chunk].to(shapes.dtype)),
    }
    warp = networks.reference_warp
    return stages if warp is None else stages | _warp_stages(warp, shapes, layers or shapes.layers(warp))


def _warp_stages(warp: ReferenceWarp, shapes: Shapes, layers: PortraitLayers) -> dict[str, Callable[[], object]]:
    config, chunk = shapes.config, shapes.config.stream.chunk_frames
    guide = PortraitGuide(warp, layers, config.image_size)
    tokens = shapes.tensor(chunk, config.unet.motion_tokens, config.unet.motion_dim)
    driven = Observation(shapes.motion(chunk), tokens, shapes.tensor(chunk, config.warp.mesh.expressions).float())
    with torch.no_grad():
        guide(driven)  # so that there is something to compose
    seen = Observation(shapes.motion(chunk), tokens)
    face = DriverFace(shapes.tensor(1, config.warp.mesh.landmarks, 3).float(), shapes.tensor(2).float())

    def follow() -> None:
        marks = face_landmarks(config, warp, shapes.picture(config.driver_size, chunk).float(), seen.head)
        follow_driver(warp, face, SeenDriver(seen, *marks))

    return {
        "surface": lambda: shapes.layers(warp),
        "driver": follow,
        "warp": lambda: guide(driven),
        "compose": lambda: guide.composed(shapes.picture(config.image_size, chunk)),
    }
