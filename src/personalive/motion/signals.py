"""From pictures to what drives the denoiser: observed frames, retargeted poses, the lead-in (model.md 2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion, MotionSignals, Networks, ReferenceFeatures
from personalive.media.frames import Pixels, clip_pixels, resize_picture, resize_tensor, to_unit
from personalive.motion import keypoints as heads
from personalive.motion.keypoints import MotionGains


@dataclass(frozen=True)
class Observation:
    """What is seen in F frames: head (F, ...) float32 and motion tokens (F, T, D), by the motion networks.

    expression (F, E) in [0, 1]: the head mesh's coefficients, where a reference warp wants them (`warp.driver`).
    """

    head: HeadMotion
    motion: Tensor
    expression: Tensor | None = None

    def __getitem__(self, frames: slice) -> Observation:
        """The observation of some of the frames."""
        return self._map(lambda part: part[frames])

    def at(self, places: Sequence[int]) -> Observation:
        """The observation of the frames at these places, in this order."""
        return self._map(lambda part: part[list(places)])

    def still(self, frames: int) -> Observation:
        """One frame's observation (F = 1) as if it had been seen in `frames` frames."""
        return self._map(lambda part: part.expand(frames, *part.shape[1:]))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Observation:
        expression = None if self.expression is None else function(self.expression)
        return Observation(self.head.map(function), function(self.motion), expression)


def joined(parts: Sequence[Observation]) -> Observation:
    """Observations of frames one after another, as one."""
    heads = [part.head for part in parts]
    names = ("keypoints", "angles", "translation", "scale")
    head = HeadMotion(*(torch.cat([getattr(head, name) for head in heads]) for name in names))
    known = [part.expression for part in parts if part.expression is not None]
    return Observation(head, torch.cat([part.motion for part in parts]), torch.cat(known) if known else None)


@dataclass(frozen=True)
class PreparedPicture:
    """A reference picture as the networks want it.

    unit (1, 3, S, S) in [0, 1], S = `ModelConfig.image_size`; head (1, 3, e, e) in [0, 1] for the motion extractor;
    clip (1, 3, c, c) CLIP-normalised for the image encoder.
    """

    unit: Tensor
    head: Tensor
    clip: Tensor


def prepare(config: ModelConfig, picture: Pixels) -> PreparedPicture:
    """A square uint8 picture (H, H, 3) at the model's sizes: PIL Lanczos, and for the token CLIP's preprocessing.

    The motion extractor's, too, is a PIL resize (driving frames get a tensor resize): the goldens tell them apart.
    """
    resized = resize_picture(picture, config.image_size)
    return PreparedPicture(
        unit=to_unit(resized),
        head=to_unit(resize_picture(resized, config.motion_extractor.image_size)),
        clip=clip_pixels(resized, config.image_encoder.image_size),
    )


def observe(networks: Networks, images: Tensor, small: Tensor | None = None) -> Observation:
    """Frames (F, 3, H, H) in [0, 1] -> their head motion and the motion tokens of their own face crops.

    `small`: the frames at the motion extractor's size, where something better than a bilinear resize made them.
    """
    config = networks.config
    extractor = networks.motion_extractor
    images = resize_tensor(images.to(next(extractor.parameters()).device), config.image_size)
    small = resize_tensor(images, config.motion_extractor.image_size) if small is None else small
    head = extractor(_for_network(small, extractor))
    faces = face_crops(config, images, head)
    return Observation(head, networks.motion_encoder(_for_network(faces, networks.motion_encoder)))


def face_crops(config: ModelConfig, images: Tensor, head: HeadMotion) -> Tensor:
    """What the motion encoder sees of frames (F, 3, S, S) in [0, 1], S = `image_size`, where their heads (F, ...) are.

    (F, 3, e, e) in [-1, 1], e the motion encoder's size: the box around the posed keypoints (model.md 2.6).
    """
    boxes = heads.face_box(heads.pose_keypoints(head), config.image_size, config.keypoints)
    return heads.crop_faces(images * 2 - 1, boxes, config.motion_encoder.image_size)


Guide = Callable[[Observation], Tensor]
"""Features (F, C, h, w) to add to the pose's, from what drives F frames: retargeted heads and motion tokens."""


def drive(
    networks: Networks,
    reference: Observation,
    first: Observation,
    frames: Observation,
    gains: MotionGains | None = None,
    guide: Guide | None = None,
) -> MotionSignals:
    """Signals (1, F, ...) that move the reference as F driving frames move, from where the `first` one (1, ...) was."""
    return _signals(networks, _retarget(networks, reference, first, frames, gains), guide)


def lead_in(
    networks: Networks,
    reference: Observation,
    first: Observation,
    gains: MotionGains | None = None,
    target: Observation | None = None,
    guide: Guide | None = None,
) -> MotionSignals:
    """Signals (1, L, ...) of the frames before the first driving frame, L = `lead_in_frames` (model.md 3.3).

    Pose and motion tokens go linearly from the reference's to those of the first driving frame with weights i / L. With
    `motion_interpolated_start` off, all L frames have the reference's own pose and tokens: the window then starts
    from rest and the first driving frame comes as a jump. `target`: the frame to lead to, where that is not the first.
    """
    config = networks.config.stream
    steps = config.lead_in_frames
    end = reference
    if config.motion_interpolated_start:
        end = _retarget(networks, reference, first, first if target is None else target, gains)
    weights = heads.lead_in_weights(steps, reference.motion)[:, None, None]  # (L, 1, 1)
    motion = reference.motion + weights * (end.motion - reference.motion)  # (L, T, D)
    expression = _between(reference.expression, end.expression, weights[:, 0])
    return _signals(
        networks, Observation(heads.interpolate(reference.head, end.head, steps), motion, expression), guide
    )


def _signals(networks: Networks, target: Observation, guide: Guide | None) -> MotionSignals:
    """Signals (1, F, ...) of F retargeted frames."""
    features = pose_features(networks, target.head)
    if guide is not None:
        features = features + guide(target)
    return MotionSignals(target.motion[None], features[None])


def pose_features(networks: Networks, head: HeadMotion) -> Tensor:
    """The pose guider's features (F, C, h, w) of the drawn keypoints of F posed heads."""
    config = networks.config
    drawing = heads.draw(heads.pose_keypoints(head), config.image_size, config.keypoints)
    features: Tensor = networks.pose_guider(_for_network(drawing, networks.pose_guider))
    return features


def encode_reference(networks: Networks, picture: Pixels | PreparedPicture) -> tuple[ReferenceFeatures, Observation]:
    """Everything constant for a reference: its features (B = 1) and what the motion networks see in it."""
    ready = picture if isinstance(picture, PreparedPicture) else prepare(networks.config, picture)
    observation = observe(networks, ready.unit, ready.head)
    pose = pose_features(networks, observation.head) if networks.config.unet.reference_pose else None
    latents = networks.autoencoder.encode(_for_network(ready.unit * 2 - 1, networks.autoencoder))
    token = networks.image_encoder(_for_network(ready.clip, networks.image_encoder))
    features = networks.reference_unet(latents, token, pose)
    return ReferenceFeatures(latents, token, networks.denoising_unet.project(features)), observation


def _retarget(
    networks: Networks, reference: Observation, first: Observation, frames: Observation, gains: MotionGains | None
) -> Observation:
    """The driving frames on the reference: retargeted heads, and motion tokens and expression at the expression gain.

    At an expression gain of 1 the tokens are the driver's to the last bit.
    """
    config = networks.config
    gains = MotionGains.of(config.stream) if gains is None else gains
    relative = config.warp.enabled and config.warp.relative_rotation
    head = heads.retarget(
        reference.head, first.head, frames.head, gains.translation, gains.scale, gains.rotation, relative
    )
    motion = torch.lerp(reference.motion.expand_as(frames.motion), frames.motion, gains.expression)
    return Observation(head, motion, _between(reference.expression, frames.expression, gains.expression))


def _between(start: Tensor | None, end: Tensor | None, weight: Tensor | float) -> Tensor | None:
    """Expressions from `start` (1, E) on the way to `end` (F, E); None where a model has none."""
    if start is None or end is None:
        return None
    return (start + weight * (end - start)).clamp(0, 1).to(start)  # tokens may be of another precision


def _for_network(images: Tensor, network: nn.Module) -> Tensor:
    """On the device and in the precision of a network's parameters."""
    parameter = next(network.parameters())
    return images.to(device=parameter.device, dtype=parameter.dtype)
