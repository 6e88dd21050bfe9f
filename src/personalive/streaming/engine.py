"""The denoising loop: the only one. Live, offline, training, benchmarks and export all call `step`.

A window holds `levels` chunks of `chunk_frames` frames, the oldest nearly clean, the newest nearly noise. A step adds
a chunk of new driving frames at the noisy end, runs the denoising UNet once over the whole window, and takes the
oldest chunk, now clean, off the other end (docs/model.md, sections 3.2 to 3.4). Gradients are left to the caller;
nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from personalive.contracts import Keyframes, KeyValues, MotionSignals, Networks, ReferenceFeatures
from personalive.streaming import keyframes as memory
from personalive.streaming.schedule import Schedule
from personalive.streaming.state import StreamState, draw_noise


def start(
    networks: Networks,
    reference: ReferenceFeatures,
    lead_in: MotionSignals,
    seed: int | Sequence[int],
    noise: Tensor | None = None,
    reference_motion: Tensor | None = None,
) -> StreamState:
    """A window before its first step: the older chunks are the noised reference, driven by the lead-in's signals.

    reference: for B sessions; lead_in: L = `lead_in_frames` frames each; seed: one for each session (one number does
    for B = 1); noise (B, L, C, h, w) replaces draw 0. reference_motion (B, T, D), the reference's own motion tokens,
    starts the keyframe bank; by default the lead-in's first frame, which has them (needed where L = 0).
    """
    config = networks.config.stream
    seeds = torch.tensor([seed] if isinstance(seed, int) else list(seed), dtype=torch.int64)
    sessions, frames = lead_in.motion.shape[:2]
    if seeds.shape[0] != sessions or reference.latents.shape[0] != sessions:
        raise ValueError(f"{reference.latents.shape[0]} references, {sessions} lead-ins and {len(seeds)} seeds differ")
    if frames != config.lead_in_frames:
        raise ValueError(f"the lead-in has {frames} frames; this window needs {config.lead_in_frames}")
    if reference_motion is None:
        if frames == 0:
            raise ValueError("a window of one level has no lead-in: pass reference_motion")
        reference_motion = lead_in.motion[:, 0]
    steps = torch.zeros_like(seeds)
    latents, device = reference.latents, reference.latents.device
    if noise is None:
        noise = draw_noise(seeds, steps, (frames, *latents.shape[1:]), device, config.common_noise)
    schedule = Schedule(config)
    older = latents.float()[:, None].expand(noise.shape)  # (B, 1, C, h, w) -> (B, L, C, h, w)
    timesteps = schedule.window_timesteps(device)[:frames].expand(sessions, -1)
    return StreamState(
        reference=reference,
        latents=schedule.add_noise(older, noise, timesteps),
        signals=lead_in,
        keyframes=memory.empty(reference.key_values, config.keyframes),
        bank=memory.new_bank(reference_motion, config.keyframes),
        seeds=seeds,
        steps=steps,
        distance=torch.full((sessions,), torch.inf, device=device),
        admitted=torch.zeros(sessions, dtype=torch.bool),
    )


def step(
    networks: Networks, state: StreamState, signals: MotionSignals, noise: Tensor | None = None
) -> tuple[StreamState, Tensor]:
    """One chunk of driving signals in, one chunk of clean latents (B, M, C, h, w) float32 out, and the next state.

    signals: M = `chunk_frames` new frames for each session; noise (B, M, C, h, w) replaces the state's own draw. The
    latents are those of the frames that came in `levels - 1` steps ago (of the lead-in, at first).
    """
    config = networks.config.stream
    chunk = config.chunk_frames
    newest = _noised_reference(networks, state, noise)
    window = MotionSignals(
        torch.cat([state.signals.motion, signals.motion], dim=1), torch.cat([state.signals.pose, signals.pose], dim=1)
    )
    # Before the pass, for the answer comes from the device: there is nothing long to wait for yet.
    distance, admitted = _decide(networks, state, window)
    remembered = state.keyframes if _any_keyframe(networks, state) else None
    latents = denoise(networks, state.reference, torch.cat([state.latents, newest], dim=1), window, remembered)
    clean, older = latents[:, :chunk], latents[:, chunk:]
    keyframes, bank = _remember(networks, state, window, clean, admitted)
    new_state = StreamState(
        reference=state.reference,
        latents=older,
        signals=MotionSignals(window.motion[:, chunk:], window.pose[:, chunk:]),
        keyframes=keyframes,
        bank=bank,
        seeds=state.seeds,
        steps=state.steps + 1,
        distance=distance,
        admitted=admitted,
    )
    return new_state, clean


def denoise(
    networks: Networks,
    reference: ReferenceFeatures,
    latents: Tensor,
    signals: MotionSignals,
    keyframes: Keyframes | None,
) -> Tensor:
    """One UNet pass over the window (B, M * N, C, h, w), every frame one noise level cleaner. No decisions inside."""
    config = networks.config.stream
    schedule = Schedule(config)
    timesteps = schedule.window_timesteps(latents.device).expand(latents.shape[0], -1)  # (B, F)
    prediction = networks.denoising_unet(
        latents.to(signals.pose.dtype),
        timesteps,
        reference.image_token,
        signals,
        reference.key_values,
        keyframes=keyframes,
        chunk_frames=config.chunk_frames if config.chunk_attention else None,
    )
    return schedule.ddim_step(latents, prediction.to(latents.dtype), timesteps)


def _noised_reference(networks: Networks, state: StreamState, noise: Tensor | None) -> Tensor:
    """The newest chunk, (B, M, C, h, w) float32: reference latents at the noisiest level."""
    config = networks.config.stream
    latents = state.reference.latents
    if noise is None:
        shape = (config.chunk_frames, *latents.shape[1:])
        noise = draw_noise(state.seeds, state.steps + 1, shape, latents.device, config.common_noise)
    timesteps = torch.full(noise.shape[:2], config.timesteps[-1], device=latents.device)
    return Schedule(config).add_noise(latents.float()[:, None].expand(noise.shape), noise, timesteps)


def _any_keyframe(networks: Networks, state: StreamState) -> bool:
    """Whether the UNet has to look at the keyframe slots."""
    config = networks.config.stream
    if config.keyframes == 0 or int(state.steps.max()) <= config.keyframes_from_step:
        return False
    return bool(state.keyframes.used.any())


def _decide(networks: Networks, state: StreamState, window: MotionSignals) -> tuple[Tensor, Tensor]:
    """Distance (B,) and admission (B,) of the first frame that this step will emit, from its motion alone.

    The device is asked only where a frame could be admitted: never early in a stream, nor once all slots are in use.
    """
    used = state.keyframes.used
    distance = memory.nearest_distance(state.bank, used, window.motion[:, 0])
    return distance, memory.admission(networks.config.stream, used, distance, state.steps)


def _remember(
    networks: Networks, state: StreamState, window: MotionSignals, clean: Tensor, admitted: Tensor
) -> tuple[Keyframes, Tensor]:
    """Keyframes and bank after the emitted chunk, whose first frame they take in where it was admitted."""
    if not bool(admitted.any()):
        return state.keyframes, state.bank
    features = _keyframe_features(networks, state.reference, clean[:, 0], window.pose[:, 0])
    return memory.insert(state.keyframes, state.bank, features, window.motion[:, 0], admitted)


def _keyframe_features(networks: Networks, reference: ReferenceFeatures, latents: Tensor, pose: Tensor) -> KeyValues:
    """An emitted frame's clean latents (B, C, h, w) as a second reference, projected for the denoising UNet."""
    own_pose = pose if networks.config.unet.reference_pose else None
    features = networks.reference_unet(latents.to(pose.dtype), reference.image_token, own_pose)
    return networks.denoising_unet.project(features)
