"""The whole online system against the published code: the `stream_small` golden (512x512, production motion networks).

A step attends 16 x 4096 queries to 8192 keys and more at the finest level, which takes a CPU many seconds; the default
run therefore checks everything up to the first step and that step, and the slow one all fourteen.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from parity_fill import fill, fill_motion_extractor, golden, relative_error, standard_normal
from personalive.config import SMALL, override
from personalive.contracts import Networks, ReferenceFeatures
from personalive.motion import signals
from personalive.motion.signals import Observation
from personalive.streaming import engine
from personalive.streaming.state import StreamState
from personalive.weights.load import build_networks

FIRST_KEYFRAME_STEP = SMALL.stream.keyframes_from_step


@functools.cache
def filled_networks() -> Networks:
    tau = float(golden("stream_small")["tau"][0])
    networks = build_networks(override(SMALL, {"stream.tau": tau}))
    fill_motion_extractor(networks.motion_extractor)
    fill(networks.motion_encoder, "motion_encoder")
    with torch.no_grad():  # only in this golden: tokens of order 1
        networks.motion_encoder.final_proj.weight.mul_(0.08)
        networks.motion_encoder.final_proj.bias.mul_(0.08)
    fill(networks.autoencoder.model, "small_vae")
    fill(networks.image_encoder.model, "small_image_encoder")
    fill(networks.reference_unet, "small_reference_unet")
    fill(networks.denoising_unet, "small_denoising_unet")
    fill(networks.pose_guider, "small_pose_guider")
    return networks


def noise(draw: int, frames: int) -> Tensor:
    """The golden's draws, B, C, F, H, W there, as (B, F, C, h, w)."""
    return standard_normal(1000 + draw, 1, 4, frames, 64, 64).transpose(1, 2)


def driving_chunk(step: int) -> Tensor:
    frames = golden("stream_small")["frames_16px"][4 * step : 4 * step + 4]
    return functional.interpolate(frames, size=(512, 512), mode="bilinear", align_corners=False)


def run_stream(steps: int) -> None:
    """Run the first steps and compare each with the golden."""
    data, networks = golden("stream_small"), filled_networks()
    features, own = reference()
    first: Observation | None = None
    state: StreamState | None = None
    for step in range(steps):
        seen = signals.observe(networks, driving_chunk(step))
        tokens = relative_error(seen.motion, data["motion"][step])
        assert tokens < 1e-4
        if first is None or state is None:
            first = seen[0:1]
            state = engine.start(networks, features, signals.lead_in(networks, own, first), 0, noise(0, 12))
        driving = signals.drive(networks, own, first, seen)
        state, latents = engine.step(networks, state, driving, noise(1 + step, 4))
        chunk = slice(4 * step, 4 * step + 4)
        video = functional.avg_pool2d(networks.autoencoder.decode(latents[0]), 16)
        errors = (
            relative_error(latents[0], data["latents"][chunk]),
            relative_error(video, data["video_pooled_16"][chunk]),
        )
        shown = f"tokens {tokens:.1e}, latents {errors[0]:.1e}, video {errors[1]:.1e}"
        print(f"step {step}: {shown}, distance {state.distance.item():.4f}, admitted {state.admitted.tolist()}")
        assert max(errors) < 6e-5  # the first is the largest, 2.5e-5, and of the golden's own rounding
        assert int(state.admitted[0]) == int(data["keyframe_added"][step])
        if step >= FIRST_KEYFRAME_STEP:
            expected = float(data["keyframe_distance"][step - FIRST_KEYFRAME_STEP])
            assert state.distance.item() == pytest.approx(expected, rel=1e-4)


def reference() -> tuple[ReferenceFeatures, Observation]:
    data, networks = golden("stream_small"), filled_networks()
    features, own = signals.encode_reference(networks, data["reference_u8"].cpu().numpy())
    assert relative_error(features.latents, data["reference_latents"]) < 1e-4
    assert relative_error(features.image_token, data["encoder_hidden_states"]) < 1e-4
    return features, own


@torch.no_grad()
def test_first_step_of_the_published_stream() -> None:
    run_stream(1)


@pytest.mark.slow
@torch.no_grad()
def test_whole_published_stream() -> None:
    run_stream(14)
