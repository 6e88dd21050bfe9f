"""What may be chosen of a trained model without other weights: its window, and the size of its pictures."""

from __future__ import annotations

import re

from personalive.config import MINI, ModelConfig, override
from personalive.errors import ConfigError
from personalive.plain_data import require

LIVE = "live"
LIVE_WINDOWS = {MINI.name: "2x2"}
"""Windows for live streams, where another than the model's own is sooner and as good (measured: docs/live.md)."""

SIZES = (64, 1024)
"""Sides of pictures that a model with a reference warp gives, from the least to the largest."""


def with_output_size(config: ModelConfig, size: int) -> ModelConfig:
    """A model whose pictures come out with another side, in pixels, a multiple of 8.

    Raises ConfigError for another side, and for a model without a reference warp, which has one size only.
    """
    if not config.warp.enabled:
        require(size == config.image_size, f"the model {config.name} gives pictures of {config.image_size} px only")
        return config
    least, most = SIZES
    require(least <= size <= most and size % 8 == 0, f"size {size}: choose a multiple of 8 from {least} to {most}")
    return override(config, {"warp.output_size": size})


def with_window(config: ModelConfig, window: str) -> ModelConfig:
    """A model with another window, "LEVELSxFRAMES": 4x4 as published; 2x2 shows a frame three driving frames later.

    The levels spread over the whole noise schedule, as the published ones do: (0, 333, 666, 999), or (0, 999). "live":
    the one of LIVE_WINDOWS, or the model's own. Raises ConfigError for what is no such window.
    """
    if window == LIVE and config.name not in LIVE_WINDOWS:
        return config
    window = LIVE_WINDOWS[config.name] if window == LIVE else window
    match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", window)
    if match is None:
        raise ConfigError(f"the window {window!r} is not LEVELSxFRAMES of a chunk, as in 4x4 or 2x2, nor live")
    levels, frames = (int(part) for part in match.groups())
    require(levels >= 2, f"the window {window} has not two levels: a step from noise and one that cleans")
    step = (config.stream.train_timesteps - 1) // (levels - 1)
    changes = {"stream.levels": levels, "stream.chunk_frames": frames, "stream.step_size": step}
    return override(config, changes)
