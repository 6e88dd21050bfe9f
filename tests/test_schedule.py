"""The noise schedule: the golden steps of the published scheduler, and the laws that hold for both predictions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity_fill import DEVICE, golden, relative_error
from personalive.choices import with_window
from personalive.config import MINI, OFFICIAL, StreamConfig
from personalive.errors import ConfigError
from personalive.streaming.schedule import Schedule

PREDICTIONS = st.sampled_from(["epsilon", "v_prediction"])
TIMESTEPS = st.lists(st.integers(0, 999), min_size=1, max_size=6).map(torch.tensor)


def schedule(prediction: str = "epsilon") -> Schedule:
    return Schedule(StreamConfig(prediction=prediction))  # type: ignore[arg-type]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_published_step() -> None:
    data = golden("scheduler")
    ours = Schedule(OFFICIAL.stream)
    timesteps = data["timesteps"]
    assert torch.equal(ours.alphas_cumprod(DEVICE), data["alphas_cumprod"])
    assert relative_error(ours.add_noise(data["sample"], data["noise"], timesteps), data["noisy"]) < 1e-6
    clean = ours.to_clean(data["sample"], data["model_output"], timesteps)
    assert relative_error(clean, data["pred_original_sample"]) < 1e-6
    assert relative_error(ours.ddim_step(data["sample"], data["model_output"], timesteps), data["prev_sample"]) < 1e-6


@given(PREDICTIONS, TIMESTEPS)
def test_to_clean_inverts_add_noise(prediction: str, timesteps: torch.Tensor) -> None:
    ours = schedule(prediction)
    clean, noise = random(len(timesteps), 2, 3, 3, seed=0), random(len(timesteps), 2, 3, 3, seed=1)
    sample = ours.add_noise(clean, noise, timesteps)
    assert torch.allclose(ours.to_clean(sample, ours.target(clean, noise, timesteps), timesteps), clean, atol=2e-4)


@given(PREDICTIONS, TIMESTEPS)
def test_a_perfect_prediction_walks_the_same_noise_down(prediction: str, timesteps: torch.Tensor) -> None:
    ours = schedule(prediction)
    clean, noise = random(len(timesteps), 2, 3, 3, seed=2), random(len(timesteps), 2, 3, 3, seed=3)
    stepped = ours.ddim_step(ours.add_noise(clean, noise, timesteps), ours.target(clean, noise, timesteps), timesteps)
    lower = timesteps - ours.config.step_size
    expected = ours.add_noise(clean, noise, lower.clamp(min=0))
    expected[lower < 0] = clean[lower < 0]
    assert torch.allclose(stepped, expected, atol=2e-4)


@given(st.integers(1, 8), st.integers(1, 8))
def test_window_has_a_level_for_each_chunk(chunk: int, levels: int) -> None:
    ours = Schedule(StreamConfig(chunk_frames=chunk, levels=levels, step_size=100))
    timesteps = ours.window_timesteps().view(levels, chunk)
    assert torch.equal(timesteps, (torch.arange(levels) * 100)[:, None].expand(levels, chunk))


def test_table_falls_from_clean_to_noise() -> None:
    table = schedule().alphas_cumprod()
    assert bool((table.diff() < 0).all())
    assert table[0] > 0.999
    assert table[-1] < 0.005


def test_per_session_timesteps() -> None:
    ours = schedule()
    clean, noise = random(2, 3, 1, 4, 4, seed=4), random(2, 3, 1, 4, 4, seed=5)
    timesteps = torch.tensor([[0, 333, 666], [999, 5, 70]])
    together = ours.add_noise(clean, noise, timesteps)
    for b in range(2):
        for f in range(3):
            alone = ours.add_noise(clean[b, f], noise[b, f], timesteps[b, f])
            assert torch.equal(together[b, f], alone)


def test_a_table_made_in_inference_mode_still_trains() -> None:
    ours = Schedule(StreamConfig(beta_start=0.001))  # a table that no other test has made
    with torch.inference_mode():
        ours.add_noise(torch.zeros(1), torch.zeros(1), torch.tensor([3]))
    clean = torch.ones(1, requires_grad=True)
    ours.add_noise(clean, torch.zeros(1), torch.tensor([3])).sum().backward()  # type: ignore[no-untyped-call]
    assert clean.grad is not None
    assert clean.grad.item() == pytest.approx(ours.alphas_cumprod()[3].sqrt().item())


def test_half_precision_samples_are_stepped_in_float32() -> None:
    ours = schedule()
    sample, prediction = random(1, 8, seed=6), random(1, 8, seed=7)
    stepped = ours.ddim_step(sample.half(), prediction.half(), torch.tensor([999]))
    assert stepped.dtype == torch.float32
    assert relative_error(stepped, ours.ddim_step(sample, prediction, torch.tensor([999]))) < 2e-3


def test_another_window_spans_the_same_noise() -> None:
    assert with_window(OFFICIAL, "4x4") == OFFICIAL
    low = with_window(MINI, "2x2").stream
    assert (low.timesteps, low.window_frames, low.lead_in_frames) == ((0, 999), 4, 2)
    assert with_window(MINI, "3x8").stream.timesteps == (0, 499, 998)
    assert (with_window(MINI, "live"), with_window(OFFICIAL, "live")) == (with_window(MINI, "2x2"), OFFICIAL)
    # The first step from pure noise lands on the cleanest level, the second one cleans it.
    schedule = Schedule(low)
    clean, noise = torch.randn(2, 4, 4, 8, 8)
    last = torch.full((4,), 999)
    after = schedule.ddim_step(schedule.add_noise(clean, noise, last), schedule.target(clean, noise, last), last)
    torch.testing.assert_close(after, schedule.add_noise(clean, noise, torch.zeros(4).long()), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("", "is not LEVELSxFRAMES of a chunk, as in 4x4 or 2x2"),
        ("4", "the window '4' is not LEVELSxFRAMES"),
        ("2x2x2", "is not LEVELSxFRAMES"),
        ("-2x2", "is not LEVELSxFRAMES"),
        ("1x4", "has not two levels"),
        ("9x1", r"stream\.levels: 9 is not in 1\.\.8"),
        ("2x0", r"stream\.chunk_frames: 0 is not in 1\.\.16"),
        ("4x16", "the window is longer than unet.max_frames"),
    ],
)
def test_a_window_that_cannot_be(window: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_window(MINI, window)
