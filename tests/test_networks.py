"""Metric networks by path: each adapter with a tiny made-up network whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation.cases import find_cases
from personalive.evaluation.face_points import yunet
from personalive.evaluation.frechet import frechet_distance
from personalive.evaluation.many import open_instruments
from personalive.evaluation.meters import Block, Instruments, ParameterMeter
from personalive.evaluation.networks import (
    CLIP_FRAMES,
    FaceNetwork,
    NetworkFiles,
    VideoNetwork,
    lpips_distance,
    open_network,
)
from personalive.evaluation.recogniser import ARCFACE_POINTS, EmbeddingNetwork
from personalive.evaluation.score import score
from personalive.evaluation.scores import summarise
from personalive.gallery import find_portrait
from personalive.media.frames import Pixels, load_picture
from toy_cases import FRAMES, BrightnessReader, make_folders, video
from toy_networks import MeanColour, onnx_file, scripted


class Brightness(nn.Module):
    """Expression: brightness times 1, 2; pose: brightness times 10."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = x.mean((1, 2, 3))
        return torch.stack([level, 2 * level], 1), 10 * level[:, None]


class Named(nn.Module):
    """The same, by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        level = x.mean((1, 2, 3))
        return {"pose": 10 * level[:, None], "expression": torch.stack([level, 2 * level], 1)}


class Distance(nn.Module):
    """Mean absolute difference, in LPIPS's shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3), keepdim=True)


class Clips(nn.Module):
    """Mean colours of a clip."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3, 4))


class UsualI3D(nn.Module):
    """The call of the I3D file that is usual for FVD."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale
        assert not resize
        assert return_features
        return x.mean((2, 3, 4))


def flat(level: int, frames: int = 4, side: int = 64) -> Pixels:
    return np.full((frames, side, side, 3), level, np.uint8)


@pytest.fixture
def face() -> Pixels:
    """A built-in portrait, in which the detector finds a face."""
    return load_picture(find_portrait("ada"))


class TestOpening:
    @pytest.mark.parametrize("module", [Brightness(), Named()])
    def test_scripts_by_order_or_by_name(self, module: nn.Module, tmp_path: Path) -> None:
        run = open_network(scripted(module, tmp_path / "n.pt"), ["expression", "pose"])
        expression, pose = run(np.full((2, 3, 8, 8), 0.5, np.float32))
        np.testing.assert_allclose(expression, [[0.5, 1.0]] * 2, rtol=1e-6)
        np.testing.assert_allclose(pose, [[5.0]] * 2, rtol=1e-6)

    @pytest.mark.parametrize("batch", [1, "N"])
    def test_onnx_by_name_whatever_its_batch(self, batch: int | str, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "n.onnx", {"pose": None, "expression": [2, 3]}, batch)
        values = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) + np.zeros((2, 3, 112, 112), np.float32)
        values[1] *= 2
        expression, pose = open_network(path, ["expression", "pose"])(values)
        np.testing.assert_allclose(expression, [[0, 1, 2], [0, 2, 4]], rtol=1e-5)
        np.testing.assert_allclose(pose, [[1], [2]], rtol=1e-5)

    def test_what_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"none\.onnx cannot be read"):
            open_network(tmp_path / "none.onnx", ["x"])
        (tmp_path / "bad.pt").write_text("no")
        with pytest.raises(WeightsError, match=r"bad.pt is not a TorchScript file"):
            open_network(tmp_path / "bad.pt", ["x"])
        with pytest.raises(WeightsError, match="gives 1 outputs; expression, pose are needed"):
            open_network(scripted(MeanColour(), tmp_path / "n.pt"), ["expression", "pose"])(
                np.zeros((1, 3, 8, 8), np.float32)
            )
        with pytest.raises(WeightsError, match="is not a YuNet network"):
            yunet(tmp_path / "bad.pt")

    def test_bad_onnx(self, tmp_path: Path) -> None:
        path = onnx_file(tmp_path / "n.onnx", {"a": None, "b": None})
        with pytest.raises(WeightsError, match="gives a, b, not expression"):
            open_network(path, ["expression", "pose"])
        with pytest.raises(WeightsError, match="does not take"):
            open_network(path, ["a"])(np.zeros((1, 3, 8, 8), np.float32))
        (tmp_path / "bad.onnx").write_text("no")
        with pytest.raises(WeightsError, match="is not an ONNX network"):
            open_network(tmp_path / "bad.onnx", ["x"])


class TestLpips:
    def test_a_script_gets_pictures_from_minus_one(self, tmp_path: Path) -> None:
        distance = lpips_distance(str(scripted(Distance(), tmp_path / "l.pt")))
        a, b = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.25)
        torch.testing.assert_close(distance(a, b), torch.tensor([0.5, 0.5]))

    def test_one_number_for_each_pair(self, tmp_path: Path) -> None:
        class Wrong(nn.Module):
            def forward(self, a: Tensor, b: Tensor) -> Tensor:
                return a - b

        with pytest.raises(WeightsError, match="one number each"):
            lpips_distance(str(scripted(Wrong(), tmp_path / "l.pt")))(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install lpips"):
            lpips_distance("alex")


def test_expression_and_pose(face: Pixels, tmp_path: Path) -> None:
    """A darker face: its parameters differ by known shares of its brightness."""
    network = FaceNetwork(open_network(scripted(Brightness(), tmp_path / "smirk.pt"), ["expression", "pose"]))
    found = network.parameters(face[None])
    assert found is not None
    level = float(found[1][0, 0]) / 10
    assert 0.05 < level < 0.95  # pixels are in [0, 1]
    dark = (face * 0.8).astype(np.uint8)
    meter = ParameterMeter(network)
    meter.add(Block(dark[None], face[None], None))
    assert meter.figures()["AED"] == pytest.approx(1.5 * 0.2 * level, rel=0.05)  # the mean of 1 and 2 times
    assert meter.figures()["APD"] == pytest.approx(10 * 0.2 * level, rel=0.05)
    meter.add(Block(flat(0), flat(0), None))
    assert np.isnan(meter.course()["AED"][1:]).all()
    assert meter.figures()["AED"] > 0


@pytest.mark.parametrize("module", [Clips(), UsualI3D()])
def test_clips_come_scaled(module: nn.Module, tmp_path: Path) -> None:
    network = VideoNetwork(scripted(module, tmp_path / "i3d.pt"))
    np.testing.assert_allclose(network.features(flat(255, CLIP_FRAMES)), [[1, 1, 1]], atol=1e-5)
    np.testing.assert_allclose(network.features(flat(0, CLIP_FRAMES)), [[-1, -1, -1]], atol=1e-5)


def test_a_report_with_all_networks(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    for name in ("b", "c"):
        video(folders[0] / f"{name}.mkv", delay=2, frames=40)
        video(folders[1] / f"{name}.mkv", frames=40)
    instruments = Instruments(
        BrightnessReader(),
        lpips_distance(str(scripted(Distance(), tmp_path / "l.pt"))),
        EmbeddingNetwork(
            open_network(scripted(MeanColour(), tmp_path / "i.pt"), ["embedding"]), lambda f: ARCFACE_POINTS
        ),
        FaceNetwork(open_network(scripted(Brightness(), tmp_path / "s.pt"), ["expression", "pose"])),
        VideoNetwork(scripted(Clips(), tmp_path / "v.pt")),
    )
    cases, _ = find_cases(folders[0], folders[1], folders[2] / "a.png")
    scored = [score(case, instruments) for case in cases]
    assert [len(case.features[0]) for case in scored] == [FRAMES // CLIP_FRAMES, 2, 2]
    perfect, late = scored[0].figures.figures, scored[1].figures.figures
    assert (perfect["LPIPS"], perfect["tLP"]) == (0, 0)
    assert late["LPIPS"] == pytest.approx(2 * late["L1"], rel=1e-4)  # of pictures in [-1, 1]
    assert late["tLP"] > 1  # thousandths
    assert perfect["ID-SIM"] > 0.9
    rows = {row.measure: row.estimate for row in summarise(scored)}
    made, true = (np.concatenate([case.features[side] for case in scored]) for side in (0, 1))
    assert rows["FVD"].mean == pytest.approx(frechet_distance(made, true))
    assert rows["FVD"].count == 5
    assert rows["AED"].count == 0  # no face is found: not a number, and not another's


def test_what_is_not_given_is_not_measured(tmp_path: Path) -> None:
    assert NetworkFiles().key() == {}
    only = open_instruments(NetworkFiles())
    assert (only.lpips, only.identity, only.face, only.video) == (None, None, None, None)
    path = scripted(Distance(), tmp_path / "l.pt")
    assert NetworkFiles(lpips="alex").key() == {"lpips": "alex"}
    assert len(NetworkFiles(lpips=str(path)).key()["lpips"]) == 64
    with pytest.raises(WeightsError, match="cannot be read"):
        NetworkFiles(video=tmp_path / "none").key()
