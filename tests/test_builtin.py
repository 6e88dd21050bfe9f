from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import personalive
from personalive.rendering.builtin import DRIVER_SEED, DRIVING_SECONDS, PORTRAITS
from personalive.rendering.people import SEED_RANGES

ASSETS = Path(personalive.__file__).parent / "assets"


def test_built_in_people_are_in_no_data_set() -> None:
    seeds = [*(sitter.seed for sitter in PORTRAITS.values()), DRIVER_SEED]
    assert len(set(seeds)) == len(seeds) == 9  # the driver is none of the portraits
    assert max(seeds) < min(low for low, _ in SEED_RANGES.values())


@pytest.mark.parametrize("name", PORTRAITS)
def test_portraits_are_shipped(name: str) -> None:
    path = ASSETS / "portraits" / f"{name}.jpg"
    assert path.stat().st_size < 120_000
    with Image.open(path) as picture:
        assert picture.size == (512, 512)
        assert np.asarray(picture).std() > 20


def test_the_driving_video_is_shipped_and_moves() -> None:
    path = ASSETS / "driving.mp4"
    assert path.stat().st_size < 1_000_000
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 25
        frames = [frame.to_ndarray(format="rgb24")[::4, ::4] for frame in container.decode(stream)]
    assert len(frames) == 25 * DRIVING_SECONDS
    assert frames[0].shape == (64, 64, 3)
    change = np.abs(np.stack(frames).astype(int) - frames[0]).mean((1, 2, 3))
    assert change.max() > 10
