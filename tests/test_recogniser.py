"""Face recognisers: files of every layout, packages, and where the face is brought to before they see it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation.face_points import EYES, detected_points, mesh_points
from personalive.evaluation.mesh_worker import POINTS
from personalive.evaluation.meters import Block, IdentityMeter
from personalive.evaluation.networks import NetworkFiles, open_network
from personalive.evaluation.recogniser import (
    ARCFACE_POINTS,
    ARCFACE_SIDE,
    EmbeddingNetwork,
    FaceInput,
    face_input,
    open_recogniser,
    similarity,
)
from personalive.gallery import find_portrait
from personalive.media.frames import Pixels, load_picture
from toy_networks import MeanColour, embedding_file, onnx_file, scripted


@pytest.fixture(scope="module")
def face() -> Pixels:
    """A built-in portrait, in which the detector finds a face."""
    return load_picture(find_portrait("ada"))


def flat(level: int, frames: int = 4) -> Pixels:
    return np.full((frames, 64, 64, 3), level, np.uint8)


class TestAlignment:
    def test_faces_come_aligned(self) -> None:
        """Whatever the face's place, size and tilt, the network sees its points where it was trained to."""
        angle, scale = np.radians(20), 1.7
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        seen = ARCFACE_POINTS @ turn.T + [90, 30]
        back = similarity(seen, ARCFACE_POINTS)
        np.testing.assert_allclose(seen @ back[:, :2].T + back[:, 2], ARCFACE_POINTS, atol=1e-9)

        picture = np.zeros((400, 400, 3), np.uint8)
        eye = seen[0].round().astype(int)
        picture[eye[1] - 3 : eye[1] + 4, eye[0] - 3 : eye[0] + 4] = 255
        for side in (ARCFACE_SIDE, 160):
            shown: list[np.ndarray] = []

            def remember(batch: np.ndarray, shown: list[np.ndarray] = shown) -> tuple[np.ndarray, ...]:
                shown.append(batch)
                return (batch.mean((2, 3)),)

            EmbeddingNetwork(remember, lambda frame: seen, FaceInput(side)).embed(picture[None])
            assert shown[0].shape == (1, 3, side, side)
            assert shown[0].min() == -1  # (0 - 127.5) / 127.5
            y, x = np.nonzero(shown[0][0, 0] > 0)
            assert np.hypot(*(np.array([x.mean(), y.mean()]) * ARCFACE_SIDE / side - ARCFACE_POINTS[0])) < 1

    def test_eyes_are_found_where_they_are(self, face: Pixels) -> None:
        (upright,) = detected_points(face[None])
        assert upright is not None
        left, right, mouth = upright
        assert left[0] < mouth[0] < right[0]
        assert mouth[1] > max(left[1], right[1])
        middle = np.array(face.shape[1::-1]) / 2
        turn = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), 9, 1.0)  # the cascade still finds it
        turned = cv2.warpAffine(face, turn, face.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        (found,) = detected_points(np.asarray(turned, np.uint8)[None])
        assert found is not None
        apart = float(np.linalg.norm(right - left))
        np.testing.assert_allclose(found[:2], upright[:2] @ turn[:, :2].T + turn[:, 2], atol=0.12 * apart)

    def test_an_eye_that_is_covered_is_put_where_eyes_are(self, face: Pixels) -> None:
        (seen,) = detected_points(face[None])
        assert seen is not None
        apart = float(np.linalg.norm(seen[1] - seen[0]))
        covered = face.copy()
        x, y = seen[0].astype(int)
        half = int(0.3 * apart)
        covered[y - half : y + half, x - half : x + half] = face[y + 2 * half, x]
        (found,) = detected_points(covered[None])
        if found is not None:  # a face with a covered eye may not be found at all
            assert np.linalg.norm(found[0] - seen[0]) < 0.4 * apart
        assert EYES[0, 0] < 0 < EYES[1, 0]

    def test_nobody(self) -> None:
        assert detected_points(flat(90, 2)) == [None, None]

    def test_points_of_a_face_mesh(self) -> None:
        places = np.zeros((POINTS, 3))
        for number, point in ((33, 1), (133, 3), (362, 5), (263, 7), (1, 4), (61, 3), (291, 5)):
            places[number] = point
        find = mesh_points(SimpleNamespace(points=lambda frame: places))
        found = find(flat(0)[0])
        assert found is not None
        assert found[:, 0].tolist() == [2, 6, 4, 3, 5]
        assert mesh_points(SimpleNamespace(points=lambda frame: places * np.nan))(flat(0)[0]) is None


class TestFiles:
    @pytest.mark.parametrize(("side", "last"), [(112, False), (150, True), (160, False)])
    def test_size_and_layout_are_read_from_the_file(self, side: int, last: bool, face: Pixels, tmp_path: Path) -> None:
        path = embedding_file(tmp_path / "net.onnx", side, last)
        assert face_input(path) == FaceInput(side, last)
        network = open_recogniser(str(path))
        found = network.embed(np.stack([face, face]))
        assert network.measure == "identity cosine"
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
        same = open_recogniser(str(embedding_file(tmp_path / "same.onnx", 112))).embed(face[None])
        assert float((found[:1] @ same.T).item()) > 0.99

    def test_a_network_that_normalises_gets_pixels(self, face: Pixels, tmp_path: Path) -> None:
        path = embedding_file(tmp_path / "net.onnx", 112, normalises=True)
        assert face_input(path) == FaceInput(112, False, 0.0, 1.0)
        plain = embedding_file(tmp_path / "plain.onnx", 112)
        ours, theirs = (open_recogniser(str(file)).embed(face[None]) for file in (path, plain))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_what_takes_no_faces_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"takes \[None, 4, 112, 112\]; a face recogniser takes"):
            open_recogniser(str(embedding_file(tmp_path / "net.onnx", 112, channels=4)))
        with pytest.raises(WeightsError, match=r"none\.onnx cannot be read"):
            open_recogniser(str(tmp_path / "none.onnx"))

    def test_torchscript(self, face: Pixels, tmp_path: Path) -> None:
        path = scripted(MeanColour(), tmp_path / "n.pt")
        assert face_input(path) == FaceInput()
        assert open_recogniser(str(path)).embed(face[None]).shape == (1, 3)


class TestMeter:
    def test_cosine_of_colours(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "arcface.onnx", {"683": [2, 3]})
        network = EmbeddingNetwork(open_network(path, ["embedding"]), lambda frame: ARCFACE_POINTS)
        red, green = (np.zeros((2, 112, 112, 3), np.uint8) + 127 for _ in range(2))
        red[..., 0], green[..., 1] = 255, 255
        meter = IdentityMeter(network, red[0], cross=True)
        meter.add(Block(np.concatenate([red, green]), np.concatenate([green, green]), None))
        cosines = meter.course()["ID-SIM"]
        assert cosines[:2] == pytest.approx([1, 1])
        assert cosines[2:] == pytest.approx([0, 0], abs=0.02)
        assert meter.figures()["ID-SIM"] == pytest.approx(0.5, abs=0.01)
        assert meter.figures()["nearer to the portrait"] == 0.5

    def test_without_five_points_it_has_another_name(self, face: Pixels, tmp_path: Path) -> None:
        network = open_recogniser(str(scripted(MeanColour(), tmp_path / "n.pt")))
        meter = IdentityMeter(network, face)
        meter.add(Block(face[None], face[None], None))
        meter.add(Block(flat(0), flat(0), None))  # nobody
        assert list(meter.figures()) == ["identity cosine"]
        assert meter.figures()["identity cosine"] == pytest.approx(1)
        assert np.isnan(meter.course()["identity cosine"][1:]).all()
        kept = meter.embeddings()
        assert (kept.output.shape, kept.driver.shape) == ((5, 3), (2, 3))
        (nobody,) = IdentityMeter(network, flat(0)[0]).figures().values()
        assert np.isnan(nobody)


def fake_package(monkeypatch: pytest.MonkeyPatch, name: str, **parts: object) -> None:
    module = ModuleType(name)
    for part, value in parts.items():
        setattr(module, part, value)
    monkeypatch.setitem(sys.modules, name, module)


class TestPackages:
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(ConfigError, match="pip install face_recognition"):
            open_recogniser("face_recognition")
        with pytest.raises(ConfigError, match="nothing is downloaded"):
            open_recogniser("insightface")

    def test_face_recognition_takes_the_largest_face(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def locations(frame: Pixels) -> list[tuple[int, int, int, int]]:
            return [(0, 9, 9, 0), (0, 50, 50, 0)] if frame.any() else []

        def encodings(frame: Pixels, places: list[Any]) -> list[np.ndarray]:
            return [np.array([place[2], 0.0, 0.0]) for place in places]

        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        fake_package(monkeypatch, "face_recognition", face_locations=locations, face_encodings=encodings)
        found = open_recogniser("face_recognition").embed(np.concatenate([flat(9, 1), flat(0, 1)]))
        np.testing.assert_array_equal(found, [[1, 0, 0], [np.nan] * 3])

    def test_insightface_from_files_that_are_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".insightface" / "models" / "pack").mkdir(parents=True)
        (tmp_path / ".insightface" / "models" / "pack" / "net.onnx").touch()
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

        class Analysis:
            def __init__(self, name: str, allowed_modules: list[str]) -> None:
                assert name == "pack"

            def prepare(self, ctx_id: int) -> None:
                assert ctx_id == -1

            def get(self, frame: Pixels) -> list[SimpleNamespace]:
                box = np.array([0.0, 0.0, 5.0, 5.0])
                blue = frame[0, 0].astype(float)  # BGR
                return [SimpleNamespace(bbox=box, embedding=-blue), SimpleNamespace(bbox=2 * box, embedding=blue)]

        fake_package(monkeypatch, "insightface.app", FaceAnalysis=Analysis)
        picture = flat(0, 1)
        picture[..., 0] = 7
        np.testing.assert_array_equal(open_recogniser("insightface").embed(picture), [[0, 0, 1]])

    def test_what_tells_versions_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.metadata.version", lambda name: "1.3.0")
        assert NetworkFiles(identity="face_recognition").key() == {"identity": "face_recognition 1.3.0"}
