"""The head's square: geometry, the steady crop's laws with a scripted detector, and the real detector on faces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import personalive
from personalive.errors import FaceNotFoundError, PersonaLiveError
from personalive.media.frames import Pixels, load_picture, resize_to
from personalive.media.video import read_video
from personalive.motion.face_crop import (
    Crop,
    FramingConfig,
    HeadPlace,
    Square,
    SteadyConfig,
    SteadyCrop,
    crop_square,
    find_first_face,
    find_head,
    frame_portrait,
    square_of,
)
from personalive.motion.face_finder import FaceBox, FaceFinder

HEIGHT, WIDTH = 240, 320
BLANK = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
EVERY = SteadyConfig().every
LOST_AFTER = SteadyConfig().lost_after
PORTRAITS = sorted((Path(personalive.__file__).parent / "assets" / "portraits").glob("*.*"))
REAL = Path(__file__).parents[2] / "shared" / "real"


class ScriptedFinder(FaceFinder):
    """Sees what the script says, in a whole frame or near an expected face; counts its searches."""

    def __init__(self, script: Callable[[int], Sequence[FaceBox]]) -> None:
        self.script = script
        self.searches = 0

    def _seen(self) -> list[FaceBox]:
        self.searches += 1
        return sorted(self.script(self.searches - 1), key=lambda face: face.side, reverse=True)

    def find(self, frame: Pixels, *, wanted: int = 1, thorough: bool = False) -> list[FaceBox]:
        return self._seen()

    def find_near(self, frame: Pixels, expected: FaceBox) -> FaceBox | None:
        seen = [face for face in self._seen() if face.overlap(expected) > 0]
        if not seen:
            self.searches -= 1  # SteadyCrop searches the whole frame next: the same moment
        return max(seen, key=expected.overlap, default=None)


def cartoon() -> Pixels:
    """A drawn head, 300x480, its middle at (120, 160)."""
    picture = np.full((300, 480, 3), 235, np.uint8)
    skin, dark = (205, 165, 135), (60, 40, 30)

    def oval(x: int, y: int, wide: int, tall: int, colour: tuple[int, int, int]) -> None:
        cv2.ellipse(picture, (x, y), (wide, tall), 0, 0, 360, colour, -1)

    oval(120, 150, 74, 95, dark)
    oval(120, 160, 62, 82, skin)
    for x in (93, 147):
        oval(x, 145, 20, 12, (165, 120, 95))
        oval(x, 147, 13, 7, (245, 245, 245))
        oval(x, 147, 6, 6, dark)
        cv2.line(picture, (x - 17, 129), (x + 17, 127), dark, 6)
    oval(120, 165, 8, 22, (222, 184, 156))
    oval(120, 184, 12, 5, (150, 105, 85))
    oval(120, 207, 24, 8, (140, 60, 60))
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5), np.uint8)


def track(script: Callable[[int], Sequence[FaceBox]], frames: int, face: int = 0) -> list[Crop]:
    """The crops of `frames` frames; `script` maps the number of a search (every 5th frame) to the faces seen."""
    steady = SteadyCrop(ScriptedFinder(script), face=face)
    return [steady.update(BLANK) for _ in range(frames)]


class TestFaceBox:
    def test_overlap(self) -> None:
        box = FaceBox(50, 50, 20)
        assert box.overlap(box) == 1.0
        assert box.overlap(FaceBox(60, 50, 20)) == pytest.approx(1 / 3)
        assert box.overlap(FaceBox(50, 50, 10)) == pytest.approx(1 / 4)
        assert box.overlap(FaceBox(80, 50, 20)) == 0.0

    @given(*[st.floats(0, 100) for _ in range(4)], st.floats(1, 50), st.floats(1, 50))
    def test_overlap_is_symmetric_and_bounded(
        self, x1: float, y1: float, x2: float, y2: float, a: float, b: float
    ) -> None:
        one, other = FaceBox(x1, y1, a), FaceBox(x2, y2, b)
        assert one.overlap(other) == pytest.approx(other.overlap(one))
        assert 0.0 <= one.overlap(other) <= 1.0 + 1e-9


class TestCropSquare:
    ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
    FRAME: Pixels = np.stack([ROWS, COLUMNS % 256, COLUMNS // 256], axis=-1).astype(np.uint8)

    def test_inside_it_is_the_frame(self) -> None:
        part = crop_square(self.FRAME, Square(100, 120, 64), 64)
        np.testing.assert_array_equal(part, self.FRAME[88:152, 68:132])

    @given(st.floats(-200, 500), st.floats(-200, 500), st.integers(1, 400))
    @settings(max_examples=40, deadline=None)
    def test_beyond_the_frame_the_border_is_repeated(self, x: float, y: float, side: int) -> None:
        part = crop_square(self.FRAME, Square(x, y, side), side)
        assert part.shape == (side, side, 3)
        top, left = round(y - side / 2), round(x - side / 2)
        for row, column in itertools.product((0, side // 2, side - 1), repeat=2):
            nearest = (min(max(top + row, 0), HEIGHT - 1), min(max(left + column, 0), WIDTH - 1))
            assert part[row, column].tolist() == self.FRAME[nearest].tolist()

    def test_never_black_on_a_bright_frame(self) -> None:
        assert crop_square(np.full((40, 60, 3), 200, np.uint8), Square(0, 0, 300), 64).min() == 200

    @pytest.mark.parametrize("size", [16, 64, 512])
    def test_resized(self, size: int) -> None:
        assert crop_square(self.FRAME, Square(160, 120, 100), size).shape == (size, size, 3)


class TestFraming:
    def test_square_around_a_face(self) -> None:
        square = FramingConfig(side=1.5, down=0.1).square(FaceBox(100, 80, 40))
        assert (square.x, square.y, square.side) == (100, 84, 60)

    def test_a_head_that_stands_as_in_training_keeps_its_frame(self) -> None:
        square = FramingConfig().square(FaceBox(0.5 * 128, 0.4925 * 128, 0.693 * 128))
        assert square.x == pytest.approx(64, abs=0.5)
        assert square.y == pytest.approx(64, abs=0.5)
        assert square.side == pytest.approx(128, abs=0.5)

    @given(st.floats(-50, 370), st.floats(-50, 290), st.floats(1, 500), st.floats(0, 0.5))
    def test_moving_inside_is_limited_and_never_worse(self, x: float, y: float, side: float, limit: float) -> None:
        old = Square(x, y, side)
        new = old.moved_inside(HEIGHT, WIDTH, limit)
        assert new.side == side
        assert max(abs(new.x - x), abs(new.y - y)) <= limit * side + 1e-6
        for centre, moved, length in ((x, new.x, WIDTH), (y, new.y, HEIGHT)):
            beyond = [max(0, side / 2 - c) + max(0, c + side / 2 - length) for c in (centre, moved)]
            assert beyond[1] <= beyond[0] + 1e-6

    def test_a_square_inside_stays(self) -> None:
        square = Square(100, 100, 80)
        assert square.moved_inside(HEIGHT, WIDTH, 0.1) == square


class TestSteadyCrop:
    def test_detector_jitter_never_moves_the_crop(self) -> None:
        jitter = np.random.default_rng(0).normal(0, (3.0, 3.0, 4.0), (60, 3))  # pixels, for a face of 100
        crops = track(lambda n: [FaceBox(160 + jitter[n, 0], 120 + jitter[n, 1], 100 + jitter[n, 2])], 300)
        assert all(crop.found for crop in crops)
        assert len({crop.square for crop in crops}) == 1

    def test_head_motion_in_the_zone_stays_in_the_picture(self) -> None:
        crops = track(lambda n: [FaceBox(160 + 18 * (-1) ** n, 120, 100)], 100)
        start = track(lambda n: [FaceBox(160 + 18, 120, 100)], 1)[0].square
        zone = SteadyConfig().zone * start.side
        # 36 pixels to and fro: only what exceeds the zone is followed, so most of the motion is left
        assert all(abs(crop.square.x - start.x) <= max(0.0, 36 - zone) + 1e-9 for crop in crops)

    def test_a_head_that_leaves_the_zone_is_followed_smoothly(self) -> None:
        crops = track(lambda n: [FaceBox(100 if n < 4 else 140, 120, 60)], 300)
        places = [crop.square.x for crop in crops]
        assert places[0] == places[19] == 100
        steps = np.diff(places)
        assert (steps >= 0).all()
        assert steps.max() < 5
        zone = SteadyConfig().zone * crops[0].square.side
        assert places[-1] == pytest.approx(140 - zone, abs=0.5)

    def test_size_follows_only_large_changes(self) -> None:
        near = track(lambda n: [FaceBox(160, 120, 60 if n < 4 else 70)], 100)
        assert len({crop.square.side for crop in near}) == 1
        far = track(lambda n: [FaceBox(160, 120, 60 if n < 4 else 120)], 400)
        wanted = FramingConfig().side * 120 / SteadyConfig().size_zone
        assert far[-1].square.side == pytest.approx(wanted, abs=0.5)

    def test_one_false_detection_does_not_matter(self) -> None:
        # overlaps the face, so that it is taken for it, and is far too low and too large
        crops = track(lambda n: [FaceBox(160, 160, 150) if n == 10 else FaceBox(160, 120, 100)], 200)
        assert len({crop.square for crop in crops}) == 1

    def test_it_depends_on_the_past_only(self) -> None:
        def script(n: int) -> list[FaceBox]:
            return [FaceBox(100 + 9 * n, 120, 80)] if n % 7 else []

        assert track(script, 60) == track(script, 150)[:60]

    def test_searches_every_fifth_frame(self) -> None:
        finder = ScriptedFinder(lambda n: [FaceBox(160, 120, 100)])
        steady = SteadyCrop(finder)
        for _ in range(50):
            steady.update(BLANK)
        assert finder.searches == 50 / EVERY

    def test_a_short_miss_is_not_a_loss(self) -> None:
        crops = track(lambda n: [] if 5 <= n < 5 + LOST_AFTER - 1 else [FaceBox(160, 120, 100)], 120)
        assert all(crop.found for crop in crops)
        assert len({crop.square for crop in crops}) == 1

    def test_a_lost_face_is_reported_and_the_crop_holds(self) -> None:
        crops = track(lambda n: [FaceBox(160, 120, 100)] if n < 4 else [], 100)
        lost_from = (4 + LOST_AFTER - 1) * EVERY
        assert [crop.found for crop in crops] == [index < lost_from for index in range(100)]
        assert len({crop.square for crop in crops}) == 1

    def test_a_face_that_comes_back_elsewhere_is_jumped_to(self) -> None:
        back = 4 + LOST_AFTER + 3
        crops = track(
            lambda n: [FaceBox(80, 120, 60)] if n < 4 else [] if n < back else [FaceBox(250, 120, 60)], 5 * back + 20
        )
        assert not crops[back * EVERY - 1].found
        assert crops[back * EVERY - 1].square.x == 80
        assert crops[back * EVERY].found
        assert crops[back * EVERY].square.x == 250

    def test_a_face_that_comes_back_near_its_place_keeps_the_crop(self) -> None:
        back = 4 + LOST_AFTER + 3
        crops = track(
            lambda n: [FaceBox(80, 120, 60)] if n < 4 else [] if n < back else [FaceBox(84, 118, 62)], 5 * back + 20
        )
        assert crops[-1].found
        assert len({crop.square for crop in crops}) == 1

    def test_before_any_face_the_middle_is_shown(self) -> None:
        steady = SteadyCrop(ScriptedFinder(lambda n: [] if n < 3 else [FaceBox(100, 100, 50)]))
        first = steady.update(BLANK)
        assert first == Crop(Square(WIDTH / 2, HEIGHT / 2, HEIGHT), found=False)
        ever_found = [steady.ever_found]
        crops = [steady.update(BLANK) for _ in range(20)]
        assert crops[-1].found
        assert [*ever_found, steady.ever_found] == [False, True]
        assert crops[-1].square.x == 100

    def test_a_known_start_is_used_from_the_first_frame(self) -> None:
        start = FaceBox(100, 100, 50)
        steady = SteadyCrop(ScriptedFinder(lambda n: []), start=start)
        assert steady.update(BLANK) == Crop(FramingConfig().square(start), found=True, face=start)

    @pytest.mark.parametrize(("face", "x"), [(0, 220), (1, 80), (2, 150)])
    def test_faces_count_from_the_largest(self, face: int, x: int) -> None:
        faces = [FaceBox(80, 120, 60), FaceBox(150, 60, 40), FaceBox(220, 120, 80)]
        crops = track(lambda n: faces, 50, face=face)
        assert all(crop.found and crop.square.x == x for crop in crops)

    def test_a_chosen_face_is_kept_when_sizes_change(self) -> None:
        def script(n: int) -> list[FaceBox]:
            return [FaceBox(80, 120, 70 - n), FaceBox(220, 120, 50 + n)]

        assert all(crop.square.x == 80 for crop in track(script, 150))

    def test_another_face_does_not_take_over_before_the_loss(self) -> None:
        crops = track(lambda n: [FaceBox(80, 120, 60)] * (n < 4) + [FaceBox(220, 120, 50)], 200)
        lost_from = (4 + LOST_AFTER - 1) * EVERY
        assert all(crop.square.x == 80 for crop in crops[:lost_from])
        assert crops[-1].square.x == 220

    def test_a_missing_second_face_is_not_found(self) -> None:
        assert not any(crop.found for crop in track(lambda n: [FaceBox(80, 120, 60)], 30, face=1))

    def test_cut_has_the_wanted_size(self) -> None:
        crop = track(lambda n: [FaceBox(10, 10, 60)], 1)[0]
        assert crop.cut(BLANK, 128).shape == (128, 128, 3)
        assert (crop.cut(BLANK, 128) == 128).all()


class TestFindFirstFace:
    def test_first_of_every_fifth_frame(self) -> None:
        finder = ScriptedFinder(lambda n: [FaceBox(80, 120, 60)] if n >= 3 else [])
        assert find_first_face([BLANK] * 40, finder) == (15, FaceBox(80, 120, 60))

    def test_nobody(self) -> None:
        with pytest.raises(FaceNotFoundError, match=r"a\.mp4: no face was found") as caught:
            find_first_face([BLANK] * 12, ScriptedFinder(lambda n: []), name="a.mp4")
        assert isinstance(caught.value, PersonaLiveError)
        assert "\n" not in str(caught.value)

    def test_too_few(self) -> None:
        with pytest.raises(FaceNotFoundError, match="no frame with 2 faces"):
            find_first_face([BLANK] * 12, ScriptedFinder(lambda n: [FaceBox(80, 120, 60)]), face=1)


class TestFindHead:
    def test_it_moves_onto_the_picture(self) -> None:
        square = find_head(BLANK, ScriptedFinder(lambda n: [FaceBox(160, 55, 80)])).square
        ideal = FramingConfig().square(FaceBox(160, 55, 80))
        assert ideal.y < square.y == square.side / 2

    def test_faces_count_from_the_largest(self) -> None:
        finder = ScriptedFinder(lambda n: [FaceBox(80, 120, 60), FaceBox(220, 120, 80)])
        assert find_head(BLANK, finder, face=1).square.x == 80
        with pytest.raises(FaceNotFoundError, match="only 2 found where face 2"):
            find_head(BLANK, finder, face=2)

    @pytest.mark.parametrize("kind", ["flat", "noise", "stripes"])
    def test_a_picture_of_nobody(self, kind: str) -> None:
        picture = {
            "flat": BLANK,
            "noise": np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8),
            "stripes": np.tile(np.arange(240, dtype=np.uint8)[:, None, None], (1, 240, 3)) // 16 % 2 * 255,
        }[kind]
        with pytest.raises(FaceNotFoundError, match=r"^no human face that can be read in me\.png: use [^-]+$"):
            find_head(picture, FaceFinder(), name="me.png")
        with pytest.raises(FaceNotFoundError, match=r"or --force to try this one$"):
            find_head(picture, FaceFinder(), name="me.png", force=False)
        place = find_head(picture, FaceFinder(), force=True)
        height, width = picture.shape[:2]
        assert place == HeadPlace(Square(width / 2, height / 2, min(height, width)), found=False)

    def test_a_drawn_face_is_a_face(self) -> None:
        place = find_head(cartoon(), FaceFinder())
        assert abs(place.square.x - 120) < 15
        assert abs(place.square.y - 160) < 15

    def test_what_hardly_is_one_is_tried_where_it_looks_most_like_one(self) -> None:
        """A drawing on its side is no face that is found; the guess lies on it, beside the picture's middle."""
        turn = cv2.getRotationMatrix2D((120.0, 160.0), 45, 1.0)
        lying = np.asarray(cv2.warpAffine(cartoon(), turn, (480, 300), borderValue=(235, 235, 235)), np.uint8)
        with pytest.raises(FaceNotFoundError):
            find_head(lying, FaceFinder())
        place = find_head(lying, FaceFinder(), force=True)
        assert not place.found
        assert abs(place.square.x - 120) < 40
        assert FaceFinder().likeliest(BLANK) is None

    def test_a_face_needs_no_force(self) -> None:
        finder = ScriptedFinder(lambda n: [FaceBox(160, 120, 80)])
        assert find_head(BLANK, finder, force=True) == find_head(BLANK, finder)
        assert find_head(BLANK, finder).found


@pytest.fixture(scope="module")
def portraits() -> list[Pixels]:
    pictures = [load_picture(path) for path in PORTRAITS if path.suffix in (".png", ".jpg", ".webp")]
    if not pictures:
        pytest.skip("the built-in portraits are not there")
    return pictures


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


class TestFaceFinder:
    def place(self, portrait: Pixels, x: int, y: int, side: int, size: tuple[int, int] = (480, 640)) -> Pixels:
        frame = np.full((*size, 3), 110, np.uint8)
        frame[y : y + side, x : x + side] = resize_to(portrait, side, side)
        return frame

    def test_built_in_portraits_have_one_face_each(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        for portrait in portraits:
            assert len(finder.find(portrait)) == 1

    def test_built_in_portraits_stand_as_the_framing_says(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        squares = [find_head(portrait, finder).square for portrait in portraits]
        sides = [portrait.shape[0] for portrait in portraits]
        assert np.mean([s.side / side for s, side in zip(squares, sides, strict=True)]) == pytest.approx(1, abs=0.1)
        assert np.mean([s.x / side for s, side in zip(squares, sides, strict=True)]) == pytest.approx(0.5, abs=0.07)
        assert np.mean([s.y / side for s, side in zip(squares, sides, strict=True)]) == pytest.approx(0.5, abs=0.07)

    @pytest.mark.parametrize(("x", "y", "side"), [(0, 0, 240), (350, 100, 260), (160, 0, 480)])
    def test_place_and_size(self, portraits: list[Pixels], finder: FaceFinder, x: int, y: int, side: int) -> None:
        whole = finder.find(portraits[0])[0]
        scale = side / portraits[0].shape[0]
        faces = finder.find(self.place(portraits[0], x, y, side))
        assert len(faces) == 1
        assert faces[0].x == pytest.approx(x + whole.x * scale, abs=0.06 * side)
        assert faces[0].y == pytest.approx(y + whole.y * scale, abs=0.06 * side)
        assert faces[0].side == pytest.approx(whole.side * scale, rel=0.15)

    def test_small_faces_need_the_thorough_search(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        frame = self.place(portraits[0], 400, 200, 90, (960, 1280))
        assert finder.find(frame) == []
        faces = finder.find(frame, thorough=True)
        assert len(faces) == 1
        assert faces[0].x == pytest.approx(445, abs=10)

    def test_largest_first_and_small_ones_when_wanted(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        frame = self.place(portraits[0], 20, 100, 180)
        frame[60:420, 260:620] = resize_to(portraits[-1], 360, 360)
        faces = finder.find(frame, wanted=2, thorough=True)
        assert len(faces) == 2
        assert faces[0].side > faces[1].side
        assert faces[0].x > 260 > faces[1].x

    def test_near_search_finds_the_same_face(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        frame = self.place(portraits[0], 200, 120, 260)
        face = finder.find(frame)[0]
        near = finder.find_near(frame, FaceBox(face.x + 15, face.y - 15, face.side * 1.1))
        assert near is not None
        assert near.overlap(face) > 0.7

    def test_near_search_looks_nowhere_else(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        frame = self.place(portraits[0], 0, 0, 200)
        assert finder.find_near(frame, FaceBox(500, 350, 120)) is None
        assert finder.find_near(frame, FaceBox(5000, 350, 120)) is None

    @pytest.mark.parametrize("degrees", [-20, 20])
    def test_tilted_faces(self, portraits: list[Pixels], finder: FaceFinder, degrees: int) -> None:
        from PIL import Image

        frame = self.place(portraits[0], 170, 90, 300)
        turned = np.array(Image.fromarray(frame).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(110,) * 3))
        faces = finder.find(turned, thorough=True)
        assert len(faces) == 1
        assert faces[0].x == pytest.approx(320, abs=25)
        assert faces[0].y == pytest.approx(240, abs=25)

    def test_a_mirrored_frame_gives_the_mirrored_face(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        frame = self.place(portraits[0], 300, 100, 300)
        face, mirrored = finder.find(frame)[0], finder.find(np.ascontiguousarray(frame[:, ::-1]))[0]
        assert mirrored.x == pytest.approx(640 - face.x, abs=10)

    def test_steady_on_a_moving_portrait(self, portraits: list[Pixels], finder: FaceFinder) -> None:
        steady = SteadyCrop(finder)
        crops = [steady.update(self.place(portraits[0], 170 + 2 * (i % 5), 90 + i % 3, 300)) for i in range(30)]
        assert all(crop.found for crop in crops)
        assert len({crop.square for crop in crops}) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="the recorded pictures and videos are not at ../shared/real")
class TestRealFaces:
    @pytest.mark.parametrize("name", ["portrait_a.png", "portrait_b.jpg", "portrait_g.jpg"])
    def test_portraits(self, finder: FaceFinder, name: str) -> None:
        picture = load_picture(REAL / name)
        square = find_head(picture, finder, name=name).square
        height, width = picture.shape[:2]
        assert square.side / 2 <= square.x <= width - square.side / 2
        assert square.side / 2 <= square.y <= height - square.side / 2

    @pytest.mark.parametrize("name", ["driving_a.mp4", "driving_b.mp4"])
    def test_drivers_are_never_lost(self, finder: FaceFinder, name: str) -> None:
        steady = SteadyCrop(finder)
        with read_video(REAL / name, 75) as video:
            crops = [steady.update(frame.pixels) for frame in video]
        assert all(crop.found for crop in crops)
        steps = [abs(b.square.x - a.square.x) for a, b in itertools.pairwise(crops)]
        assert max(steps) < 2


def test_a_framed_portrait_knows_what_lies_around() -> None:
    """The square is what the networks see; the wider one is what comes into view, as far as the picture goes."""
    picture = np.random.default_rng(0).integers(0, 256, (200, 160, 3), dtype=np.uint8)
    framed = frame_portrait(picture, Square(80.0, 90.0, 80.0), 80)
    assert np.array_equal(square_of(framed), crop_square(picture, Square(80.0, 90.0, 80.0), 80))
    assert framed.around.shape == (120, 120, 3)
    assert np.array_equal(framed.around[20:100, 20:100], framed.pixels)
    assert framed.reach == (1.5, 1.5, 1.5, 1.5)
    corner = frame_portrait(picture, Square(40.0, 45.0, 80.0), 80)
    assert corner.reach == pytest.approx((1.0, 1.125, 1.5, 1.5))
    assert np.array_equal(square_of(framed.pixels), framed.pixels)
