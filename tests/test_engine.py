"""The denoising loop at toy size: purity, batching, determinism, keyframes, bounds, gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from personalive.config import StreamConfig
from personalive.contracts import Keyframes, KeyValues, MotionSignals, Networks
from personalive.models.denoising_unet import DenoisingUNet
from personalive.motion import signals
from personalive.streaming import engine
from personalive.streaming import keyframes as memory
from personalive.streaming.schedule import Schedule
from personalive.streaming.state import StreamState, batch, draw_noise, map_tensors, noise_like, split, tensors
from personalive.weights.load import build_networks, modules
from toy import random_signals, reference, started, toy_networks


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(networks: Networks, state: StreamState, steps: int, seed: int = 0) -> tuple[StreamState, list[Tensor]]:
    chunks = []
    for k in range(steps):
        state, clean = engine.step(networks, state, new_signals(networks, seed + k))
        chunks.append(clean)
    return state, chunks


def new_signals(networks: Networks, seed: int) -> MotionSignals:
    return random_signals(networks.config, networks.config.stream.chunk_frames, seed)


def eager_keyframes(**more: Any) -> Networks:
    """Networks that remember frames from the second step on, as soon as they differ a little."""
    return toy_networks(stream__tau=0.5, stream__keyframes_from_step=1, **more)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to float32 rounding, relative to the largest value."""
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


def test_start_is_the_noised_reference() -> None:
    networks = toy_networks()
    state = started(networks, seed=3)
    schedule = Schedule(networks.config.stream)
    noise = draw_noise(torch.tensor([3]), torch.tensor([0]), (12, 4, 4, 4))
    clean = state.reference.latents[:, None].expand(noise.shape)
    expected = schedule.add_noise(clean, noise, schedule.window_timesteps()[None, :12])
    assert torch.allclose(state.latents, expected)
    assert state.sessions == 1
    assert not state.keyframes.used.any()


def test_step_is_one_pass_over_the_window_by_hand() -> None:
    networks = toy_networks()
    state = started(networks)
    signals = new_signals(networks, 1)
    noise = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(9))
    after, clean = engine.step(networks, state, signals, noise)
    schedule = Schedule(networks.config.stream)
    last = torch.full((1, 4), 999)
    newest = schedule.add_noise(state.reference.latents[:, None].expand(noise.shape), noise, last)
    latents = torch.cat([state.latents, newest], dim=1)
    timesteps = torch.tensor([0, 333, 666, 999]).repeat_interleave(4)[None]
    window = MotionSignals(
        torch.cat([state.signals.motion, signals.motion], 1), torch.cat([state.signals.pose, signals.pose], 1)
    )
    prediction = networks.denoising_unet(
        latents, timesteps, state.reference.image_token, window, state.reference.key_values
    )
    stepped = schedule.ddim_step(latents, prediction, timesteps)
    assert close(clean, stepped[:, :4])
    assert close(after.latents, stepped[:, 4:])
    assert torch.equal(after.signals.motion, window.motion[:, 4:])
    assert torch.equal(after.signals.pose, window.pose[:, 4:])
    assert after.steps.tolist() == [1]


def test_step_leaves_its_input_alone() -> None:
    networks = eager_keyframes()
    state, _ = run(networks, started(networks), 3)
    before = map_tensors(Tensor.clone, state)
    signals = new_signals(networks, 50)
    kept = MotionSignals(signals.motion.clone(), signals.pose.clone())
    after, _ = engine.step(networks, state, signals)
    assert bool(after.admitted.any())  # otherwise the slots would not even be written
    for old, now in zip(tensors(before), tensors(state), strict=True):
        assert torch.equal(old, now)
    assert torch.equal(kept.motion, signals.motion)
    assert torch.equal(kept.pose, signals.pose)


def test_same_seed_same_frames_other_seed_other_frames() -> None:
    networks = toy_networks()
    features, own = reference(networks)
    lead_in = random_signals(networks.config, 12, 5)
    results = []
    for seed in (7, 7, 8):
        state = engine.start(networks, features, lead_in, seed, reference_motion=own.motion)
        results.append(torch.cat(run(networks, state, 5)[1]))
    assert torch.equal(results[0], results[1])
    assert not close(results[0], results[2])


def test_sessions_in_a_batch_equal_sessions_alone() -> None:
    networks = eager_keyframes()
    # Different references, seeds, step counts and numbers of keyframes.
    states = [run(networks, started(networks, seed), steps, seed)[0] for seed, steps in ((1, 0), (2, 3), (3, 7))]
    assert len({int(state.keyframes.used.sum()) for state in states}) == 3
    together = batch(states)
    for k in range(4):
        parts = [new_signals(networks, 10 * k + i) for i in range(3)]
        alone = [engine.step(networks, state, part) for state, part in zip(states, parts, strict=True)]
        joined = MotionSignals(torch.cat([p.motion for p in parts]), torch.cat([p.pose for p in parts]))
        together, clean = engine.step(networks, together, joined)
        states = [state for state, _ in alone]
        for i, (state, latents) in enumerate(alone):
            assert close(clean[i : i + 1], latents)
            assert together.admitted[i] == state.admitted[0]
    for part, state in zip(split(together), states, strict=True):
        for ours, theirs in zip(tensors(part), tensors(state), strict=True):
            assert ours.dtype == theirs.dtype
            assert close(ours.float(), theirs.float())


def test_split_undoes_batch_and_shares_no_memory() -> None:
    networks = toy_networks()
    states = [started(networks, seed) for seed in (1, 2)]
    together = batch(states)
    for part, state in zip(split(together), states, strict=True):
        for ours, theirs in zip(tensors(part), tensors(state), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.untyped_storage().nbytes() == ours.numel() * ours.element_size()
    with pytest.raises(ValueError, match="at least one"):
        batch([])


def test_a_state_moves_to_a_device_and_goes_on() -> None:
    networks = toy_networks()
    state = started(networks)
    moved = state.to("cpu")
    assert torch.equal(
        engine.step(networks, state, new_signals(networks, 0))[1],
        engine.step(networks, moved, new_signals(networks, 0))[1],
    )
    assert next(tensors(state.to("meta"))).device.type == "meta"
    assert state.to("meta").seeds.device.type == "cpu"


def test_a_keyframe_counts_from_the_next_step_on() -> None:
    networks = eager_keyframes(stream__keyframes=1)
    blind = eager_keyframes(stream__keyframes=0)
    assert torch.equal(next(networks.denoising_unet.parameters()), next(blind.denoising_unet.parameters()))
    seeing_state, blind_state = started(networks), started(blind)
    same, gaps = [], []
    for k in range(4):
        signals = new_signals(networks, k)
        seeing_state, a = engine.step(networks, seeing_state, signals)
        blind_state, b = engine.step(blind, blind_state, signals)
        same.append(torch.equal(a, b))
        gaps.append(float((seeing_state.latents - blind_state.latents).norm() / blind_state.latents.norm()))
        assert bool(seeing_state.admitted[0]) == (k == 1)
        assert not bool(blind_state.admitted[0])
    assert same == [True, True, False, False]
    assert gaps[:2] == [0.0, 0.0]
    assert min(gaps[2:]) > 1e-4


def test_a_keyframe_is_the_first_emitted_frame() -> None:
    networks = eager_keyframes()
    state, _ = run(networks, started(networks), 1)
    motion = state.signals.motion[:, 0]
    after, clean = engine.step(networks, state, new_signals(networks, 1))
    features = networks.reference_unet(clean[:, 0], state.reference.image_token)
    expected = networks.denoising_unet.project(features)
    assert after.keyframes.used.tolist() == [[True, False, False]]
    for ours, theirs in zip(after.keyframes.key_values.keys, expected.keys, strict=True):
        assert torch.equal(ours[:, 0], theirs)
        assert not ours[:, 1:].any()
    assert torch.equal(after.bank[:, 1], motion.flatten(1))
    gap = float((state.bank[0, 0] - motion.flatten()).norm())
    assert float(after.distance) == pytest.approx(gap, rel=1e-5)


def test_a_keyframe_of_a_model_with_reference_pose_takes_its_pose_along() -> None:
    networks = eager_keyframes(unet__reference_pose=True)
    state, _ = run(networks, started(networks), 1)
    after, clean = engine.step(networks, state, new_signals(networks, 1))
    pose = state.signals.pose[:, 0]
    features = networks.reference_unet(clean[:, 0], state.reference.image_token, pose)
    expected = networks.denoising_unet.project(features)
    assert torch.equal(after.keyframes.key_values.values[0][:, 0], expected.values[0])


def test_no_keyframe_before_its_time_or_within_tau() -> None:
    late = toy_networks(stream__tau=0.0, stream__keyframes_from_step=3)
    state = started(late)
    admitted = []
    for k in range(5):
        state, _ = engine.step(late, state, new_signals(late, k))
        admitted.append(bool(state.admitted[0]))
    assert admitted == [False, False, False, True, True]
    strict = toy_networks(stream__tau=1e6, stream__keyframes_from_step=0)
    state, _ = run(strict, started(strict), 4)
    assert not state.keyframes.used.any()


@pytest.mark.parametrize(("steps", "used", "asks"), [(100, True, False), (3, False, False), (100, False, True)])
@torch.no_grad()
def test_nothing_waits_for_the_device(steps: int, used: bool, asks: bool) -> None:
    """On the meta device, where every look at a value is an error: only a free slot, late enough, makes a step look."""
    config = toy_networks().config
    networks = build_networks(config, "meta")
    for module in modules(networks).values():
        module.to("meta")
    state = started(toy_networks()).to("meta")
    keyframes = dataclasses.replace(state.keyframes, used=torch.full_like(state.keyframes.used, used))
    state = dataclasses.replace(state, keyframes=keyframes, steps=torch.full_like(state.steps, steps))
    pictures = torch.empty(config.stream.chunk_frames, 3, config.image_size, config.image_size, device="meta")
    seen = signals.observe(networks, pictures)
    driving = signals.drive(networks, seen[0:1], seen[0:1], seen)
    if asks:
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
            engine.step(networks, state, driving)
        return
    after, clean = engine.step(networks, state, driving)
    assert networks.autoencoder.decode(clean[0]).shape == (4, 3, 32, 32)
    assert {clean.device.type, after.latents.device.type, after.bank.device.type} == {"meta"}
    host = (after.keyframes.used, after.admitted, after.seeds, after.steps)
    assert {tensor.device.type for tensor in host} == {"cpu"}


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
def test_admission_rule(sessions: int, slots: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    used = torch.arange(slots) < torch.randint(0, slots + 1, (sessions, 1), generator=generator)
    bank = torch.randn(sessions, 1 + slots, 6, generator=generator)
    motion = torch.randn(sessions, 2, 3, generator=generator)
    steps = torch.randint(0, 20, (sessions,), generator=generator)
    config = StreamConfig(tau=2.0, keyframes=slots)
    distance = memory.nearest_distance(bank, used, motion)
    admitted = memory.admission(config, used, distance, steps)
    features = torch.randn(sessions, 2, 5, 4, generator=generator)
    old = Keyframes(KeyValues((torch.zeros(sessions, slots, 2, 5, 4),), (torch.zeros(sessions, slots, 2, 5, 4),)), used)
    new, new_bank = memory.insert(old, bank, KeyValues((features,), (features,)), motion, admitted)
    for b in range(sessions):
        entries = [bank[b, 0], *(bank[b, 1 + s] for s in range(slots) if used[b, s])]
        nearest = min(float((entry - motion[b].flatten()).norm()) for entry in entries)
        assert float(distance[b]) == pytest.approx(nearest, rel=1e-4)
        expected = int(steps[b]) >= 9 and nearest > 2.0 and not bool(used[b].all())
        assert bool(admitted[b]) == expected
        count = int(used[b].sum())
        assert int(new.used[b].sum()) == count + expected
        if expected:
            assert torch.equal(new.key_values.keys[0][b, count], features[b])
            assert torch.equal(new_bank[b, 1 + count], motion[b].flatten())
        else:
            assert torch.equal(new_bank[b], bank[b])


class FakeDenoiser:
    """A denoising UNet that costs nothing: it predicts a tenth of the latents, moved by the motion."""

    def __call__(self, latents: Tensor, *context: Any, keyframes: Keyframes | None, **options: Any) -> Tensor:
        signals = cast(MotionSignals, context[2])
        prediction = latents * 0.1 + signals.motion.mean(dim=(2, 3))[:, :, None, None, None]
        if keyframes is None:
            return prediction
        return prediction + keyframes.key_values.keys[0].mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1, 1)

    def project(self, features: tuple[Tensor, ...]) -> KeyValues:
        return KeyValues(tuple(f[:, None] for f in features), tuple(f[:, None] for f in features))


def test_two_thousand_steps_stay_within_bounds() -> None:
    real = toy_networks(stream__tau=1.0)
    fake = dataclasses.replace(
        real,
        denoising_unet=cast(DenoisingUNet, FakeDenoiser()),
        reference_unet=cast(Any, lambda latents, token, pose: (latents.flatten(2),)),
    )
    state = started(real)
    state = dataclasses.replace(
        state,
        reference=dataclasses.replace(state.reference, key_values=fake.denoising_unet.project((torch.ones(1, 4, 16),))),
        keyframes=memory.empty(KeyValues((torch.ones(1, 1, 4, 16),), (torch.ones(1, 1, 4, 16),)), 3),
    )
    size, admissions = state.size_bytes, 0
    for k in range(2000):
        state, clean = engine.step(fake, state, new_signals(fake, k))
        admissions += int(state.admitted.sum())
        assert state.size_bytes == size
    held = sum(tensor.untyped_storage().nbytes() for tensor in tensors(state))
    assert admissions == 3
    assert int(state.keyframes.used.sum()) == 3
    assert bool(torch.isfinite(clean).all())
    assert held < 3 * size  # views may keep the window they were cut from, but no history
    assert state.steps.tolist() == [2000]


def test_a_long_real_stream_stays_finite() -> None:
    networks = eager_keyframes(stream__levels=2, stream__chunk_frames=2)
    state = started(networks)
    size = state.size_bytes
    state, chunks = run(networks, state, 60)
    assert state.size_bytes == size
    assert int(state.keyframes.used.sum()) == 3
    assert all(bool(torch.isfinite(chunk).all()) for chunk in chunks)


@pytest.mark.parametrize(
    "options",
    [
        {"motion_interpolated_start": False},
        {"chunk_attention": True},
        {"chunk_frames": 2},
        {"levels": 2, "step_size": 500},
        {"levels": 1},
        {"keyframes": 0},
        {"prediction": "v_prediction"},
    ],
    ids=str,
)
def test_every_variant_of_the_window_runs(options: dict[str, Any]) -> None:
    networks = eager_keyframes(**{f"stream__{name}": value for name, value in options.items()})
    state, chunks = run(networks, started(networks), 4)
    config = networks.config.stream
    assert chunks[-1].shape == (1, config.chunk_frames, 4, 4, 4)
    assert state.latents.shape[1] == config.lead_in_frames
    assert bool(torch.isfinite(chunks[-1]).all())


def test_chunk_attention_keeps_new_frames_out_of_old_ones() -> None:
    # With attention within chunks only, the emitted chunk cannot know what the newest chunk's motion is.
    for within, expected in ((True, True), (False, False)):
        networks = toy_networks(stream__chunk_attention=within)
        state = started(networks)
        a, b = (engine.step(networks, state, new_signals(networks, seed))[1] for seed in (1, 2))
        assert torch.equal(a, b) is expected


@torch.enable_grad()
def test_gradient_flows_to_the_signals_and_through_time() -> None:
    networks = eager_keyframes()
    state = started(networks)
    early = new_signals(networks, 0)
    early.motion.requires_grad_()
    early.pose.requires_grad_()
    state, _ = engine.step(networks, state, early)
    state, _ = engine.step(networks, state, new_signals(networks, 1))
    state, clean = engine.step(networks, state, new_signals(networks, 2))
    clean.square().mean().backward()  # type: ignore[no-untyped-call]
    for tensor in (early.motion, early.pose):
        assert tensor.grad is not None
        assert bool(torch.isfinite(tensor.grad).all())
        assert float(tensor.grad.abs().sum()) > 0
    assert state.latents.requires_grad
    assert not state.bank.requires_grad
    assert not any(tensor.requires_grad for tensor in tensors(state.detach()))


def test_start_refuses_what_does_not_fit() -> None:
    networks = toy_networks()
    features, _ = reference(networks)
    with pytest.raises(ValueError, match="needs 12"):
        engine.start(networks, features, random_signals(networks.config, 8, 0), 0)
    with pytest.raises(ValueError, match="seeds differ"):
        engine.start(networks, features, random_signals(networks.config, 12, 0), [0, 1])
    single = toy_networks(stream__levels=1)
    with pytest.raises(ValueError, match="reference_motion"):
        engine.start(single, features, random_signals(networks.config, 0, 0), 0)


@given(st.integers(-(2**62), 2**62), st.integers(0, 2**31))
def test_noise_is_a_function_of_seed_and_draw(seed: int, draw: int) -> None:
    seeds = torch.tensor([seed, seed, seed + 1])
    draws = torch.tensor([draw, draw + 1, draw])
    noise = draw_noise(seeds, draws, (64,))
    assert torch.equal(noise[:1], draw_noise(seeds[:1], draws[:1], (64,)))
    assert float(torch.corrcoef(noise).triu(1).abs().max()) < 0.7  # 64 numbers: 0.7 is more than 5 sigma


def test_noise_is_standard_normal_across_draws() -> None:
    noise = draw_noise(torch.zeros(500, dtype=torch.int64), torch.arange(500), (100,))
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert len({tuple(row[:3].tolist()) for row in noise}) == 500


def test_frames_can_have_noise_in_common() -> None:
    seeds, draws = torch.tensor([3, 3, 4]), torch.tensor([1, 2, 1])
    shape = (4, 4, 40, 40)
    first, second, other = draw_noise(seeds, draws, shape, common=1.0)
    assert torch.equal(first, first[:1].expand_as(first))
    assert torch.equal(first, second)
    rows = torch.cat([part.flatten(1) for part in draw_noise(seeds, draws, shape, common=0.75)])
    assert float(rows.std()) == pytest.approx(1.0, abs=0.02)
    alike = torch.corrcoef(rows)[:8, :8].masked_select(~torch.eye(8, dtype=torch.bool))
    torch.testing.assert_close(alike, torch.full_like(alike, 0.75), atol=0.06, rtol=0)
    assert float(torch.corrcoef(torch.stack([first[0].flatten(), other[0].flatten()]))[0, 1]) < 0.1
    assert torch.equal(draw_noise(seeds, draws, shape, common=0.0), draw_noise(seeds, draws, shape))


def test_training_draws_noise_as_streams_do() -> None:
    torch.manual_seed(0)
    latents = torch.zeros(2, 3, 4, 50, 50)
    noise = noise_like(latents, common=0.75)
    assert noise.flatten(1).std(1) == pytest.approx(1, abs=0.02)
    rows = noise.flatten(2)  # (references, frames, numbers)
    assert torch.corrcoef(rows[0]) == pytest.approx(0.75 + 0.25 * torch.eye(3), abs=0.02)
    assert float(torch.corrcoef(torch.stack([rows[0, 0], rows[1, 0]]))[0, 1]) == pytest.approx(0, abs=0.03)
    same = noise_like(latents, common=1.0)
    assert torch.equal(same[:, 0], same[:, 2])


def test_the_stream_draws_with_the_noise_of_its_config() -> None:
    plain, common = toy_networks(), toy_networks(stream__common_noise=1.0)
    a, b = (started(networks, 0).latents for networks in (plain, common))
    noise = draw_noise(torch.tensor([0]), torch.tensor([0]), a.shape[1:], common=1.0)
    assert not torch.equal(a, b)
    reference = started(common, 0).reference.latents
    schedule = Schedule(common.config.stream)
    timesteps = schedule.window_timesteps()[None, : a.shape[1]]
    torch.testing.assert_close(b, schedule.add_noise(reference[:, None].expand(a.shape), noise, timesteps))
