"""Evaluations with made-up systems whose figures are known: perfect, still, late, fading, of the wrong person."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from people import made_up
from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.data.shards import PersonRecord
from personalive.errors import InputError
from personalive.evaluation.animator import streamed
from personalive.evaluation.crossing import cross
from personalive.evaluation.expression import expression_alone
from personalive.evaluation.long_stream import BLOCK, long_stream, turn_length
from personalive.evaluation.mesh_worker import POINTS
from personalive.evaluation.steps import compare_steps, paint
from personalive.evaluation.yardstick import Array, Reading, unit
from personalive.media.frames import Pixels
from personalive.motion import signals
from personalive.pipeline import PersonaLive
from toy import picture, pictures, reference, toy_networks


class RowReader:
    """Reads signals from the brightness of the first rows, identity from the mean colour; black is nobody."""

    def read(self, frames: Pixels, held: bool = False) -> Reading | None:
        if not frames.any():
            return None
        rows = frames[:, :7].mean((2, 3))
        return Reading(rows, unit(frames.mean((1, 2)) - 128))


class RowMesh:
    """A mesh whose mouth, lids, corners of the mouth and brows are as far apart as the first rows are bright."""

    def points(self, frame: Pixels) -> Array:
        if not frame.any():
            return np.full((POINTS, 3), np.nan)
        mouth, blink, smile, brow = frame[:4].mean((1, 2)) / 1000
        points = np.zeros((POINTS, 3))
        points[33], points[263], points[168], points[2] = (-1, 0, 0), (1, 0, 0), (0, 0, 0), (0, 1, 0)  # the face's size
        points[133], points[362] = (-0.4, 0, 0), (0.4, 0, 0)
        points[14, 1] = 1.5 + mouth
        points[13, 1] = 1.5
        points[61, 0], points[291, 0] = -0.3 - smile, 0.3
        points[[145, 153, 144, 374, 380, 373], 1] = 0.5 - blink
        points[105], points[334] = (-0.7, -0.3 - brow, 0), (0.7, -0.3 - brow, 0)
        return points


def perfect(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from driving


def still(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from (portrait for _ in driving)


def late(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    before = portrait
    for frame in driving:
        yield before
        before = frame


def nobody(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
    yield from (frame * 0 for frame in driving)


def acting(frames: int = 40) -> PersonRecord:
    """A person whose first picture rows are as bright as the true expression signals are strong."""
    person = made_up("actor", frames)
    assert person.truth is not None
    wave = np.sin(np.arange(frames)[:, None, None] / 4 + np.arange(68)[:, None]) * 0.1
    points = (np.random.default_rng(0).uniform(-0.5, 0.5, (1, 68, 2)) + wave).astype(np.float32)
    truth = truth_signals(points)
    low, high = truth.min(0), truth.max(0)
    images = person.images.copy()
    images[:, :4] = ((truth - low) / (high - low) * 200 + 20).astype(np.uint8)[:, :, None, None]
    return dataclasses.replace(person, images=images, truth=dataclasses.replace(person.truth, landmarks=points))


class TestExpression:
    def test_a_perfect_output_is_as_good_as_the_tracker(self) -> None:
        figures = expression_alone(perfect, acting(), RowReader())
        assert figures.output == figures.seen
        assert list(figures.output) == list(EXPRESSION)
        assert min(figures.output.values()) > 0.999
        assert figures.frames == 39

    def test_a_late_output_is_worse_and_a_still_one_unknown(self) -> None:
        figures = expression_alone(late, acting(), RowReader())
        assert all(figures.output[name] < figures.seen[name] - 0.01 for name in EXPRESSION)
        assert all(math.isnan(value) for value in expression_alone(still, acting(), RowReader()).output.values())
        assert all(math.isnan(value) for value in expression_alone(nobody, acting(), RowReader()).output.values())

    def test_what_the_driver_hardly_does_is_not_measured(self) -> None:
        person = acting()
        assert person.truth is not None
        points = person.truth.landmarks.copy()
        points[:, (37, 38, 40, 41, 43, 44, 46, 47)] = 0  # lids that rest on each other
        quiet = dataclasses.replace(person, truth=dataclasses.replace(person.truth, landmarks=points))
        figures = expression_alone(perfect, quiet, RowReader())
        assert math.isnan(figures.output["blink"])
        assert math.isnan(figures.seen["blink"])
        assert figures.output["mouth"] > 0.999

    def test_a_face_mesh_reads_the_same_videos(self) -> None:
        figures = expression_alone(perfect, acting(), RowReader())
        assert figures.output_mesh == figures.seen_mesh == {}
        figures = expression_alone(late, acting(), RowReader(), RowMesh())
        assert list(figures.seen_mesh) == list(EXPRESSION)
        assert min(figures.seen_mesh.values()) > 0.999
        assert all(0 < figures.output_mesh[name] < figures.seen_mesh[name] - 0.01 for name in EXPRESSION)
        lost = expression_alone(nobody, acting(), RowReader(), RowMesh())
        assert all(math.isnan(value) for value in lost.output_mesh.values())

    def test_needs_the_truth(self) -> None:
        with pytest.raises(InputError, match="no ground truth"):
            expression_alone(perfect, made_up("real", truth=False), RowReader())


def coloured(colour: tuple[int, int, int], frames: int = 1) -> Pixels:
    return np.tile(np.array(colour, np.uint8), (frames, 16, 16, 1))


class TestCrossing:
    red, blue = coloured((220, 40, 40)), coloured((40, 40, 220), 8)

    def test_the_portrait_the_driver_and_a_swap_half_way(self) -> None:
        def swapped(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
            for number, frame in enumerate(driving):
                yield portrait if number < 2 else frame

        ends = ("a", self.red[0]), ("b", self.blue)
        kept = cross(still, *ends, RowReader(), true=coloured((200, 50, 45), 4))
        assert (kept.portrait, kept.driver, kept.nearer, kept.seen) == ("a", "b", 1.0, 1.0)
        assert kept.to_portrait == pytest.approx(0, abs=1e-12)
        assert kept.to_driver > 0.5
        assert cross(perfect, *ends, RowReader()).nearer == 0.0
        assert cross(swapped, *ends, RowReader()).nearer == 0.25
        assert math.isnan(cross(perfect, *ends, RowReader()).seen)

    def test_nobody_is_not_measured(self) -> None:
        figures = cross(nobody, ("a", self.red[0]), ("b", self.blue), RowReader())
        assert math.isnan(figures.nearer)


class TestLongStream:
    driving = np.stack([np.kron(np.eye(4), np.full((8, 8), 10 * (i % 6)))[..., None] + [90, 60, 30] for i in range(9)])

    def frames(self) -> Pixels:
        return self.driving.astype(np.uint8)

    def test_both_windows_see_the_same_driving_frames(self) -> None:
        for available, frames in ((64, 2000), (200, 2000), (9, 400), (77, 3000)):
            turn = turn_length(available, frames)
            assert turn <= available
            assert (frames - 2 * BLOCK) % (2 * turn) == 0
        assert turn_length(200, 2000) == 180
        for available, frames in ((1, 400), (50, 200), (50, 450)):
            with pytest.raises(InputError, match="multiple of 100"):
                turn_length(available, frames)

    def test_a_steady_system_has_no_drift(self) -> None:
        figures = long_stream(perfect, "a", self.frames()[0], self.frames(), RowReader(), frames=400)
        assert (figures.identity_drift, figures.sharpness_loss) == pytest.approx((0, 0), abs=1e-9)
        assert (figures.temporal.error, figures.temporal.change_ratio) == (0, 1)
        assert len(figures.identity) == len(figures.sharpness) == 4

    def test_fading_shows_as_drift_and_lost_sharpness(self) -> None:
        def fading(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
            for number, frame in enumerate(driving):
                share = number / 400
                yield (frame * (1 - share) + np.array([0, 0, 120]) * share).astype(np.uint8)

        figures = long_stream(fading, "a", self.frames()[0], self.frames(), RowReader(), frames=400)
        assert figures.identity_drift > 0.3
        assert 0.3 < figures.sharpness_loss < 1
        assert list(figures.identity) == sorted(figures.identity)

    def test_a_still_system_has_lost_nothing_but_its_motion(self) -> None:
        figures = long_stream(still, "a", self.frames()[0], self.frames(), RowReader(), frames=300)
        assert (figures.identity_drift, figures.sharpness_loss) == pytest.approx((0, 0), abs=1e-9)
        assert figures.temporal.change_ratio == 0
        gone = long_stream(nobody, "a", self.frames()[0], self.frames(), RowReader(), frames=300)
        assert math.isnan(gone.identity_drift)


class TestTheProduct:
    def test_streamed_gives_a_frame_for_each(self) -> None:
        model = PersonaLive(toy_networks())
        frames = pictures(7)
        stream = model.start(picture(1), seed=3)
        wanted = np.concatenate([stream.push(frames), stream.flush()])
        np.testing.assert_array_equal(np.stack(list(streamed(model, 3)(picture(1), iter(frames)))), wanted)

    def test_steps_from_noise(self) -> None:
        networks = toy_networks()
        features, own = reference(networks)
        driving = signals.drive(networks, own, own, own.still(3))
        noise = torch.randn(1, 3, *features.latents.shape[1:], generator=torch.Generator().manual_seed(0))
        painted = [paint(networks, features, driving, steps, noise) for steps in (1, 2, 4)]
        assert all(p.shape == (3, 3, 32, 32) for p in painted)
        assert (painted[0] - painted[1]).abs().max() > 1e-4
        torch.testing.assert_close(paint(networks, features, driving, 1, noise), painted[0])
        for wrong in (0, 5):
            with pytest.raises(ValueError, match="not in"):
                paint(networks, features, driving, wrong, noise)

    def test_every_number_of_steps_is_compared_on_the_same_frames(self) -> None:
        model = PersonaLive(toy_networks())
        figures = compare_steps(model, pictures(13), every=4)
        assert list(figures) == [1, 2, 3, 4]
        assert all(0 < f["L1"] < 1 and f["SSIM"] < 1 for f in figures.values())
        assert figures == compare_steps(model, pictures(13), every=4)
