"""The window pass in other runtimes: the loop computes the same; files are made once; TensorRT gets what it needs."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from command import Command, save_toy
from personalive.acceleration import choice, export
from personalive.acceleration.choice import OPENERS, choose_runtime, each_session, fingerprint, window_files
from personalive.acceleration.runtimes import open_onnx, open_openvino
from personalive.acceleration.swap import SwappedUNet, own_unet, swap
from personalive.acceleration.tensorrt import build, export_engine
from personalive.contracts import KeyValues, MotionSignals, Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.pipeline import PersonaLive
from personalive.streaming import engine
from personalive.streaming.state import batch
from personalive.weights import find
from toy import picture, pictures, random_signals, started, toy_networks

TAU = {"stream__tau": 0.1, "stream__keyframes": 1}  # the first frame that may become a keyframe does


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's file for one keyframe."""
    pytest.importorskip("onnxscript")
    return export.export_onnx(toy_networks(**TAU), tmp_path_factory.mktemp("windows") / "window.onnx", keyframes=1)


def frames(networks: Networks, count: int = 52) -> np.ndarray[Any, Any]:
    return PersonaLive(networks).start(picture(0)).push(pictures(count))


@torch.no_grad()
@pytest.mark.parametrize("name", OPENERS)
def test_a_runtime_computes_the_same(name: str, window: Path) -> None:
    pytest.importorskip(name)
    assert [file.name for file in window.parent.iterdir()] == ["window.onnx"]
    networks = toy_networks(**TAU)
    run = OPENERS[name](window)
    torch.manual_seed(3)
    flat = export.example(networks, 1)
    torch.testing.assert_close(run(*flat), export.FlatWindow(own_unet(networks))(*flat), rtol=1e-4, atol=1e-5)
    used = []

    def counting(*given: Any) -> torch.Tensor:
        used.append(given[5].shape[2])
        return run(*given)

    other = swap(networks, {1: each_session(export.unflattened(counting))})
    assert np.abs(frames(other).astype(int) - frames(networks)).max() <= 1
    assert used == [flat[5].shape[2]] * 3  # the steps with a keyframe: the others went the UNet's own way


def test_onnx_for_one_number_of_keyframes(window: Path) -> None:
    pytest.importorskip("onnxruntime")
    unet: Any = export.use_onnx(toy_networks(**TAU), window, keyframes=1).denoising_unet
    assert isinstance(unet, SwappedUNet)
    assert set(unet._run) == {1}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPENERS)
def test_files_are_made_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    made: list[int] = []
    opened: list[str] = []

    def write(networks: Networks, path: Path, keyframes: int) -> None:
        made.append(keyframes)
        path.write_bytes(b"a window")

    monkeypatch.setattr(choice, "export_onnx", write)
    monkeypatch.setitem(OPENERS, name, lambda path: opened.append(path.name[-7:]))
    said: list[str] = []
    networks = toy_networks(**TAU)
    for _ in range(2):
        unet: Any = choose_runtime(networks, name, tmp_path / "windows", said.append).denoising_unet
        assert set(unet._run) == {0, 1}
    assert made == [0, 1]
    assert opened == ["-0.onnx", "-1.onnx"] * 2
    (line,) = said
    assert line.startswith(f"making 2 files of the window pass in {tmp_path / 'windows'}, once for this model: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPENERS)
def test_a_stream_is_the_same_with_every_number_of_keyframes(name: str, tmp_path: Path) -> None:
    """Two exports: a minute."""
    pytest.importorskip("onnxscript")
    pytest.importorskip(name)
    networks = toy_networks(**TAU)
    assert np.abs(frames(choose_runtime(networks, name, tmp_path)).astype(int) - frames(networks)).max() <= 1


@torch.no_grad()
def test_sessions_in_one_batch_go_one_by_one() -> None:
    networks = toy_networks(**TAU)
    unet, sizes = own_unet(networks), []

    def one(latents: Any, timesteps: Any, image_token: Any, signals: MotionSignals, shared: KeyValues) -> Any:
        sizes.append((latents.shape[0], timesteps.shape[0], image_token.shape[0], shared.keys[0].shape[0]))
        return unet(latents, timesteps, image_token, signals, shared)

    both = batch([started(networks, 0), started(networks, 1)])
    driving = random_signals(networks.config, networks.config.stream.chunk_frames, 5, sessions=2)
    _, expected = engine.step(networks, both, driving)
    _, got = engine.step(swap(networks, each_session(one)), both, driving)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert sizes == [(1, 1, 1, 1), (1, 1, 1, 1)]


def test_a_files_name_stands_for_all_that_is_inside() -> None:
    networks = toy_networks(**TAU)
    assert fingerprint(networks) == fingerprint(swap(networks, {}))
    other_sizes = dataclasses.replace(networks, config=toy_networks().config)
    unet = type(own_unet(networks))(networks.config.unet)
    unet.load_state_dict(own_unet(networks).state_dict())
    with torch.no_grad():
        unet.conv_out.weight[0, 0, 0, 0] += 1e-3
    other_weights = dataclasses.replace(networks, denoising_unet=unet)
    assert len({fingerprint(n) for n in (networks, other_sizes, other_weights)}) == 3


def test_what_cannot_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = toy_networks(**TAU)
    with pytest.raises(ConfigError, match="no runtime 'magic'; choose one of eager, compile, onnxruntime, openvino"):
        PersonaLive.from_pretrained("no-such-model", runtime="magic")
    half = dataclasses.replace(networks, denoising_unet=type(own_unet(networks))(networks.config.unet).half())
    with pytest.raises(ConfigError, match="openvino is for the CPU in float32"):
        choose_runtime(half, "openvino", tmp_path)
    assert choose_runtime(networks, "eager", tmp_path) is networks
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        window_files(networks, tmp_path / "file" / "windows")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    with pytest.raises(OutputError, match="GB of the disk are free"):
        window_files(networks, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(("package", "opener"), [("onnxruntime", open_onnx), ("openvino", open_openvino)])
def test_a_file_that_is_none(package: str, opener: Any, tmp_path: Path) -> None:
    pytest.importorskip(package)
    (tmp_path / "window.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is no ONNX file"):
        opener(tmp_path / "window.onnx")


def test_the_commands_name_the_missing_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    command, model = Command(capsys), save_toy(tmp_path)
    ended = command("bench", "speed", "--model", model, "--runtime", "openvino", "--device", "cpu")
    assert (ended.code, ended.err.splitlines()[-1]) == (
        1,
        "error: this needs openvino, which is not installed: pip install 'personalive[openvino]'",
    )
    ended = command("export", "--to", "tensorrt", "-o", tmp_path / "w.engine", "--model", model)
    assert (ended.code, ended.err) == (
        1,
        "error: this needs tensorrt, which is not installed: pip install 'personalive[tensorrt]'\n",
    )
    assert {path.name for path in tmp_path.iterdir()} == {model.name}  # nothing was begun


# TensorRT, as its documentation of version 10 says that it is called


class FakeTensorRT(SimpleNamespace):
    """Parses with onnx itself, so that the file which the real one would get is known to be sound."""

    def __init__(self, parses: bool = True, builds: bool = True) -> None:
        onnx = pytest.importorskip("onnx")
        self.inputs: list[str] = []
        fake = self

        class Parser:
            num_errors = 1

            def __init__(self, network: object, logger: object) -> None:
                assert network == "typed network"

            def parse_from_file(self, path: str) -> bool:
                model = onnx.load(path)
                onnx.checker.check_model(model)
                fake.inputs = [given.name for given in model.graph.input]
                return parses

            def get_error(self, number: int) -> Any:
                return SimpleNamespace(desc=lambda: f"error {number}")

        class Builder:
            def __init__(self, logger: object) -> None: ...

            def create_network(self, flags: int) -> str:
                assert flags == 1 << 3
                return "typed network"

            def create_builder_config(self) -> str:
                return "settings"

            def build_serialized_network(self, network: str, config: str) -> bytes | None:
                assert (network, config) == ("typed network", "settings")
                return b"engine" if builds else None

        super().__init__(
            __version__="10.0", Logger=SimpleNamespace, Builder=Builder, OnnxParser=Parser,
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=3),
        )  # fmt: skip
        self.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})


def test_an_engine_is_built_of_a_sound_file(window: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = toy_networks(**TAU)

    def known(networks: Networks, path: Path, keyframes: int) -> Path:
        path.write_bytes(window.read_bytes())
        return path

    monkeypatch.setattr("personalive.acceleration.tensorrt.export_onnx", known)
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    path = export_engine(networks, tmp_path / "window.engine", keyframes=1)
    assert path.read_bytes() == b"engine"
    assert set(fake.inputs) <= set(export.input_names(networks))
    assert {"latents", "pose", "keys_0"} <= set(fake.inputs)
    assert [file.name for file in tmp_path.iterdir()] == ["window.engine"]


def test_an_engine_that_cannot_be_built(window: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"TensorRT 10.0 cannot read the window pass: error 0"):
        build(FakeTensorRT(parses=False), window)
    with pytest.raises(ConfigError, match="could not build the engine"):
        build(FakeTensorRT(builds=False), window)
    monkeypatch.setattr("personalive.acceleration.tensorrt.export_onnx", lambda *_: window)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(builds=False))
    with pytest.raises(ConfigError):
        export_engine(toy_networks(**TAU), tmp_path / "window.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_is_a_name_for_the_compiler_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = toy_networks(**TAU)
    monkeypatch.setattr(choice, "compile_window", lambda given: (given, "compiled"))
    assert choose_runtime(networks, "compile", tmp_path) == (networks, "compiled")  # type: ignore[comparison-overlap]
