"""The offline job at toy size: exactly the driver's frames, times and sound; all of it or nothing."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from personalive import animate as job_module
from personalive import gallery
from personalive import stream as stream_module
from personalive.animate import AnimatedVideo, AnimateOptions, animate, prepare
from personalive.errors import ConfigError, FaceNotFoundError, InputError, OutputError
from personalive.media.frames import Pixels, load_picture, resize_picture
from personalive.media.video import VideoFrame, read_video
from personalive.media.video_writer import AI_COMMENT, VideoWriter
from personalive.motion.face_crop import SteadyConfig, SteadyCrop
from personalive.motion.keypoints import MotionGains
from personalive.pipeline import PersonaLive
from toy import picture, toy_networks
from toy_video import hear, make_video

SIDE = 32  # of the toy model


@pytest.fixture(scope="module")
def model() -> PersonaLive:
    return PersonaLive(toy_networks())


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    Image.fromarray(picture(1, 64)).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def frames_of(path: Path) -> list[VideoFrame]:
    with read_video(path) as video:
        return list(video)


def driver(path: Path, count: int, **options: object) -> Path:
    return make_video(path, count, size=(64, 64), draw=partial(picture, side=64), **options)  # type: ignore[arg-type]


def made(model: PersonaLive, portrait: Path, driving: Path, output: Path, **options: object) -> AnimatedVideo:
    return model.animate(portrait, driving, output, crop="none", **options)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_exactly_the_drivers_frames_and_times(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path, count: int
) -> None:
    driving = driver(tmp_path / "driver.mp4", count)
    done = made(model, portrait, driving, out / "a.mp4")
    expected, found = frames_of(driving), frames_of(out / "a.mp4")
    assert [frame.time for frame in found] == [frame.time for frame in expected]
    assert len(found) == count
    assert {frame.pixels.shape for frame in found} == {(SIDE, SIDE, 3)}
    assert (done.path, done.frames, done.width, done.height) == (out / "a.mp4", count, SIDE, SIDE)
    assert done.seconds == pytest.approx(count / 10)
    assert done.rate == pytest.approx(10)
    assert done.without_face == 0
    assert os.listdir(out) == ["a.mp4"]


def test_variable_frame_rate_is_kept(model: PersonaLive, portrait: Path, tmp_path: Path, out: Path) -> None:
    ticks = [0, 40, 200, 233, 700, 1000]
    driving = driver(tmp_path / "driver.mp4", len(ticks), ticks=ticks, time_base=Fraction(1, 1000))
    made(model, portrait, driving, out / "a.mp4")
    assert [frame.time for frame in frames_of(out / "a.mp4")] == [tick / 1000 for tick in ticks]


def test_sound_stays_in_step_and_ends_with_the_picture(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path
) -> None:
    driving = driver(tmp_path / "driver.mp4", 9, sound="aac", sound_seconds=0.9, beep_at=0.4)
    made(model, portrait, driving, out / "a.mp4")
    heard, expected = hear(out / "a.mp4"), hear(driving)
    assert heard[0] == pytest.approx(expected[0], abs=0.005)
    assert heard[2] == "aac"
    made(model, portrait, driving, out / "short.mp4", max_frames=6)
    assert len(frames_of(out / "short.mp4")) == 6
    assert hear(out / "short.mp4")[1] == pytest.approx(0.6, abs=0.05)


def test_offline_gives_what_the_stream_gives(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driving = driver(tmp_path / "driver.mp4", 7)
    written: list[Pixels] = []
    monkeypatch.setattr(VideoWriter, "write", keeping(VideoWriter.write, written))
    made(model, portrait, driving, out / "a.mp4", seed=5, rotation_gain=0.5)
    gains = MotionGains(0.5, model.config.stream.translation_gain, model.config.stream.scale_gain)
    stream = model.start(resize_picture(load_picture(portrait), SIDE), seed=5, gains=gains)
    frames = np.stack([resize_picture(frame.pixels, SIDE) for frame in frames_of(driving)])
    live = np.concatenate([stream.push(frames[:4]), stream.push(frames[4:]), stream.flush()])
    assert np.array_equal(np.stack(written), live)


@pytest.mark.parametrize(("ready", "taken"), [(True, "bt bt bt bt bt"), (False, "b bt bt bt t bt")])
def test_a_chunk_that_is_not_ready_is_taken_when_the_next_one_has_begun(
    portrait: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, ready: bool, taken: str
) -> None:
    """b: begun, t: taken. The last chunk comes from the stream's end."""
    told: list[str] = []

    def telling(work: Callable[[Tensor], Tensor], given: Tensor, beside: bool, reads: Iterable[Tensor]) -> Any:
        assert beside is (told.count("b") < 4)
        told.append("b")

        def wait() -> Tensor:
            told.append("t")
            with torch.inference_mode():
                return work(given)

        return SimpleNamespace(ready=ready, wait=wait)

    monkeypatch.setattr(stream_module, "fetch", telling)
    made(PersonaLive(toy_networks(stream__levels=2)), portrait, driver(tmp_path / "driver.mp4", 20), out / "a.mp4")
    assert len(frames_of(out / "a.mp4")) == 20
    assert "".join(told) == taken.replace(" ", "")


def test_what_is_held_does_not_grow_with_the_clip(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path
) -> None:
    """Tensors to the byte, all else (frames, queues, lists) to less than a fifth of the frames that went by."""
    job = prepare(portrait, driver(tmp_path / "driver.mp4", 205), out / "a.mp4", AnimateOptions(crop="none"))
    held: dict[int, tuple[int, int]] = {}

    def look(written: int, _total: int | None) -> None:
        if written in (20, 180):
            gc.collect()
            bytes_of = (t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor)
            held[written] = sum(bytes_of), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        animate(model, job, look)
    finally:
        tracemalloc.stop()
    assert held[180][0] == held[20][0]
    assert held[180][1] - held[20][1] < 32 * SIDE * SIDE * 3


def keeping(write: Callable[..., None], kept: list[Pixels]) -> Callable[..., None]:
    """`write` that also keeps the pixels."""

    def both(writer: VideoWriter, pixels: Pixels, time: float | None = None) -> None:
        kept.append(pixels.copy())
        write(writer, pixels, time)

    return both


def test_side_by_side_shows_portrait_driver_and_result(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driving = driver(tmp_path / "driver.mp4", 6)
    written: list[Pixels] = []
    monkeypatch.setattr(VideoWriter, "write", keeping(VideoWriter.write, written))
    alone = made(model, portrait, driving, out / "a.mp4")
    row = made(model, portrait, driving, out / "b.mp4", side_by_side=True)
    assert (alone.width, row.width, row.height) == (SIDE, 3 * SIDE, SIDE)
    assert frames_of(out / "b.mp4")[0].pixels.shape == (SIDE, 3 * SIDE, 3)
    rows, results = np.stack(written[6:]), np.stack(written[:6])
    left, middle, right = (rows[:, :, i * SIDE : (i + 1) * SIDE] for i in range(3))
    assert np.array_equal(left, np.stack([resize_picture(load_picture(portrait), SIDE)] * 6))
    assert np.array_equal(middle, np.stack([resize_picture(frame.pixels, SIDE) for frame in frames_of(driving)]))
    assert np.array_equal(right, results)


@pytest.mark.parametrize(("extension", "magic"), [("mp4", b"ftyp"), ("gif", b"GIF89a"), ("webp", b"WEBP")])
def test_the_kind_follows_the_extension_and_carries_the_mark(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path, extension: str, magic: bytes
) -> None:
    driving = driver(tmp_path / "driver.mp4", 3, sound="aac", sound_seconds=0.3)
    path = out / f"a.{extension}"
    made(model, portrait, driving, path)
    content = path.read_bytes()
    assert magic in content[:16]
    assert AI_COMMENT.encode() in content
    assert len(frames_of(path)) == 3
    if extension == "mp4":
        with av.open(str(path)) as container:
            assert container.metadata["comment"] == AI_COMMENT


def test_progress_counts_what_is_written(model: PersonaLive, portrait: Path, tmp_path: Path, out: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    options = AnimateOptions(crop="none", max_frames=18)
    job = prepare(portrait, driver(tmp_path / "driver.mp4", 20), out / "a.mp4", options)
    animate(model, job, lambda done, total: seen.append((done, total)))
    # The window's 16 frames go in before the first chunk comes out; the rest is flushed at the end.
    assert seen == [(0, 18)] * 15 + [(4, 18)] * 3 + [(18, 18)]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("earlier", [b"the old one", None])
def test_what_is_stopped_leaves_no_trace(
    model: PersonaLive, portrait: Path, tmp_path: Path, out: Path, failure: type[BaseException], earlier: bytes | None
) -> None:
    if earlier is not None:
        (out / "a.gif").write_bytes(earlier)
    before = os.listdir(out)
    job = prepare(portrait, driver(tmp_path / "driver.mp4", 18), out / "a.gif", AnimateOptions(crop="none"))

    def stop(done: int, _total: int | None) -> None:
        if done == 4:
            # An MP4's would come only after the encoder's look-ahead.
            assert len(os.listdir(out)) == len(before) + 1
            raise failure

    with pytest.raises(failure):
        animate(model, job, stop)
    assert os.listdir(out) == before
    if earlier is not None:
        assert (out / "a.gif").read_bytes() == earlier


def test_preparing_writes_nothing_and_keeps_what_is_there(portrait: Path, tmp_path: Path, out: Path) -> None:
    driving = driver(tmp_path / "driver.mp4", 2)
    prepare(portrait, driving, out / "a.mp4", AnimateOptions(crop="none"))
    assert os.listdir(out) == []
    (out / "a.mp4").touch()
    with pytest.raises(OutputError, match="exists already"):
        prepare(portrait, driving, out / "a.mp4", AnimateOptions(crop="none", overwrite=False))
    with pytest.raises(OutputError, match="also an input"):
        prepare(portrait, driving, driving)


def test_without_cropping_both_must_be_square(portrait: Path, tmp_path: Path, out: Path) -> None:
    wide = make_video(tmp_path / "wide.mp4", 2, size=(64, 48))
    with pytest.raises(InputError, match=r"wide\.mp4 is 64x48 pixels, not square"):
        prepare(portrait, wide, out / "a.mp4", AnimateOptions(crop="none"))
    Image.fromarray(picture(1, 64)[:40]).save(tmp_path / "flat.png")
    with pytest.raises(InputError, match=r"flat\.png is 64x40 pixels, not square"):
        prepare(tmp_path / "flat.png", driver(tmp_path / "driver.mp4", 2), out / "a.mp4", AnimateOptions(crop="none"))


@pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"crop": "some"}, {"face": -1}, {"driver_face": -1}])
def test_wrong_options(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="choose"):
        AnimateOptions(**wrong)  # type: ignore[arg-type]


def test_a_gain_out_of_range_writes_nothing(model: PersonaLive, portrait: Path, tmp_path: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="scale gain is 3"):
        made(model, portrait, driver(tmp_path / "driver.mp4", 2), out / "a.mp4", scale_gain=3.0)
    assert os.listdir(out) == []


# Faces. Built-in portraits show people whom the detector finds; a flat frame shows nobody.


def face_picture(side: int = 160) -> Pixels:
    return resize_picture(load_picture(gallery.portraits()["ada"]), side)


def drawn(path: Path, faces: str) -> Path:
    """A video with a frame for each letter: "f" a face, anything else an empty room."""
    face, empty = face_picture(), np.full((160, 160, 3), 90, np.uint8)
    return make_video(path, len(faces), size=(160, 160), draw=lambda index: face if faces[index] == "f" else empty)


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each driving frame in turn, whether it was held for want of a face."""
    seen: list[bool] = []
    drive = job_module._drive

    def noting(*given: Any) -> Iterator[job_module._Driven]:
        for driven in drive(*given):
            seen.append(driven.pixels is None)
            yield driven

    monkeypatch.setattr(job_module, "_drive", noting)
    return seen


def test_built_in_names_are_cropped_and_animated(model: PersonaLive, out: Path, holds: list[bool]) -> None:
    done = model.animate("ada", "builtin", out / "a.mp4", max_frames=3, side_by_side=True)
    assert (done.frames, done.without_face) == (3, 0)
    assert holds == [False] * 3
    assert len(frames_of(out / "a.mp4")) == 3


def test_until_the_first_face_the_portrait_rests(
    model: PersonaLive, tmp_path: Path, out: Path, holds: list[bool]
) -> None:
    driving = drawn(tmp_path / "driver.mp4", "-----fff")
    done = model.animate("ada", driving, out / "a.mp4")
    assert holds == [True] * 5 + [False] * 3
    assert (done.frames, done.without_face) == (8, 5)


def test_a_lost_face_holds_the_motion(
    model: PersonaLive, tmp_path: Path, out: Path, holds: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(SteadyCrop, config=SteadyConfig(every=1, lost_after=2))
    monkeypatch.setattr(job_module, "SteadyCrop", quick)
    driving = drawn(tmp_path / "driver.mp4", "fff----ff")
    done = model.animate("ada", driving, out / "a.mp4")
    assert holds == [False] * 4 + [True] * 3 + [False] * 2
    assert (done.frames, done.without_face) == (9, 3)


def test_nobody_in_the_driver(model: PersonaLive, tmp_path: Path, out: Path) -> None:
    with pytest.raises(FaceNotFoundError, match=r"driver\.mp4: no face"):
        model.animate("ada", drawn(tmp_path / "driver.mp4", "------"), out / "a.mp4")
    assert os.listdir(out) == []


def test_a_face_that_is_not_there(tmp_path: Path, out: Path) -> None:
    driving = drawn(tmp_path / "driver.mp4", "f")
    with pytest.raises(FaceNotFoundError, match="only 1 found"):
        prepare("ada", driving, out / "a.mp4", AnimateOptions(face=1))
    with pytest.raises(FaceNotFoundError, match="2 faces"):
        prepare("ada", driving, out / "a.mp4", AnimateOptions(driver_face=1))
