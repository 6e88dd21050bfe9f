"""The face mesh: angles and signals of made-up points, and the process that it runs in."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation.measures import BETTER, NEEDED
from personalive.evaluation.mesh import (
    HERE,
    MESH_SIGNALS,
    STILL,
    FaceMesh,
    Tracked,
    eye_opening,
    mesh_figures,
    mesh_signals,
)
from personalive.evaluation.mesh_worker import POINTS
from personalive.evaluation.meters import Block, MeshMeter
from personalive.evaluation.networks import NetworkFiles
from personalive.evaluation.yardstick import Array
from personalive.media.frames import Pixels

# A face in its own axes (x to the right of the picture, y down, z into it): the points that signals are read from.
FACE = {
    33: (-45, 0, 0), 133: (-15, 0, 0), 362: (15, 0, 0), 263: (45, 0, 0), 127: (-70, 0, 30), 356: (70, 0, 30),
    234: (-68, 20, 40), 454: (68, 20, 40), 10: (0, -80, 0), 2: (0, 50, 0), 67: (-30, -75, 5), 98: (-30, 52, 5),
    297: (30, -75, 5), 327: (30, 52, 5), 168: (0, 0, -8), 13: (0, 70, -5), 14: (0, 80, -5), 61: (-25, 75, 0),
    291: (25, 75, 0), 105: (-32, -20, -2), 334: (32, -20, -2), 468: (-30, 0, 0), 473: (30, 0, 0),
    159: (-30, -5, 0), 145: (-30, 5, 0), 158: (-24, -4, 0), 153: (-24, 4, 0), 160: (-36, -4, 0), 144: (-36, 4, 0),
    386: (30, -5, 0), 374: (30, 5, 0), 385: (24, -4, 0), 380: (24, 4, 0), 387: (36, -4, 0), 373: (36, 4, 0),
}  # fmt: skip


def face(**moved: tuple[float, float, float]) -> Array:
    """Points (1, POINTS, 3); p13=(0, -10, 0) moves a point."""
    points = np.zeros((POINTS, 3))
    for number, place in FACE.items():
        points[number] = place
    for name, by in moved.items():
        points[int(name[1:])] += by
    return points[None]


def turned(points: Array, pitch: float, yaw: float, roll: float) -> Array:
    """By angles in degrees about x, then y, then z, larger and elsewhere."""
    a, b, c = np.radians([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(points @ (about_z @ about_y @ about_x).T * 1.7 + (300, 200, 5))


def signal(points: Array, name: str) -> float:
    return float(mesh_signals(points)[0, MESH_SIGNALS.index(name)])


class TestSignals:
    @pytest.mark.parametrize("angles", [(0, 0, 0), (20, 0, 0), (0, -35, 0), (0, 0, 15), (12, 25, -8)])
    def test_angles_are_read_and_do_not_move_the_face(self, angles: tuple[float, float, float]) -> None:
        points = turned(face(), *angles)
        assert [signal(points, name) for name in ("pitch", "yaw", "roll")] == pytest.approx(angles, abs=1e-6)
        still = mesh_signals(face())[0]
        assert mesh_signals(points)[0, 3:7] == pytest.approx(still[3:7])
        assert eye_opening(points) == pytest.approx(eye_opening(face()))

    def test_each_signal_is_of_what_it_is_called(self) -> None:
        calm = face()
        size = 90 + math.hypot(50, 8)
        assert signal(calm, "mouth") == pytest.approx(10 / size)
        assert signal(face(p14=(0, 20, 0)), "mouth") == pytest.approx(30 / size)
        assert signal(calm, "blink") == pytest.approx(-26 / 3 / size)
        closed = face(**{f"p{lid}": (0, 8, 0) for lid in (159, 158, 160, 386, 385, 387)})
        assert signal(closed, "blink") > signal(calm, "blink")
        assert signal(face(p61=(-9, 0, 0)), "smile") == pytest.approx(59 / size)
        assert signal(face(p105=(0, -5, 0), p334=(0, -5, 0)), "brow") > signal(calm, "brow")
        assert signal(calm, "gaze sideways") == signal(calm, "gaze up") == 0
        assert signal(face(p468=(6, 0, 0), p473=(6, 0, 0)), "gaze sideways") == pytest.approx(0.2)
        assert signal(face(p468=(0, -3, 0), p473=(0, -3, 0)), "gaze up") == pytest.approx(0.1)
        assert signal(turned(face(p468=(6, 0, 0), p473=(6, 0, 0)), 0, 0, 20), "gaze sideways") == pytest.approx(0.2)

    def test_nobody_is_not_a_number(self) -> None:
        assert np.isnan(mesh_signals(np.full((2, POINTS, 3), np.nan))).all()


def tracked(signals: Array, opening: float | Array = 0.3) -> Tracked:
    return Tracked(signals, np.broadcast_to(np.asarray(opening, np.float64), len(signals)).copy())


class TestFigures:
    @pytest.fixture
    def moving(self) -> Array:
        return np.random.default_rng(0).normal(0, 10, (60, len(MESH_SIGNALS)))

    def test_who_does_the_same_follows(self, moving: Array) -> None:
        figures = mesh_figures(tracked(moving), tracked(2 * moving + 1))
        assert set(figures) <= set(BETTER)
        assert set(figures) & set(NEEDED)
        assert all(value == pytest.approx(1) for value in figures.values())
        against = mesh_figures(tracked(moving), tracked(-moving))
        assert against["follows gaze sideways, mesh"] == pytest.approx(-1)
        other = np.random.default_rng(1).normal(0, 1, moving.shape)
        assert abs(mesh_figures(tracked(moving), tracked(other))["follows mouth, mesh"]) < 0.4

    def test_what_the_driver_hardly_moves_is_not_measured(self, moving: Array) -> None:
        least = np.array([STILL[name] for name in MESH_SIGNALS])
        quiet = moving / moving.std(0) * least * 0.9
        figures = mesh_figures(tracked(quiet), tracked(moving))
        assert all(math.isnan(figures[f"follows {name}, mesh"]) for name in MESH_SIGNALS)
        loud = mesh_figures(tracked(quiet / 0.9 * 1.1), tracked(moving))
        assert not any(math.isnan(value) for value in loud.values())

    def test_lost_faces_are_told_and_do_not_count(self, moving: Array) -> None:
        output, driver = tracked(moving.copy()), tracked(moving)
        output.signals[::3] = output.opening[::3] = np.nan
        figures = mesh_figures(driver, output)
        assert figures["face found, mesh"] == pytest.approx(40 / 60)
        assert figures["follows yaw, mesh"] == pytest.approx(1)
        nobody = tracked(np.full_like(moving, np.nan), np.nan)
        gone = mesh_figures(driver, nobody)
        assert gone["face found, mesh"] == 0
        assert math.isnan(gone["follows yaw, mesh"])
        assert math.isnan(mesh_figures(nobody, nobody)["face found, mesh"])

    def test_gaze_counts_where_eyes_are_open(self, moving: Array) -> None:
        opening = np.full(60, 0.3)
        opening[10:20] = 0.1
        wild = moving.copy()
        wild[10:20] = -40 * moving[10:20]
        figures = mesh_figures(tracked(moving), tracked(wild, opening))
        assert figures["follows gaze up, mesh"] == pytest.approx(1)
        assert figures["follows mouth, mesh"] < 0.5


MEDIAPIPE = """
import numpy as np
class Point:
    def __init__(self, x, y, z): self.x, self.y, self.z = x, y, z
class Found:
    def __init__(self, face): self.multi_face_landmarks = [face] if face else None
class Face:
    def __init__(self, level): self.landmark = [Point(level / 255, number / 478, 0.5) for number in range(478)]
class FaceMesh:
    def __init__(self, static_image_mode, refine_landmarks, max_num_faces):
        assert static_image_mode and refine_landmarks
        print("chatter of the library")
    def process(self, picture):
        if picture[0, 0, 0] == 66: raise RuntimeError("the tracker fell over")
        return Found(Face(picture[0, 0, 0]) if picture.any() else None)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something called mediapipe, whatever is installed: x tells the first pixel, a black picture shows nobody."""
    place = tmp_path / "mediapipe" / "python" / "solutions"
    place.mkdir(parents=True)
    for folder in (place, place.parent, place.parent.parent):
        (folder / "__init__.py").touch()
    (place / "face_mesh.py").write_text(MEDIAPIPE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return place / "face_mesh.py"


def grey(level: int, height: int = 40, width: int = 60) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


class TestProcess:
    def test_points_come_in_pixels_and_in_step(self, library: Path) -> None:
        mesh = FaceMesh(HERE)
        for level, height, width in ((51, 40, 60), (102, 32, 32), (0, 40, 60), (204, 64, 48)):
            points = mesh.points(grey(level, height, width))
            if level == 0:
                assert np.isnan(points).all()
            else:
                assert points[1] == pytest.approx((level / 255 * width, height / 478, width / 2), rel=1e-5)
        mesh.close()

    def test_what_fails_is_said_in_one_line(self, library: Path, tmp_path: Path) -> None:
        mesh = FaceMesh(sys.executable)
        with pytest.raises(WeightsError, match=r"the face mesh of .* ended: RuntimeError: the tracker fell over"):
            mesh.points(grey(66))
        library.write_text("raise ImportError('no such thing')")
        with pytest.raises(ConfigError, match="ImportError: no such thing; make an environment"):
            FaceMesh(HERE)
        with pytest.raises(ConfigError, match="is no Python that can be run"):
            FaceMesh(str(tmp_path / "no-python"))

    def test_the_meter_takes_the_driver_at_its_own_size(self, library: Path) -> None:
        meter, mesh = MeshMeter(FaceMesh(HERE)), NetworkFiles(mesh="here")
        assert mesh.key() != NetworkFiles().key()
        small, large = np.stack([grey(9, 32, 32)] * 5), np.stack([grey(9, 64, 64)] * 5)
        small[2] = 0
        meter.add(Block(small, small, None, large))
        assert meter.figures()["face found, mesh"] == 0.8
        assert len(meter.course()["yaw by the mesh, output"]) == 5
