"""Observation, driving and the lead-in at toy size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from personalive.contracts import Networks
from personalive.media.frames import Pixels, resize_picture, to_unit
from personalive.motion import keypoints as heads
from personalive.motion import signals
from personalive.motion.keypoints import MotionGains
from personalive.motion.signals import Observation
from toy import picture, pictures, reference, toy_networks


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def observe(networks: Networks, frames: Pixels) -> Observation:
    return signals.observe(networks, to_unit(frames))


def test_observation_is_the_networks_on_the_frame_and_its_own_face() -> None:
    networks = toy_networks()
    images = to_unit(pictures(3))
    seen = signals.observe(networks, images)
    head = networks.motion_extractor(images)
    assert torch.allclose(seen.head.angles, head.angles)
    boxes = heads.face_box(heads.pose_keypoints(head), 32, networks.config.keypoints)
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        face = functional.interpolate(images[i : i + 1, :, y1:y2, x1:x2], size=(32, 32), mode="bilinear") * 2 - 1
        assert torch.allclose(seen.motion[i : i + 1], networks.motion_encoder(face), atol=1e-4)
    assert float((seen.motion[0] - seen.motion[1]).abs().max()) > 1e-3


def test_frames_are_observed_one_by_one() -> None:
    networks = toy_networks()
    together, alone = observe(networks, pictures(3)), observe(networks, pictures(3)[1:2])
    assert torch.allclose(together[1:2].motion, alone.motion, atol=1e-4)
    assert torch.allclose(together[1:2].head.translation, alone.head.translation, atol=1e-5)


def test_driving_frames_of_any_size_are_resized() -> None:
    networks = toy_networks()
    large = np.kron(picture(5), np.ones((4, 4, 1), dtype=np.uint8))
    assert torch.allclose(observe(networks, large).head.angles, observe(networks, picture(5)).head.angles, atol=2.0)
    assert observe(networks, large).motion.shape == (1, 4, 8)


def test_the_reference_driven_by_itself_keeps_its_pose() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    driven = signals.drive(networks, own, own, own)
    assert torch.allclose(driven.pose[0], signals.pose_features(networks, own.head), atol=1e-5)
    assert torch.equal(driven.motion[0], own.motion)


def test_drive_uses_the_drivers_tokens_and_the_retargeted_pose() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    seen = observe(networks, pictures(4))
    gains = MotionGains(1.0, 2.0, 0.0)
    driven = signals.drive(networks, own, seen[0:1], seen, gains)
    target = heads.retarget(own.head, seen[0:1].head, seen.head, 2.0, 0.0)
    assert torch.equal(driven.motion[0], seen.motion)
    assert torch.equal(driven.pose[0], signals.pose_features(networks, target))


def test_gains_of_zero_freeze_the_head_but_not_the_face() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    seen = observe(networks, pictures(4))
    driven = signals.drive(networks, own, seen[0:1], seen, MotionGains(0.0, 0.0, 0.0))
    assert torch.allclose(driven.pose, driven.pose[:, :1].expand_as(driven.pose), atol=1e-6)
    assert torch.equal(driven.motion[0], seen.motion)


def test_lead_in_goes_from_the_reference_towards_the_first_frame() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    first = observe(networks, pictures(1))
    path = signals.lead_in(networks, own, first)
    assert path.motion.shape == (1, 12, 4, 8)
    assert path.pose.shape == (1, 12, 8, 4, 4)
    assert torch.equal(path.motion[0, 0], own.motion[0])
    assert torch.allclose(path.pose[0, 0], signals.pose_features(networks, own.head)[0], atol=1e-6)
    for i in range(12):
        expected = own.motion[0] * (1 - i / 12) + first.motion[0] * (i / 12)
        assert torch.allclose(path.motion[0, i], expected, atol=1e-5)


def test_lead_in_can_lead_to_a_later_frame() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    seen = observe(networks, pictures(4))
    path = signals.lead_in(networks, own, seen[0:1], target=seen[3:4])
    expected = own.motion[0] / 12 + seen.motion[3] * (11 / 12)
    assert torch.allclose(path.motion[0, 11], expected, atol=1e-5)


def test_without_motion_interpolated_start_the_lead_in_rests() -> None:
    networks = toy_networks(stream__motion_interpolated_start=False)
    _, own = reference(networks)
    path = signals.lead_in(networks, own, observe(networks, pictures(1)))
    assert torch.equal(path.motion, own.motion[None].expand_as(path.motion))
    rest = signals.pose_features(networks, own.head)
    assert torch.allclose(path.pose[0], rest.expand_as(path.pose[0]), atol=1e-6)


def test_a_single_level_has_an_empty_lead_in() -> None:
    networks = toy_networks(stream__levels=1)
    _, own = reference(networks)
    path = signals.lead_in(networks, own, observe(networks, pictures(1)))
    assert path.motion.shape == (1, 0, 4, 8)
    assert path.pose.shape == (1, 0, 8, 4, 4)


def test_reference_features_are_those_of_the_networks() -> None:
    networks = toy_networks()
    features, own = reference(networks)
    latents = networks.autoencoder.encode(to_unit(picture(0)) * 2 - 1)
    assert torch.allclose(features.latents, latents, atol=1e-6)
    expected = networks.denoising_unet.project(networks.reference_unet(latents, features.image_token))
    for ours, theirs in zip(features.key_values.keys, expected.keys, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(own.motion, observe(networks, picture(0)).motion, atol=1e-5)


def test_reference_pose_goes_into_the_reference_unet() -> None:
    networks = toy_networks(unet__reference_pose=True)
    features, own = reference(networks)
    pose = signals.pose_features(networks, own.head)
    raw = networks.reference_unet(features.latents, features.image_token, pose)
    for ours, theirs in zip(features.key_values.keys, networks.denoising_unet.project(raw).keys, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_larger_portrait_is_brought_to_the_models_size() -> None:
    networks = toy_networks()
    prepared = signals.prepare(networks.config, np.kron(picture(1), np.ones((3, 3, 1), dtype=np.uint8)))
    assert prepared.unit.shape == (1, 3, 32, 32)
    assert prepared.clip.shape == (1, 3, 32, 32)
    features, _ = signals.encode_reference(networks, prepared)
    assert features.latents.shape == (1, 4, 4, 4)


def test_the_references_head_is_seen_through_a_pil_resize() -> None:
    networks = toy_networks(motion_extractor__image_size=16)
    _, own = reference(networks)
    sharp = networks.motion_extractor(to_unit(resize_picture(picture(0), 16)))
    assert torch.allclose(own.head.angles, sharp.angles, atol=1e-4)
    assert not torch.allclose(own.head.angles, observe(networks, picture(0)).head.angles, atol=1e-4)


def test_still_repeats_one_frame() -> None:
    networks = toy_networks()
    _, own = reference(networks)
    still = own.still(4)
    assert torch.equal(still.motion[3], own.motion[0])
    assert still.head.keypoints.shape == (4, 21, 3)
