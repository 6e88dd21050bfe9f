"""Following a driver: the head mesh is fitted to the driver's face once, then to every frame in pose and expression.

What the motion networks see begins each fit and decides what landmarks do not show, as where the eyes look; the
landmarks decide the rest. They carry over from rendered people to real ones, which the small motion networks do less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion, Networks
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion import signals
from personalive.motion.keypoints import face_box, pose_keypoints
from personalive.motion.signals import Observation
from personalive.warp.fit import closing_factors, landmarks_of, meet_face
from personalive.warp.gauss_newton import FacePose, SeenLandmarks, step
from personalive.warp.landmarks import glance

CROP = 1.7
"""Side of the landmark network's crop of a driving frame over that of the motion encoder's face box."""
BLINK_GAIN, GLANCE_GAIN = 1.5, 1.4
"""Real drivers are read as closing their lids and looking aside less than they do, and a portrait shows it less."""
STEPS = 4
"""Gauss-Newton steps for a frame."""


@dataclass(frozen=True)
class SeenDriver:
    """What is seen in F driving frames before it is known whose they are.

    seen (F, ...): by the motion networks; points (F, K, 2) in [-1, 1], spread (F, K): the landmarks and their expected
    errors, None where a model has no reference warp.
    """

    seen: Observation
    points: Tensor | None = None
    spread: Tensor | None = None

    def __getitem__(self, frames: slice) -> SeenDriver:
        """Some of the frames."""
        points, spread = (None if part is None else part[frames] for part in (self.points, self.spread))
        return SeenDriver(self.seen[frames], points, spread)


@dataclass(frozen=True)
class DriverFace:
    """A driver's face: landmarks (1, K, 3) cm without expression; closing (2,): the blinks that close its lids."""

    landmarks: Tensor
    closing: Tensor


def see_driver(networks: Networks, images: Tensor) -> SeenDriver:
    """Looks at driving frames (F, 3, H, H) in [0, 1], each by itself; H is best `ModelConfig.driver_size`."""
    seen, warp = signals.observe(networks, images), networks.reference_warp
    if warp is None:
        return SeenDriver(seen)
    images = images.to(seen.motion.device).float()
    return SeenDriver(seen, *face_landmarks(networks.config, warp, images, seen.head))


def face_landmarks(config: ModelConfig, warp: ReferenceWarp, images: Tensor, head: HeadMotion) -> tuple[Tensor, Tensor]:
    """Points (F, K, 2) and spread (F, K) of the faces in frames (F, 3, H, H), where the heads (F, ...) are."""
    box = face_box(pose_keypoints(head), config.image_size, config.keypoints).float()  # (F, 4)
    low, high = box[:, :2], box[:, 2:]
    centre, half = (low + high) / config.image_size - 1, (high - low).amax(1) / config.image_size * CROP
    return glance(warp.landmarks, images, centre, half)


@torch.no_grad()
def meet_driver(warp: ReferenceWarp, first: SeenDriver) -> DriverFace:
    """The driver's own face, from one frame."""
    mesh = warp.mesh
    marks = _seen_landmarks(warp, first)
    expected, angles = warp.expression(first.seen.motion).float(), first.seen.head.angles.float()
    face = meet_face(marks, expected, angles)
    neutral = marks.mean + (face.identity @ marks.identities.flatten(1)).view_as(marks.mean)
    return DriverFace(neutral, closing_factors(neutral[0], marks.expressions[mesh.blinks.long()]))


@torch.no_grad()
def follow_driver(warp: ReferenceWarp, driver: DriverFace, frames: SeenDriver) -> Observation:
    """What the driver does in F frames: the head's pose and the expression by the fitted mesh, motion tokens as seen.

    A blink of 1 closes the driver's lids, as it closes a portrait's (`warp.fit`).
    """
    own = _seen_landmarks(warp, frames)
    marks = replace(own, mean=driver.landmarks, identities=own.identities[:0])
    expected = warp.expression(frames.seen.motion).float().clamp(0, 1)
    nobody = expected.new_zeros(len(expected), 0)
    face = FacePose(marks.first_pose(frames.seen.head.angles.float()), nobody, expected)
    for _ in range(STEPS):
        face = step(marks, face, expected)
    mesh = warp.mesh
    gains = torch.ones_like(expected[0]).index_copy(0, mesh.blinks.long(), BLINK_GAIN / driver.closing)
    gains[mesh.glances.long()] = GLANCE_GAIN
    seen = frames.seen
    shift = torch.cat([face.translation, torch.zeros_like(face.scale)], dim=1)
    head = HeadMotion(seen.head.keypoints, face.angles, shift, face.scale)
    return Observation(head, seen.motion, (face.expression * gains).clamp(0, 1))


def watch_driver(
    networks: Networks, images: Tensor, driver: DriverFace | None = None
) -> tuple[Observation, DriverFace | None]:
    """What a driver does in frames (F, 3, H, H) in [0, 1], for who needs no step of its own for each part of it.

    driver: as met before; who is not known yet is met in the first of the frames. None for models without a warp.
    """
    return follow_known(networks, driver, see_driver(networks, images))


def follow_known(
    networks: Networks, driver: DriverFace | None, frames: SeenDriver
) -> tuple[Observation, DriverFace | None]:
    """What a driver does in F frames that were seen, and the driver, who is met in the first of them if not known."""
    warp = networks.reference_warp
    if warp is None:
        return frames.seen, None
    driver = meet_driver(warp, frames[0:1]) if driver is None else driver
    return follow_driver(warp, driver, frames), driver


def _seen_landmarks(warp: ReferenceWarp, frames: SeenDriver) -> SeenLandmarks:
    if frames.points is None or frames.spread is None:
        raise ValueError("these frames were seen without a reference warp")
    return landmarks_of(warp.mesh, frames.points, frames.spread)
