"""The evaluation's own tracker: what it is fitted to it reads, and what it must not see it does not."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.errors import WeightsError
from personalive.evaluation.yardstick import (
    IDENTITY_SIZE,
    SIGNALS,
    Yardstick,
    describe,
    face_boxes,
    fit,
    identity_distance,
    unit,
)
from personalive.gallery import find_portrait, portraits
from personalive.media.frames import Pixels, load_picture
from personalive.motion.face_finder import FaceBox


def portrait(name: str = "clara") -> Pixels:
    return load_picture(find_portrait(name))


def moved(pixels: Pixels, right: float, down: float) -> Pixels:
    height, width = pixels.shape[:2]
    shift = np.array([[1.0, 0, right], [0, 1, down]])
    return np.asarray(cv2.warpAffine(pixels, shift, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def landmarks(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (1, 68, 2))


class TestTruth:
    @given(st.floats(0.2, 5), st.floats(-1, 1), st.floats(-math.pi, math.pi))
    def test_place_size_and_roll_do_not_count(self, scale: float, offset: float, turn: float) -> None:
        about = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        np.testing.assert_allclose(
            truth_signals(landmarks() @ about * scale + offset), truth_signals(landmarks()), atol=1e-9
        )

    @pytest.mark.parametrize(
        ("points", "shift", "signal"),
        [
            ([66], (0, 0.2), "mouth"),
            ([48, 54], (-0.2, 0), "smile"),
            ([37, 38, 43, 44], (0, 0.02), "blink"),
            ([19, 24], (0, -0.2), "brow"),
        ],
    )
    def test_each_signal_is_moved_by_its_own_landmarks(
        self, points: list[int], shift: tuple[float, float], signal: str
    ) -> None:
        before, after = landmarks(), landmarks()
        after[:, points] += shift
        changed = np.abs(truth_signals(after) - truth_signals(before))[0] > 1e-9
        if signal == "smile":
            after[:, 54] -= np.array(shift) * 2  # the corners apart, not both aside
            changed = np.abs(truth_signals(after) - truth_signals(before))[0] > 1e-9
        assert [name for name, moves in zip(EXPRESSION, changed, strict=True) if moves] == [signal]


class TestBoxes:
    def test_the_box_follows_the_face_and_ignores_one_bad_frame(self) -> None:
        still = np.stack([portrait()] * 12)
        boxes, there = face_boxes(still), face_boxes(np.stack([moved(portrait(), 20, 10)] * 12))
        assert boxes is not None
        assert there is not None
        assert (there[0].x - boxes[0].x, there[0].y - boxes[0].y) == pytest.approx((20, 10), abs=6)
        still[5] = 0  # nobody there
        assert face_boxes(still) == boxes

    def test_a_held_head_has_one_box(self) -> None:
        boxes = face_boxes(np.stack([moved(portrait(), i % 3, 0) for i in range(9)]), held=True)
        assert boxes is not None
        assert len(set(boxes)) == 1

    def test_nobody(self) -> None:
        assert face_boxes(np.full((3, 64, 64, 3), 127, np.uint8)) is None
        assert Yardstick.load().read(np.full((3, 64, 64, 3), 127, np.uint8)) is None

    def test_the_description_moves_with_the_box(self) -> None:
        box = FaceBox(64.0, 64.0, 70.0)
        shape, face = describe(portrait()[None], [box])
        there, _ = describe(moved(portrait(), 5, 0)[None], [FaceBox(69.0, 64.0, 70.0)])
        elsewhere, _ = describe(portrait()[None], [FaceBox(80.0, 64.0, 70.0)])
        assert np.abs(there - shape).mean() < 0.3 * np.abs(elsewhere - shape).mean()
        assert face.shape[1] == shape.shape[1] + 3 * 12 * 12


class TestFit:
    def test_linear_truth_and_separate_people_are_recovered(self) -> None:
        rng = np.random.default_rng(0)
        people = np.repeat(np.arange(60), 20)
        shapes = rng.normal(size=(1200, 30))
        signals = shapes @ rng.normal(size=(30, len(SIGNALS))) + 5
        centres = rng.normal(size=(60, 80))
        faces = centres[people] + rng.normal(size=(1200, 80)) * np.linspace(0.1, 6, 80)
        yardstick = fit(shapes, faces, signals, people, ridge=1e-6)
        np.testing.assert_allclose(yardstick.signals(shapes), signals, atol=1e-3)
        who = yardstick.identities(faces)
        assert who.shape == (1200, IDENTITY_SIZE)
        gaps = identity_distance(who[:, None], unit((centres - yardstick.identity_mean) @ yardstick.identity_map)[None])
        plain = identity_distance(unit(faces)[:, None], unit(centres)[None])
        assert (gaps.argmin(1) == people).mean() > 0.9 > (plain.argmin(1) == people).mean()

    def test_saved_and_read_again(self, tmp_path: Path) -> None:
        own = Yardstick.load()
        own.save(tmp_path / "a.safetensors")
        np.testing.assert_array_equal(Yardstick.load(tmp_path / "a.safetensors").identity_map, own.identity_map)
        (tmp_path / "b.safetensors").write_bytes(b"no")
        with pytest.raises(WeightsError, match="not a yardstick"):
            Yardstick.load(tmp_path / "b.safetensors")


def test_a_blurred_and_moved_portrait_is_still_its_own_person() -> None:
    """The packaged fit, on the eight built-in people, none of whom it was fitted to."""
    yardstick, names = Yardstick.load(), sorted(portraits())
    known = [yardstick.read(portrait(name)[None]) for name in names]
    changed = [
        yardstick.read(np.asarray(cv2.GaussianBlur(moved(portrait(name), 4, -3), (0, 0), 1.2), np.uint8)[None])
        for name in names
    ]
    assert all(known)
    assert all(changed)
    first, second = (np.concatenate([reading.identity for reading in side if reading]) for side in (known, changed))
    gaps = identity_distance(second[:, None], first[None])
    assert gaps.argmin(1).tolist() == list(range(len(names)))
    assert gaps.diagonal().max() < 0.5
