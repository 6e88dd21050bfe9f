"""Noise levels: DDIM with scaled-linear betas, one deterministic step on a window of mixed levels (model.md 3.1)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from personalive.config import StreamConfig
from personalive.device import constant


@functools.lru_cache(maxsize=32)
def _alphas_cumprod(steps: int, beta_start: float, beta_end: float, device: torch.device) -> Tensor:
    # A table born in inference mode could never take part in training later.
    with torch.inference_mode(False):
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32).square()
        return torch.cumprod(1 - betas, dim=0).to(device)


@dataclass(frozen=True)
class Schedule:
    """The arithmetic of one StreamConfig's noise schedule.

    Timesteps are an int64 tensor whose shape is a leading part of the sample's: (F,) for (F, C, h, w), or (B, F) for
    (B, F, C, h, w). Arithmetic is in float32 at least, and the results stay so: the callers choose what to round.
    """

    config: StreamConfig

    def alphas_cumprod(self, device: torch.device | str = "cpu") -> Tensor:
        """The signal's share of the variance at each of the training timesteps, (train_timesteps,) float32."""
        config = self.config
        return _alphas_cumprod(config.train_timesteps, config.beta_start, config.beta_end, torch.device(device))

    def window_timesteps(self, device: torch.device | str = "cpu") -> Tensor:
        """One timestep per frame of the window, oldest (cleanest) chunk first: (window_frames,) int64."""
        levels = (level for level in self.config.timesteps for _ in range(self.config.chunk_frames))
        return constant(tuple(levels), torch.device(device))

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`clean` at the given noise levels."""
        signal, spread = self._shares(clean, timesteps)
        return signal * clean + spread * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network predicts for `add_noise(clean, noise, timesteps)`: the noise, or the velocity."""
        if self.config.prediction == "epsilon":
            return noise
        signal, spread = self._shares(clean, timesteps)
        return signal * noise - spread * clean

    def to_clean(self, sample: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The clean value that a prediction at these noise levels stands for; not clipped."""
        signal, spread = self._shares(sample, timesteps)
        if self.config.prediction == "epsilon":
            return (sample - spread * prediction) / signal
        return signal * sample - spread * prediction

    def ddim_step(self, sample: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The sample one level cleaner, at timesteps - step_size; below zero that is clean (target alpha 1)."""
        signal, spread = self._shares(sample, timesteps)
        noise = prediction if self.config.prediction == "epsilon" else signal * prediction + spread * sample
        next_signal, next_spread = self._shares(sample, timesteps - self.config.step_size)
        return next_signal * self.to_clean(sample, prediction, timesteps) + next_spread * noise

    def _shares(self, sample: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise, shaped to multiply `sample`; a negative timestep means no noise."""
        table = self.alphas_cumprod(sample.device)
        alphas = table[timesteps.clamp(min=0)].masked_fill(timesteps < 0, 1.0)
        alphas = alphas.view(*timesteps.shape, *[1] * (sample.ndim - timesteps.ndim))  # (F, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()
