"""The checkpoint in the package: it is what it says, and it moves a portrait. Its quality is measured in benchmarks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from personalive.config import MINI, override
from personalive.gallery import find_driving, find_portrait
from personalive.media.frames import Pixels, load_picture
from personalive.media.video import read_video
from personalive.motion.face_crop import SteadyCrop, crop_square, find_head
from personalive.motion.face_finder import FaceFinder
from personalive.pipeline import PersonaLive
from personalive.weights.load import find_model


@pytest.fixture(scope="module")
def model() -> PersonaLive:
    return PersonaLive.from_pretrained("mini", device="cpu")


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    picture = load_picture(find_portrait("clara"))
    return crop_square(picture, find_head(picture, FaceFinder()).square, MINI.image_size)


@pytest.fixture(scope="module")
def driver() -> Pixels:
    """32 frames spread over the built-in clip."""
    steady = SteadyCrop(FaceFinder())
    with read_video(find_driving("builtin")) as video:
        frames = [steady.update(f.pixels).cut(f.pixels, MINI.image_size) for f in itertools.islice(video, 0, 192, 6)]
    return np.stack(frames)


def test_the_checkpoint_is_of_the_mini_size_and_fits_its_limit(model: PersonaLive) -> None:
    assert model.config == MINI
    assert find_model("mini").stat().st_size <= 16 * 2**20


def test_it_paints_the_portrait_and_moves_it(model: PersonaLive, portrait: Pixels, driver: Pixels) -> None:
    stream = model.start(portrait)
    output = np.concatenate([stream.push(driver), stream.flush()]).astype(np.float32) / 255
    assert output.shape == (32, MINI.image_size, MINI.image_size, 3)
    truth = portrait.astype(np.float32) / 255
    assert np.abs(output - truth).mean() < 0.2  # noise, or another picture, is further away
    for other in ("femi", "greta"):
        picture = load_picture(find_portrait(other))
        stranger = (
            crop_square(picture, find_head(picture, FaceFinder()).square, MINI.image_size).astype(np.float32) / 255
        )
        assert np.abs(output - truth).mean() < np.abs(output - stranger).mean()
    assert np.abs(np.diff(output, axis=0)).mean() > 0.005  # it does not stand still


def test_a_still_driver_gives_a_still_portrait(model: PersonaLive, portrait: Pixels, driver: Pixels) -> None:
    config = override(model.config, {"stream.common_noise": 0.0})
    restless = PersonaLive(dataclasses.replace(model.networks, config=config))

    def change(model: PersonaLive, frames: Pixels) -> float:
        stream = model.start(portrait)
        output = np.concatenate([stream.push(frames), stream.flush()]).astype(np.float32)
        return float(np.abs(np.diff(output[4:], axis=0)).mean())

    held = driver[:1].repeat(24, 0)
    assert change(model, held) < 0.25 * change(model, driver[:24])
    assert change(model, held) < 0.6 * change(restless, held)
