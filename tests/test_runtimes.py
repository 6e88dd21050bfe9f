"""The window pass in other runtimes: the loop computes the same; files are made once; TensorRT gets what it needs."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from command import Command, save_portrait, save_toy
from personalive.acceleration import choice, export
from personalive.acceleration.choice import (
    AUTO,
    BFLOAT16,
    EAGER,
    KINDS,
    check_runtime,
    choose_runtime,
    quickest,
    window_files,
)
from personalive.acceleration.made import fingerprint, made_for
from personalive.acceleration.runtimes import decode_by_openvino, has_bfloat16, open_onnx, open_openvino
from personalive.acceleration.swap import SwappedUNet, each_session, own_unet, swap
from personalive.acceleration.tensorrt import build, export_engine, open_engine
from personalive.contracts import KeyValues, MotionSignals, Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.media.video_writer import VideoWriter
from personalive.pipeline import PersonaLive
from personalive.streaming import engine
from personalive.streaming.state import batch
from personalive.weights import find
from toy import picture, pictures, random_signals, started, toy_networks, warp_networks
from toy_video import make_video

ON_CPU = ("onnxruntime", "openvino")
TAU = {"stream__tau": 0.1, "stream__keyframes": 1}  # the first frame that may become a keyframe does


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's file for one keyframe."""
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("windows") / "window.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that a user could do anything about
        return export.export_onnx(toy_networks(**TAU), path, keyframes=1)


def frames(networks: Networks, count: int = 52) -> np.ndarray[Any, Any]:
    return PersonaLive(networks).start(picture(0)).push(pictures(count))


@torch.no_grad()
@pytest.mark.parametrize("name", ON_CPU)
def test_a_runtime_computes_the_same(name: str, window: Path) -> None:
    pytest.importorskip(name)
    assert {file.name for file in window.parent.iterdir()} == {"window.onnx", "window.onnx.json"}
    networks = toy_networks(**TAU)
    run = KINDS[name].open(window, networks)
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


def written(networks: Networks, path: Path, keyframes: int) -> Path:
    """As an export writes, but nothing of use."""
    return export.in_place(path, lambda temporary: temporary.write_bytes(b"a window"), made_for(networks, keyframes))


@pytest.mark.parametrize("name", ON_CPU)
def test_files_are_made_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    made: list[int] = []
    opened: list[str] = []

    def write(networks: Networks, path: Path, keyframes: int) -> Path:
        made.append(keyframes)
        return written(networks, path, keyframes)

    def note(path: Path, networks: Networks) -> Any:
        opened.append(path.name[-7:])

    monkeypatch.setitem(KINDS, name, dataclasses.replace(KINDS[name], write=write, open=note))
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
@pytest.mark.parametrize("name", ON_CPU)
def test_a_stream_is_the_same_with_every_number_of_keyframes(name: str, tmp_path: Path) -> None:
    """Two exports: a minute."""
    pytest.importorskip("onnxscript")
    pytest.importorskip(name)
    networks = toy_networks(**TAU)
    assert np.abs(frames(choose_runtime(networks, name, tmp_path)).astype(int) - frames(networks)).max() <= 1


# OpenVINO in bfloat16


@torch.no_grad()
def test_bfloat16_is_near(window: Path) -> None:
    pytest.importorskip("openvino")
    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16 instructions")
    networks = toy_networks(**TAU)
    torch.manual_seed(3)
    flat = export.example(networks, 1)
    whole = export.FlatWindow(own_unet(networks))(*flat)
    error = float((KINDS[BFLOAT16].open(window, networks)(*flat) - whole).norm() / whole.norm())
    assert 1e-5 < error < 0.1, "computed in bfloat16, and still the same thing"


@torch.no_grad()
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_decodes_any_number_of_frames(precision: str) -> None:
    pytest.importorskip("openvino")
    networks = toy_networks()
    decode = decode_by_openvino(networks, precision).autoencoder.decode
    for count in (1, 3, 4):
        torch.manual_seed(count)
        latents = torch.randn(count, networks.config.unet.latent_channels, *[networks.config.latent_size] * 2)
        error = (decode(latents) - networks.autoencoder.decode(latents)).abs()
        assert float(error.mean()) < (1 / 255 if precision == "bf16" else 1e-5)
    assert not torch.equal(decode(latents), decode(-latents))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_what_openvino_decodes_is_composed_with_the_warp(precision: str) -> None:
    """The warp's own networks stay torch's: two streams in one batch, first frames first."""
    pytest.importorskip("openvino")
    networks = warp_networks(stream__levels=2)
    other = decode_by_openvino(networks, precision)
    assert other.reference_warp is networks.reference_warp
    model, plain = PersonaLive(other), PersonaLive(networks)
    streams = [[each.start(picture(seed), seed) for seed in (0, 1)] for each in (model, plain)]
    for number in range(3):
        for frame in pictures(4, seed=4 * number):
            for stream in (*streams[0], *streams[1]):
                stream.feed(frame)
        parts = list(model.paint(streams[0]))
        ours = [np.concatenate([part[which] for part in parts]) for which in (0, 1)]
        theirs = plain.step(streams[1])
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.shape == wanted.shape == (4, 64, 64, 3)
        error = np.abs(found.astype(int) - wanted)
        assert error.mean() < (1 if precision == "bf16" else 0.1)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_runtimes_window_takes_the_warps_features(name: str, window: Path) -> None:
    """The window's file knows no warp: its features come with the pose's."""
    pytest.importorskip(name)
    networks = warp_networks(**TAU)
    run = KINDS[name].open(window, networks)  # the toys' UNets have the same weights
    other = swap(networks, {1: each_session(export.unflattened(run))})
    assert np.abs(frames(other).astype(int) - frames(networks)).max() <= 1


def test_auto_takes_the_quickest_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = toy_networks(**TAU)
    there: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in there or None)
    assert choose_runtime(networks, AUTO, tmp_path) is networks
    there |= {"openvino", "onnxscript"}
    for able, name in ((True, BFLOAT16), (False, "openvino")):
        monkeypatch.setattr(choice, "has_bfloat16", lambda able=able: able)
        assert quickest(networks) == name
    monkeypatch.setattr(choice, "SMALL", 1000)
    assert quickest(networks) == EAGER, "the official model would be translated for minutes"
    assert list(tmp_path.iterdir()) == []


def test_auto_does_without_files_where_none_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "quickest", lambda networks: "openvino")
    (tmp_path / "windows").write_text("a file where the folder should be")
    networks, said = toy_networks(**TAU), list[str]()
    assert choose_runtime(networks, AUTO, tmp_path / "windows", said.append) is networks
    assert said[-1].startswith("the UNet is computed by torch, the runtime openvino does not work here: ")
    assert f"{tmp_path / 'windows'} cannot be made: " in said[-1]
    with pytest.raises(OutputError, match="cannot be made"):
        choose_runtime(networks, "openvino", tmp_path / "windows")


def broken(*_: object) -> Any:
    raise RuntimeError("no CPU plugin\nof its kind")


def untranslated(networks: Networks, path: Path, count: int) -> Path:
    """A window pass's file with nothing inside: translating takes half a minute."""
    return export.in_place(path, Path.touch, made_for(networks, count))


def stand_in(monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Any]) -> None:
    """A quickest runtime of the name openvino whose files need no translation."""
    kind = dataclasses.replace(KINDS["openvino"], write=untranslated, open=opened, package=None)
    monkeypatch.setitem(KINDS, "openvino", kind)
    monkeypatch.setattr(choice, "quickest", lambda networks: "openvino")


@pytest.mark.parametrize("where", ["choosing", "opening", "computing"])
def test_auto_goes_on_without_a_runtime_that_fails(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may fail when it is looked for, when it opens its files, or only when it computes."""
    stand_in(monkeypatch, broken if where == "opening" else lambda path, networks: broken)
    if where == "choosing":
        monkeypatch.setattr(choice, "quickest", broken)
    networks, said = toy_networks(**TAU), list[str]()
    before = torch.random.get_rng_state()
    assert choose_runtime(networks, AUTO, tmp_path, said.append) is networks
    line = "the UNet is computed by torch, the runtime {} does not work here: no CPU plugin of its kind"
    assert said[-1] == line.format("auto" if where == "choosing" else "openvino")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_animate_takes_the_quickest_runtime_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    computed: list[int] = []

    def opened(path: Path, networks: Networks) -> Any:
        unet = export.FlatWindow(own_unet(networks))

        def run(*flat: Tensor) -> Tensor:
            computed.append(1)
            return cast(Tensor, unet(*flat))

        return run

    written: list[np.ndarray[Any, Any]] = []
    write = VideoWriter.write

    def keep(writer: VideoWriter, pixels: np.ndarray[Any, Any], time: float | None = None) -> None:
        written.append(pixels.copy())
        write(writer, pixels, time)

    monkeypatch.setattr(VideoWriter, "write", keep)
    stand_in(monkeypatch, opened)
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path / "home"))
    driving = make_video(tmp_path / "d.mp4", 5, size=(64, 64), draw=lambda index: picture(index, 64))
    toy = save_toy(tmp_path, keypoints__soft=True)  # a disc jumps by a pixel where the last bit of a load differs
    start: list[str | Path] = ["animate", save_portrait(tmp_path), driving, "--model", toy]
    start += ["--crop", "none", "-o"]
    ended = Command(capsys)(*start, tmp_path / "a.mp4")
    assert (ended.code, ended.err.count("\n")) == (0, 1)
    assert "files of the window pass" in ended.err
    assert len(computed) > 1
    monkeypatch.setitem(KINDS, "openvino", dataclasses.replace(KINDS["openvino"], open=broken))
    ended = Command(capsys)(*start, tmp_path / "b.mp4")
    assert ended.code == 0
    assert ended.err.startswith("the UNet is computed by torch, the runtime openvino does not work here: ")
    assert len(written) == 10
    assert np.abs(np.stack(written[:5]).astype(int) - np.stack(written[5:])).max() <= 1


def test_bfloat16_wants_the_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(KINDS, BFLOAT16, dataclasses.replace(KINDS[BFLOAT16], able=lambda: False))
    with pytest.raises(ConfigError, match=r"this CPU has no instructions for .* take --runtime openvino$"):
        choose_runtime(toy_networks(**TAU), BFLOAT16, tmp_path)


# Files by their paths


def test_an_exported_file_is_a_runtime(window: Path, tmp_path: Path) -> None:
    """By its own path and by its folder's; for one keyframe only."""
    pytest.importorskip("onnxruntime")
    networks = toy_networks(**TAU)
    for name in (window, window.parent):
        check_runtime(str(name))
        unet: Any = choose_runtime(networks, str(name), tmp_path).denoising_unet
        assert isinstance(unet, SwappedUNet)
        assert set(unet._run) == {1}  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "was made for the model other, not toy: make it here"),
        ({"fingerprint": "0" * 16}, "was made for other weights or sizes of toy"),
        ({"precision": "float16"}, "was made for float16, not float32"),
        ({"device": "NVIDIA H200"}, "was made for NVIDIA H200, not cpu "),
        ({"software": "torch 1.0"}, "was made for torch 1.0, not torch 2"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, dict) else "",
)
def test_a_file_for_something_else_is_refused(
    change: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, path = toy_networks(**TAU), tmp_path / "window.pt2"
    monkeypatch.setitem(KINDS, "aoti", dataclasses.replace(KINDS["aoti"], open=lambda path, networks: torch.add))
    made = export.made_package(networks, 1)
    export.in_place(path, lambda temporary: temporary.write_bytes(b"a package"), made)
    unet: Any = choose_runtime(networks, str(path), tmp_path).denoising_unet
    assert set(unet._run) == {1}
    dataclasses.replace(made, **change).write(path)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=re.escape(f"{path} {message}")) as error:
        choose_runtime(networks, str(path), tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_without_its_record_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "window.pt2"
    path.write_bytes(b"a package")
    for record in (None, "{", '{"model": "toy"}', '{"model": "toy", "colour": "red"}'):
        if record is not None:
            (tmp_path / "window.pt2.json").write_text(record)
        with pytest.raises(WeightsError, match=r"cannot be used without window\.pt2\.json.*copy both"):
            PersonaLive.from_pretrained("no-such-model", runtime=str(path))
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ConfigError, match=r"readme\.txt is no file of a window pass \(\.pt2, \.onnx, \.engine\)"):
        check_runtime(str(tmp_path / "readme.txt"))


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
    with pytest.raises(
        ConfigError, match="no runtime 'magic'; choose one of auto, eager, compile, cuda-graphs, aoti, o"
    ):
        PersonaLive.from_pretrained("no-such-model", runtime="magic")
    half = dataclasses.replace(networks, denoising_unet=type(own_unet(networks))(networks.config.unet).half())
    with pytest.raises(ConfigError, match="openvino is for the CPU in float32"):
        choose_runtime(half, "openvino", tmp_path)
    with pytest.raises(ConfigError, match="tensorrt is for an NVIDIA GPU"):
        choose_runtime(networks, "tensorrt", tmp_path)
    assert choose_runtime(networks, "eager", tmp_path) is networks
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        window_files(networks, KINDS["openvino"], made_for(networks), tmp_path / "file" / "windows")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    with pytest.raises(OutputError, match="GB of the disk are free"):
        window_files(networks, KINDS["openvino"], made_for(networks), tmp_path)
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
    assert {file.name for file in tmp_path.iterdir()} == {"window.engine", "window.engine.json"}


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


class FakeEngine:
    """An engine that knows nothing but addresses: it reads its inputs there, and writes what the UNet makes of them."""

    def __init__(self, networks: Networks) -> None:
        self.window = export.FlatWindow(own_unet(networks))
        self.names = export.input_names(networks)
        self.like = export.example(networks, 1)
        self.num_io_tensors = len(self.names) + 1
        self.addresses: dict[str, int] = {}
        self.succeeds = True

    def get_tensor_name(self, number: int) -> str:
        return [export.OUTPUT, *self.names][number]

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def at(self, name: str, like: torch.Tensor) -> torch.Tensor:
        memory = (ctypes.c_char * like.nbytes).from_address(self.addresses[name])
        return torch.frombuffer(memory, dtype=like.dtype).view(like.shape)

    def execute_async_v3(self, queue: int) -> bool:
        assert queue == 7
        given = [self.at(name, like) for name, like in zip(self.names, self.like, strict=True)]
        self.at(export.OUTPUT, self.like[0]).copy_(self.window(*given))
        return self.succeeds


def test_an_engine_computes_where_the_tensors_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, path, told = toy_networks(**TAU), tmp_path / "window.engine", []
    engine = FakeEngine(networks)
    path.write_bytes(b"engine")
    fake = FakeTensorRT()
    reads = lambda data: engine if data == b"engine" else None  # noqa: E731
    fake.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=reads)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    main = SimpleNamespace(wait_stream=lambda queue: told.append("main waits"))
    side = SimpleNamespace(cuda_stream=7, wait_stream=lambda queue: told.append("engine waits"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    run = open_engine(path, networks)
    assert np.abs(frames(swap(networks, {1: export.unflattened(run)})).astype(int) - frames(networks)).max() <= 1
    assert told == ["engine waits", "main waits"] * 3  # the steps with a keyframe
    engine.succeeds = False
    with torch.no_grad(), pytest.raises(RuntimeError, match="TensorRT refused"):
        run(*export.example(networks, 1))
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"is no engine for this GPU and TensorRT 10\.0"):
        open_engine(path, networks)


def test_a_runtime_is_a_name_for_the_compiler_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = toy_networks(**TAU)
    monkeypatch.setattr(choice, "compile_window", lambda given: (given, "window"))
    monkeypatch.setattr(choice, "compile_decoder", lambda given: (given, "decoder"))
    expected = ((networks, "window"), "decoder")
    assert choose_runtime(networks, "compile", tmp_path) == expected  # type: ignore[comparison-overlap]


def test_cuda_graphs_are_recorded_where_they_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = toy_networks(**TAU)
    with pytest.raises(ConfigError, match="the runtime cuda-graphs is for an NVIDIA GPU: take --device cuda"):
        choose_runtime(networks, "cuda-graphs", tmp_path)
    device = SimpleNamespace(type="cuda")
    parameters = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=device)]))
    elsewhere = dataclasses.replace(networks, denoising_unet=parameters)  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu130")
    with pytest.raises(ConfigError, match=r"cuda-graphs needs torch 2\.13 or newer, this is 2\.12\.1"):
        choose_runtime(elsewhere, "cuda-graphs", tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(choice, "compile_window", lambda given, mode: (given, mode))
    monkeypatch.setattr(choice, "compile_decoder", lambda given: given)
    assert choose_runtime(elsewhere, "cuda-graphs", tmp_path)[1] == "reduce-overhead"  # type: ignore[index]
