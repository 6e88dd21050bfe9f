"""PersonaLive and Stream at toy size: as many frames out as in, whatever the grouping; changes while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from personalive import stream as stream_module
from personalive.contracts import Networks
from personalive.device import Arriving, choose_device, fetch
from personalive.errors import ConfigError, InputError, WeightsError
from personalive.media.frames import Pixels
from personalive.motion.keypoints import MotionGains
from personalive.pipeline import PersonaLive, Stream
from personalive.stream import begin_together
from personalive.weights.load import build_networks, save_networks
from toy import picture, pictures, toy_networks, warp_networks


@pytest.fixture(scope="module", params=[toy_networks, warp_networks], ids=["plain", "warp"])
def model(request: pytest.FixtureRequest) -> PersonaLive:
    return PersonaLive(request.param())


def animate(stream: Stream, frames: Pixels, group: int) -> Pixels:
    """All frames through a stream, `group` at a time, and what is left at the end."""
    groups = [frames[i : i + group] for i in range(0, len(frames), group)]
    return np.concatenate([*(stream.push(part) for part in groups), stream.flush()])


def test_grouping_does_not_change_a_bit(model: PersonaLive) -> None:
    frames = pictures(22)
    results = [animate(model.start(picture(1), seed=3), frames, group) for group in (1, 7, 22)]
    side = model.config.output_size
    assert results[0].shape == (22, side, side, 3)
    assert results[0].dtype == np.uint8
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert results[0].std() > 1  # frames, not a flat colour
    assert not np.array_equal(results[0], animate(model.start(picture(1), seed=4), frames, 22))


@pytest.mark.parametrize("count", range(10))
def test_as_many_frames_out_as_in(count: int) -> None:
    model = PersonaLive(toy_networks(stream__levels=2))
    stream = model.start(picture(1))
    assert animate(stream, pictures(count), 4).shape == (count, 32, 32, 3)
    assert stream.frames_in == stream.frames_out == count
    assert len(stream.flush()) == 0
    with pytest.raises(InputError, match="has ended"):
        stream.push(pictures(1))


def test_the_delay_is_the_window(model: PersonaLive) -> None:
    stream = model.start(picture(1))
    assert (stream.chunk_frames, stream.delay_frames) == (4, 15)
    out = [len(stream.push(frame[None])) for frame in pictures(24)]
    assert out == [0] * 15 + [4] + [0, 0, 0, 4] * 2
    assert (stream.frames_in, stream.frames_out) == (24, 12)
    assert len(stream.push(pictures(0))) == 0


def test_a_window_of_one_level_has_no_delay_beyond_the_chunk() -> None:
    stream = PersonaLive(toy_networks(stream__levels=1, stream__chunk_frames=2)).start(picture(1))
    assert stream.delay_frames == 1
    assert [len(stream.push(frame[None])) for frame in pictures(4)] == [0, 2, 0, 2]
    assert len(stream.flush()) == 0


def test_hold_repeats_the_last_motion(model: PersonaLive) -> None:
    frames = pictures(6)
    held, repeated = model.start(picture(1)), model.start(picture(1))
    assert len(held.push(frames)) == 0
    a = np.concatenate([held.hold(3), held.push(frames[:2]), held.flush()])
    b = animate(repeated, np.concatenate([frames, frames[5:].repeat(3, axis=0), frames[:2]]), 11)
    assert len(a) == 11
    assert np.array_equal(a, b)


def test_before_any_driving_frame_the_portrait_rests(model: PersonaLive) -> None:
    stream = model.start(picture(1))
    rest = stream.hold(16)
    assert len(rest) == 4
    moved = np.concatenate([stream.hold(1), stream.push(pictures(7)), stream.flush()])
    assert stream.frames_out == 24
    assert len(moved) == 20
    assert not np.array_equal(moved[-1], rest[0])


def test_a_new_portrait_takes_over_without_a_gap(model: PersonaLive) -> None:
    frames = pictures(24)
    stream, fresh = model.start(picture(1)), model.start(picture(2))
    before = stream.push(frames[:10])
    stream.set_portrait(picture(2))
    after = np.concatenate([stream.push(frames[10:]), stream.flush()])
    # Nothing had come out yet, so all of it is as if the new portrait had been there from the start.
    assert len(before) == 0
    assert np.array_equal(after, animate(fresh, frames, 24))


def test_a_new_portrait_in_the_middle_repaints_what_is_inside_the_window(model: PersonaLive) -> None:
    frames = pictures(32)
    stream, alone = model.start(picture(1)), model.start(picture(1))
    undisturbed = animate(alone, frames, 32)
    before = stream.push(frames[:22])
    stream.set_portrait(picture(2))
    after = np.concatenate([stream.push(frames[22:]), stream.flush()])
    assert len(before) == 8
    assert np.array_equal(before, undisturbed[:8])
    assert len(after) == 24
    assert not np.array_equal(after[:4], undisturbed[8:12])
    assert np.array_equal(stream.flush(), after[:0])


def test_gains_change_from_the_next_chunk_on() -> None:
    model = PersonaLive(toy_networks(keypoints__soft=True))  # where a head moves by less than a pixel, too
    frames = pictures(16)
    frozen = MotionGains(0.0, 0.0, 0.0)
    a = animate(model.start(picture(1), gains=frozen), frames, 16)
    live = model.start(picture(1))
    assert live.gains == MotionGains.of(model.config.stream)
    live.gains = frozen
    b = animate(live, frames, 16)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, animate(model.start(picture(1)), frames, 16))


def test_streams_step_together_as_they_would_alone(model: PersonaLive) -> None:
    """One in its lead-in, one that never saw a face, one with a fresh portrait: one batch."""
    frames, seeds = pictures(24), range(3)
    alone, together = ([model.start(picture(i), seed=i) for i in seeds] for _ in range(2))
    for streams in (alone, together):
        streams[0].push(frames[:16])
        streams[2].push(frames[:20])
        streams[2].set_portrait(picture(9))
    expected = [alone[0].push(frames[4:8]), alone[1].hold(4), alone[2].push(frames[:4])]
    for i in range(4):
        together[0].feed(frames[4 + i])
        together[1].feed(None)
        together[2].feed(frames[i])
    painted = model.step(together)
    assert [len(part) for part in painted] == [4, 0, 4]
    for ours, theirs in zip(painted, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs.astype(int)).max(initial=0) <= 1
    assert [stream.frames_out for stream in together] == [stream.frames_out for stream in alone]


def test_looking_ahead_and_painting_frame_by_frame_change_nothing_but_when(model: PersonaLive) -> None:
    """Two streams, one looked at after every frame, held frames among them; the other never."""
    frames = pictures(28)
    eager, plain = ([model.start(picture(i), seed=i) for i in range(2)] for _ in range(2))
    for start in range(0, 28, 4):
        for number in range(start, start + 4):
            held = number in (0, 1, 13, 27)
            for streams in (eager, plain):
                for stream in streams:
                    stream.feed(None if held else frames[number])
            model.look(eager[:1])
        expected = model.step(plain)
        parts = list(model.paint(eager))
        assert [len(part[0]) for part in parts] == ([1, 3] if len(expected[0]) else [0, 0])
        for index, wanted in enumerate(expected):
            painted = np.concatenate([part[index] for part in parts])
            assert np.abs(painted.astype(int) - wanted.astype(int)).max(initial=0) <= 1
    assert [stream.frames_out for stream in eager] == [stream.frames_out for stream in plain] == [16, 16]


class Later(Arriving):
    """A GPU as slow as can be: it computes only when somebody waits for the result."""

    def __init__(
        self, work: Callable[[Tensor], Tensor], given: Tensor, beside: bool = False, reads: Iterable[Tensor] = ()
    ) -> None:
        self._work, self._given = work, given

    ready = False

    @torch.inference_mode()
    def wait(self) -> Tensor:
        return self._work(self._given)


@pytest.mark.parametrize("networks", [toy_networks, warp_networks])
def test_frames_that_are_taken_late_are_the_same(
    networks: Callable[..., Networks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three streams begun 24 times, keyframes, a new portrait and new gains between, before anybody takes a frame."""
    model = PersonaLive(networks(stream__tau=0.1))
    painted: list[list[Pixels]] = []
    for fetching in (fetch, Later):
        monkeypatch.setattr(stream_module, "fetch", fetching)
        streams = [model.start(picture(i), seed=i) for i in range(3)]
        begun = []
        for number in range(24):
            driving = pictures(4, seed=4 * number)
            for stream in streams[: 2 + number % 2]:
                for frame in driving:
                    stream.feed(frame)
                    frame[:] = 0  # whoever feeds may use the memory again
            if number == 9:
                streams[1].set_portrait(picture(7))
                streams[0].gains = MotionGains(0.5, 0.5, 0.0)
            begun += begin_together([stream for stream in streams if stream.ready], beside=True)
        flushed = [stream.flush() for stream in streams]
        assert [stream.frames_out for stream in streams] == [96, 96, 48]
        painted.append([*(painting.frames() for painting in begun), *flushed])
    assert [len(part) for part in painted[0][-3:]] == [12, 12, 12]
    assert sum(len(part) for part in painted[0]) == 96 + 96 + 48
    for late, plain in zip(*painted, strict=True):
        assert np.array_equal(late, plain)


def test_a_gpu_is_told_a_whole_chunk_before_anybody_waits_for_its_first_frame(
    model: PersonaLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, alone = model.start(picture(1)), model.start(picture(1))
    expected = alone.push(pictures(16))
    stream.push(pictures(12))
    for frame in pictures(16)[12:]:
        stream.feed(frame)
    begun: list[Later] = []

    def fetching(work: Callable[[Tensor], Tensor], given: Tensor, beside: bool, reads: Iterable[Tensor]) -> Later:
        begun.append(Later(work, given))
        return begun[-1]

    monkeypatch.setattr(stream_module, "fetch", fetching)
    parts = model.paint([stream])
    first = next(parts)
    assert len(begun) == 2
    painted = np.concatenate([first[0], *(part[0] for part in parts)])
    assert np.abs(painted.astype(int) - expected).max() <= 1  # the first is decoded alone here


def test_only_ready_streams_of_one_model_step_together(model: PersonaLive) -> None:
    ready, half = model.start(picture(1)), model.start(picture(1))
    for stream, count in ((ready, 4), (half, 3)):
        for frame in pictures(count):
            stream.feed(frame)
    with pytest.raises(ValueError, match="ready and of one model"):
        model.step([ready, half])
    with pytest.raises(ValueError, match="step before feeding"):
        ready.feed(None)


def test_recalibrated_movement_counts_from_the_next_frame() -> None:
    model = PersonaLive(toy_networks(keypoints__soft=True))
    frames = pictures(8)
    plain, calibrated = model.start(picture(1)), model.start(picture(1))
    for stream in (plain, calibrated):
        stream.push(frames[:4])
    calibrated.recalibrate()
    assert not np.array_equal(animate(plain, frames[4:], 4), animate(calibrated, frames[4:], 4))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 32, 32, 3), dtype=np.float32),
        np.zeros((32, 32, 3), dtype=np.uint8),
        np.zeros((4, 32, 30, 3), dtype=np.uint8),
        np.zeros((4, 32, 32, 4), dtype=np.uint8),
        np.zeros((4, 0, 0, 3), dtype=np.uint8),
    ],
    ids=lambda frames: f"{frames.dtype}{frames.shape}",
)
def test_wrong_pixels_are_refused_and_the_stream_goes_on(model: PersonaLive, frames: Pixels) -> None:
    stream = model.start(picture(1))
    with pytest.raises(InputError, match="driving frame must be"):
        stream.push(frames)
    assert animate(stream, pictures(1), 1).shape == (1, *2 * (model.config.output_size,), 3)


def test_a_portrait_that_is_not_square_is_refused(model: PersonaLive) -> None:
    with pytest.raises(InputError, match="40x32; crop it first"):
        model.start(np.zeros((32, 40, 3), dtype=np.uint8))


def test_a_checkpoint_gives_the_same_frames(model: PersonaLive, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    save_networks(model.networks, path, dtype=torch.float32)
    loaded = PersonaLive.from_pretrained(path, device="cpu")
    assert loaded.config == model.config
    ours, theirs = model.networks.reference_warp, loaded.networks.reference_warp
    if ours is not None and theirs is not None:
        theirs.landmarks = ours.landmarks  # the toy's are placed where the picture has none
    a, b = (animate(m.start(picture(1), seed=5), pictures(3), 3) for m in (model, loaded))
    assert np.array_equal(a, b)
    low = PersonaLive.from_pretrained(path, device="cpu", window="2x2").start(picture(1))
    assert (low.chunk_frames, low.delay_frames) == (2, 3)
    assert [len(low.push(frame[None])) for frame in pictures(6)] == [0, 0, 0, 2, 0, 2]
    with pytest.raises(ConfigError, match="has not two levels"):
        PersonaLive.from_pretrained(path, device="cpu", window="1x4")


def test_networks_of_another_precision_run(model: PersonaLive) -> None:
    # The head's arithmetic and the window stay in float32; every border between them and the networks must cast.
    for dtype in (torch.float64, torch.bfloat16):
        other = PersonaLive(build_networks(model.config, dtype=dtype))
        assert next(other.networks.denoising_unet.parameters()).dtype == dtype
        frames = animate(other.start(picture(1)), pictures(5), 5)
        assert frames.shape == (5, *2 * (model.config.output_size,), 3)


def test_unknown_models_and_devices_are_refused() -> None:
    with pytest.raises(WeightsError):
        PersonaLive.from_pretrained("no-such-model", device="cpu")
    with pytest.raises(ConfigError, match="'warp' cannot be used"):
        choose_device("warp")
    assert choose_device("cpu") == torch.device("cpu")
