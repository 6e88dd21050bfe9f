"""Streams of a model with a reference warp: their size, offline and live, what the portrait and the driver change.

What holds for all streams is in test_pipeline.py, which runs them with and without a warp.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from personalive.choices import with_output_size
from personalive.config import MINI, TOY
from personalive.errors import ConfigError
from personalive.evaluation.bench import PER_CHUNK, bench, count_tflop
from personalive.evaluation.steps import compare_steps
from personalive.media.frames import Pixels, load_picture, resample, resize_picture
from personalive.media.video import read_video
from personalive.media.video_writer import VideoWriter
from personalive.motion import signals
from personalive.motion.keypoints import MotionGains
from personalive.pipeline import PersonaLive
from personalive.server.service import warm_up
from personalive.warp.compose import guide_of, read_portrait, with_expression
from personalive.warp.driver import watch_driver
from toy import picture, pictures, toy_networks, warp_networks
from toy_video import make_video

SIDE, OUT = TOY.image_size, 64


@pytest.fixture(scope="module")
def model() -> PersonaLive:
    return PersonaLive(warp_networks())


def smooth(seed: int, side: int) -> Pixels:
    """A picture of a few soft colours, in which nothing is finer than a fifth of it."""
    rough = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return np.array(rough.resize((side, side), Image.Resampling.BICUBIC))


def animated(model: PersonaLive, portrait: Pixels, driving: Pixels) -> Pixels:
    stream = model.start(portrait)
    return np.concatenate([stream.push(driving), stream.flush()])


def test_offline_gives_what_the_stream_gives(
    model: PersonaLive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The portrait at the output's size, driving frames at the networks'; the driver beside it at the output's."""
    Image.fromarray(picture(1, 128)).save(tmp_path / "portrait.png")
    driving = make_video(tmp_path / "driver.mp4", 7, size=(128, 128), draw=partial(picture, side=128))
    written: list[Pixels] = []
    write = VideoWriter.write

    def keep(writer: VideoWriter, pixels: Pixels, time: float | None = None) -> None:
        written.append(pixels.copy())
        write(writer, pixels, time)

    monkeypatch.setattr(VideoWriter, "write", keep)
    alone = model.animate(tmp_path / "portrait.png", driving, tmp_path / "a.mp4", crop="none")
    row = model.animate(tmp_path / "portrait.png", driving, tmp_path / "b.mp4", crop="none", side_by_side=True)
    assert (alone.width, alone.height, row.width, row.height) == (OUT, OUT, 3 * OUT, OUT)
    portrait = resize_picture(load_picture(tmp_path / "portrait.png"), OUT)
    with read_video(driving) as video:
        shown = [frame.pixels for frame in video]
    live = animated(model, portrait, np.stack([resize_picture(frame, model.config.driver_size) for frame in shown]))
    assert np.array_equal(np.stack(written[:7]), live)
    rows = np.stack(written[7:])
    wanted = [np.stack([portrait] * 7), np.stack([resize_picture(frame, OUT) for frame in shown]), live]
    for place, pane in enumerate(wanted):
        assert np.array_equal(rows[:, :, place * OUT : (place + 1) * OUT], pane)


@pytest.mark.parametrize("size", [64, 72, 200])
def test_pictures_come_out_at_any_size_and_show_the_same(model: PersonaLive, size: int) -> None:
    networks = warp_networks(warp__output_size=size)
    assert with_output_size(model.config, size) == networks.config
    portrait, driving = smooth(1, 256), pictures(6)
    output = animated(PersonaLive(networks), portrait, driving)
    assert output.shape == (6, size, size, 3)
    plain = animated(model, portrait, driving)
    small = resample(torch.from_numpy(output).movedim(-1, 1).float(), OUT)
    assert float((small - torch.from_numpy(plain).movedim(-1, 1)).abs().mean()) < 6  # of 255


@pytest.mark.parametrize("size", [0, 56, 100, 1032])
def test_sizes_that_cannot_be_are_refused(model: PersonaLive, size: int) -> None:
    with pytest.raises(ConfigError, match="choose a multiple of 8 from 64 to 1024"):
        with_output_size(model.config, size)


def test_a_model_without_a_warp_has_one_size() -> None:
    assert with_output_size(TOY, SIDE) == TOY
    with pytest.raises(ConfigError, match="gives pictures of 32 px only"):
        with_output_size(TOY, 64)
    assert (TOY.output_size, MINI.image_size, MINI.output_size) == (32, 128, 256)


def test_the_drivers_motion_carries_the_portraits_pixels() -> None:
    """A driver that holds still gives a still picture, one that moves gives a moving one, and gains of 0 hold it."""
    portrait, driving = smooth(2, OUT), pictures(12)
    model = PersonaLive(warp_networks(stream__common_noise=1.0))
    held = animated(model, portrait, driving[:1].repeat(12, axis=0)).astype(int)
    moving = animated(model, portrait, driving).astype(int)
    stream = model.start(portrait, gains=MotionGains(0.0, 0.0, 0.0, 0.0))
    stopped = np.concatenate([stream.push(driving), stream.flush()]).astype(int)
    changes = [float(np.abs(np.diff(frames, axis=0)).mean()) for frames in (held, moving, stopped)]
    assert changes[0] < 0.3 * changes[1]
    assert changes[2] < 0.3 * changes[1]


def test_the_first_driving_frame_finds_the_portrait_in_its_own_pose(model: PersonaLive) -> None:
    """Relative rotation: whatever the driver's angles are at first, the portrait's head has its own."""
    networks = model.networks
    with torch.inference_mode():
        _, bare = signals.encode_reference(networks, smooth(3, OUT))
        layers = read_portrait(networks, smooth(3, OUT), bare)
        own, guide = with_expression(bare, layers), guide_of(networks, layers)
        assert guide is not None
        with pytest.raises(ValueError, match="needs to know the expression"):
            guide(bare)
        seen, _ = watch_driver(networks, torch.rand(2, 3, SIDE, SIDE))
        told: list[signals.Observation] = []

        def note(target: signals.Observation) -> torch.Tensor:
            told.append(target)
            return torch.zeros(())

        signals.drive(networks, own, seen[0:1], seen, guide=note)
        (target,) = told
        assert torch.allclose(target.head.angles[:1], own.head.angles, atol=1e-3)
        assert not torch.allclose(target.head.angles[1:], own.head.angles, atol=1e-2)
        guide(own)
    moved = guide.moved
    assert moved is not None
    here = model.config.warp.grid
    assert float(moved.seen[0, 0, here // 4 : -here // 4, here // 4 : -here // 4].mean()) > 0.5


def test_nothing_is_composed_before_it_was_warped(model: PersonaLive) -> None:
    networks = model.networks
    with torch.inference_mode():
        _, own = signals.encode_reference(networks, picture(1))
        guide = guide_of(networks, read_portrait(networks, picture(1), own))
    assert guide is not None
    with pytest.raises(ValueError, match="nothing was warped yet"):
        guide.composed(torch.zeros(1, 3, SIDE, SIDE))
    plain = toy_networks()
    assert read_portrait(plain, picture(1), own) is None
    assert guide_of(plain, None) is None


def test_a_server_warms_up_at_both_sizes(model: PersonaLive, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    start = model.start

    def note(portrait: Pixels) -> object:
        seen.append(portrait.shape)
        return start(portrait)

    monkeypatch.setattr(model, "start", note)
    assert warm_up(model, lambda: False).chunk_seconds is not None
    assert seen == [(OUT, OUT, 3)]


# What is measured


def test_the_built_in_models_work_is_counted_without_its_weights() -> None:
    """`bench speed` counts on tensors without values: nothing on the warp's way may look at one."""
    counts = count_tflop(MINI, 0)
    assert set(counts) == {"motion", "pose", "warp", "window", "decode", "compose"}
    assert 0 < counts["compose"] < counts["window"]


def test_the_bench_tells_warp_and_composition_apart(model: PersonaLive) -> None:
    report = bench(model.networks, chunks=1, burn_in=0)
    assert list(report.stages) == list(PER_CHUNK)
    assert (report.image_size, report.output_size) == (SIDE, OUT)
    assert "toy, 32 px, pictures of 64 px, float32" in report.to_table()
    counts = count_tflop(model.config, 0)
    assert set(counts) == {"motion", "pose", "warp", "window", "decode", "compose"}
    assert min(counts.values()) > 0
    assert counts["decode"] == count_tflop(TOY, 0)["decode"]


def test_steps_are_compared_in_composed_pictures(model: PersonaLive) -> None:
    frames = np.stack([smooth(5, SIDE)] * 9)
    warped = compare_steps(model, frames, every=4)
    assert set(warped) == {1, 2, 3, 4}
    assert all(0 < figures["L1"] < 1 for figures in warped.values())
    plain = compare_steps(PersonaLive(toy_networks()), frames, every=4)
    assert warped[4]["SSIM"] > plain[4]["SSIM"]  # random networks: what is right comes from the portrait alone
