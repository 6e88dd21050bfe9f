"""Published files -> a model's folder -> networks: converted strictly, found by every name a user may give."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from command import Command
from fake_hub import FakeHub, running
from parity_fill import fill, fill_motion_extractor, official_rows
from personalive.config import BASE, OFFICIAL, SMALL, TOY, ModelConfig, override
from personalive.contracts import Networks
from personalive.errors import OutputError, WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.image_encoder import ImageEncoder
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_unet import ReferenceUNet
from personalive.pipeline import PersonaLive
from personalive.plain_data import to_json
from personalive.weights import find, folder, official, sources
from personalive.weights.load import build_networks, modules, names_of
from personalive.weights.manifest import NETWORKS
from toy import picture, pictures, toy_networks, warp_networks

TEMPORAL = ".temporal_modules."


def write_published(networks: Mapping[str, nn.Module], root: Path) -> Path:
    """Networks as the published files: official names, one .pth or .bin each, the denoising UNet in two."""
    for name, module in networks.items():
        inner = module.get_submodule("model") if name in ("autoencoder", "image_encoder") else module
        state = {key: tensor.detach() for key, tensor in inner.state_dict().items()}
        own = root / "personalive"
        own.mkdir(parents=True, exist_ok=True)
        if name == "denoising_unet":
            torch.save({key: tensor for key, tensor in state.items() if TEMPORAL not in key}, own / f"{name}.pth")
            torch.save({k: tensor for k, tensor in state.items() if TEMPORAL in k}, own / "temporal_module.pth")
        else:
            path = root / NETWORKS[name].places[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, path)
    return root


def write_config(config: ModelConfig, root: Path) -> Path:
    root.mkdir()
    text = json.dumps({"format": "personalive", "config": json.loads(to_json(config))})
    (root / folder.CONFIG).write_text(text)
    return root / folder.CONFIG


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(modules(toy_networks()), tmp_path_factory.mktemp("published") / "pretrained_weights")


@pytest.fixture(scope="module")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "toy"
    folder.convert(published, path, toy_networks().config)
    return path


def states(networks: Networks) -> dict[str, Tensor]:
    return {f"{n}.{key}": t for n, module in modules(networks).items() for key, t in module.state_dict().items()}


# Conversion


def test_the_published_names_at_small_size_convert_and_load_exactly(tmp_path: Path) -> None:
    """Every network at the goldens' small size, filled by their rule, under the names of the manifest."""
    networks = build_networks(SMALL)
    fill(networks.autoencoder.model, "small_vae")
    fill(networks.image_encoder.model, "small_image_encoder")
    fill(networks.reference_unet, "small_reference_unet")
    fill(networks.denoising_unet, "small_denoising_unet")
    fill(networks.pose_guider, "small_pose_guider")
    fill_motion_extractor(networks.motion_extractor)
    fill(networks.motion_encoder, "motion_encoder")
    write_published(modules(networks), tmp_path / "published")
    stored = torch.load(tmp_path / "published/personalive/denoising_unet.pth", weights_only=True)
    stored |= torch.load(tmp_path / "published/personalive/temporal_module.pth", weights_only=True)
    assert set(stored) == {name for name, _, _ in official_rows("small_denoising_unet")}
    folder.convert(tmp_path / "published", tmp_path / "model", SMALL)
    loaded = folder.load_folder(tmp_path / "model")
    assert loaded.config == SMALL
    theirs, parameters = (
        states(loaded),
        {f"{n}.{k}" for n, m in modules(networks).items() for k, _ in m.named_parameters()},
    )
    for key, tensor in states(networks).items():
        expected = tensor.half().float() if key in parameters else tensor
        assert torch.equal(theirs[key], expected), key


def test_a_folder_is_a_config_and_a_half_precision_file_for_each_network(converted: Path) -> None:
    names = names_of(toy_networks().config)
    assert {path.name for path in converted.iterdir()} == {"config.json", *(f"{name}.safetensors" for name in names)}
    assert load_file(converted / "pose_guider.safetensors")["conv_in.weight"].dtype == torch.float16
    assert folder.read_config(converted) == TOY


def test_the_folder_animates_like_the_networks_it_was_made_of(converted: Path) -> None:
    same = PersonaLive(folder.load_folder(converted))
    halved = build_networks(TOY)
    for name, module in modules(halved).items():
        state = modules(toy_networks())[name].state_dict()
        parameters = {key for key, _ in module.named_parameters()}
        module.load_state_dict({k: t.half().float() if k in parameters else t for k, t in state.items()})
    expected = PersonaLive(halved).start(picture(0)).push(pictures(16))
    assert np.array_equal(same.start(picture(0)).push(pictures(16)), expected)


def test_every_missing_and_foreign_entry_is_named(published: Path, tmp_path: Path, capsys: Any) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    path = root / "personalive" / "reference_unet.pth"
    state = torch.load(path, weights_only=True)
    gone = sorted(state)[:7]
    torch.save({**{k: t for k, t in state.items() if k not in gone}, "surprise": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"7 missing .* 1 foreign \(surprise\)") as error:
        folder.convert(root, tmp_path / "model", TOY)
    assert sorted(error.value.details) == sorted([f"missing {key}" for key in gone] + ["foreign surprise"])
    assert not (tmp_path / "model").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"published"}
    config = write_config(TOY, tmp_path / "sizes")
    ended = Command(capsys)("convert", root, "-o", tmp_path / "model", "--config", config)
    assert ended.code == 1
    assert all(f"missing {key}\n" in ended.err for key in gone)
    assert "foreign surprise\n" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: ")


def test_the_command_converts(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(TOY, tmp_path / "sizes")
    ended = Command(capsys)("convert", published, "-o", tmp_path / "model", "--config", config)
    assert ended.code == 0, ended.err
    assert f"use it with --model {tmp_path / 'model'}" in ended.out
    again = Command(capsys)("convert", published, "-o", tmp_path / "model", "--config", config)
    assert again.code == 1
    assert "exists and is not an empty folder" in again.err
    assert Command(capsys)("convert", published, "-o", tmp_path / "b", "--dtype", "int3").code == 1


def test_what_the_constructors_compute_may_be_missing(tmp_path: Path) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    for name in ("motion_extractor", "motion_encoder", "temporal_module"):
        path = root / "personalive" / f"{name}.pth"
        state = torch.load(path, weights_only=True)
        kept = {k: t for k, t in state.items() if k.split(".")[-1] not in ("idx_tensor", "pe", "num_batches_tracked")}
        assert len(kept) < len(state)
        torch.save(kept, path)
    loaded, networks = official.load_official_networks(root, TOY), toy_networks()
    tables = [key for key in states(networks) if key.split(".")[-1] in ("idx_tensor", "pe", "num_batches_tracked")]
    assert all(torch.equal(states(loaded)[key], states(networks)[key]) for key in tables)


def test_names_of_training_on_several_gpus_are_understood(tmp_path: Path) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    path = root / "personalive" / "pose_guider.pth"
    torch.save({f"module.{k}": t for k, t in torch.load(path, weights_only=True).items()}, path)
    official.load_official_networks(root, TOY)


def test_values_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    path = root / "personalive" / "pose_guider.pth"
    state = torch.load(path, weights_only=True)
    state["conv_in.bias"][0] = 1e6
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"pose_guider\.conv_in\.bias has values that are not finite"):
        folder.convert(root, tmp_path / "model", TOY)
    assert {path.name for path in tmp_path.iterdir()} == {"published"}
    folder.convert(root, tmp_path / "model", TOY, torch.float32)


def test_a_place_that_cannot_be_written(published: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        folder.convert(published, tmp_path / "nowhere" / "model", TOY)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_code_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    torch.save({"conv_in.bias": Trap(tmp_path / "ran")}, root / "personalive" / "pose_guider.pth")
    with pytest.raises(WeightsError, match="pickles with code are never read"):
        folder.convert(root, tmp_path / "model", TOY)
    for ending in (".pkl", ".pickle", ".pth"):
        path = tmp_path / f"some{ending}"
        path.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
        with pytest.raises(WeightsError, match=r"[Pp]ickles with code are never read"):
            find.open_model(path)
    assert not (tmp_path / "ran").exists()


# The base UNet


def test_the_base_unet_fills_what_the_two_files_leave_open(tmp_path: Path) -> None:
    root = write_published(modules(toy_networks()), tmp_path / "published")
    path = root / "personalive" / "denoising_unet.pth"
    state = torch.load(path, weights_only=True)
    assert official.denoising_gaps(root, TOY) == []
    moved = [key for key in state if key.startswith("conv_in.")]
    torch.save({key: tensor for key, tensor in state.items() if key not in moved}, path)
    assert official.denoising_gaps(root, TOY) == moved
    with pytest.raises(WeightsError, match=r"2 missing \(conv_in"):
        official.load_official_networks(root, TOY)
    base = root / "sd-image-variations-diffusers" / "unet" / "diffusion_pytorch_model.bin"
    base.parent.mkdir()
    wrong = {"conv_out.bias": state["conv_out.bias"] + 1, "of.the.base.only": torch.zeros(1)}
    torch.save({**{key: state[key] for key in moved}, **wrong}, base)
    loaded = official.load_official_networks(root, TOY)
    expected = toy_networks().denoising_unet.state_dict()
    assert all(torch.equal(t, expected[key]) for key, t in loaded.denoising_unet.state_dict().items())


# Names


def test_a_folder_of_either_kind_is_a_model(
    published: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find.open_model(converted).config == TOY
    assert (
        find.open_model(str(converted), dtype=torch.float16).pose_guider.get_parameter("conv_in.bias").dtype
        == torch.float16
    )
    seen: list[Path] = []
    monkeypatch.setattr(find, "load_official_networks", lambda path, *_: seen.append(path))
    find.open_model(published)
    monkeypatch.chdir(published.parent)
    find.open_model("official")
    assert seen == [published, Path("pretrained_weights")]
    with pytest.raises(WeightsError, match="is no model's folder"):
        find.open_model(tmp_path)


def test_official_weights_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match="`personalive download official`"):
        find.open_model("official")
    (tmp_path / "pretrained_weights" / "personalive").mkdir(parents=True)
    (tmp_path / "pretrained_weights" / "personalive" / "denoising_unet.pth").touch()
    with pytest.raises(WeightsError, match=r"lacks .*temporal_module\.pth.* `personalive download official"):
        find.open_model("official")


@pytest.fixture
def hub(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path))
    content = {path.name: path.read_bytes() for path in converted.iterdir()}
    with running(FakeHub({"someone/toy": content, "someone/else": {"README.md": b"?"}}, small={"config.json"})) as hub:
        monkeypatch.setattr(find, "find_source", lambda name: sources.Hub(hub.url))
        yield hub


def test_a_hub_id_is_fetched_once_and_then_offline(hub: FakeHub, converted: Path) -> None:
    fetched = find.open_model("someone/toy")
    here = states(folder.load_folder(converted))
    assert all(torch.equal(t, here[key]) for key, t in states(fetched).items())
    hub.requests.clear()
    find.open_model("someone/toy")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["someone/else", "nobody/nothing"])
def test_a_repository_without_a_model(name: str, hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match=f"{name} is no file and no built-in model, and as a repository: "):
        find.open_model(name)


def test_a_path_is_never_asked_of_the_hub(hub: FakeHub) -> None:
    for name in ("models/mine.safetensors", "a/b/c", "maxi"):
        with pytest.raises(WeightsError, match="no such file"):
            find.open_model(name)
    assert hub.requests == []


def test_no_file_is_larger_than_wanted(tmp_path: Path) -> None:
    networks = toy_networks()
    folder.save_folder(networks, tmp_path / "parts", torch.float32, file_bytes=60_000)
    files = sorted(tmp_path.glob("parts/*.safetensors"))
    assert len(files) > len(names_of(networks.config))
    assert max(path.stat().st_size for path in files) <= 60_000
    same = states(find.open_model(tmp_path / "parts"))
    for key, tensor in states(networks).items():
        assert torch.equal(same[key], tensor), key
    next(path for path in files if "-00002-of-" in path.name).unlink()
    with pytest.raises(WeightsError, match=r"does not fit this network: \d+ missing"):
        find.open_model(tmp_path / "parts")


def test_base_fits_its_files() -> None:
    """62.6 MB, and 8.5 of the reference warp, in files under 16 MB, by the bytes of half precision."""
    networks = modules(build_networks(BASE, "meta"))
    sizes = {name: sum(2 * tensor.numel() for tensor in module.parameters()) for name, module in networks.items()}
    assert sizes.pop("reference_warp") < 9e6
    assert 60e6 < sum(sizes.values()) < 64e6


def test_a_folder_of_a_model_with_a_warp(tmp_path: Path) -> None:
    """One more file, and no rounding to 8 bits: a folder is in one precision."""
    networks = warp_networks()
    folder.save_folder(networks, tmp_path / "warp", torch.float32)
    assert (tmp_path / "warp" / "reference_warp.safetensors").is_file()
    same = find.open_model(tmp_path / "warp")
    assert same.config == networks.config
    theirs = states(same)
    for key, tensor in states(networks).items():
        assert torch.equal(theirs[key], tensor), key


# Damaged folders


def test_a_folder_that_is_not_whole(converted: Path, tmp_path: Path) -> None:
    for path in converted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pose_guider.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pose_guider\.safetensors: no such checkpoint"):
        folder.load_folder(tmp_path)
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "pose_guider.safetensors")
    with pytest.raises(WeightsError, match=r"pose_guider\.safetensors does not fit this network"):
        folder.load_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "is not the configuration"),
        ('{"format": "personalive", "config": {"x": 1}}', "x"),
    ],
)
def test_a_configuration_that_is_wrong(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=problem):
        folder.read_config(tmp_path)


# Production size


@pytest.mark.slow
def test_production_size_from_published_files_to_frames(tmp_path: Path) -> None:
    """12 GB of published files, filled by the goldens' rule -> convert -> from_pretrained -> frames, on the CPU.

    Needs 18 GB of disk; took 16.4 GB of memory at the peak (mapped files counted) and 13 minutes when last run.
    The networks have their production sizes; the pictures are 128 pixels wide (as in the `unet_full` golden), since a
    step at 512 takes a CPU minutes.
    """
    root = tmp_path / "pretrained_weights"
    makers: dict[str, Callable[[], nn.Module]] = {
        "autoencoder": lambda: Autoencoder(OFFICIAL.autoencoder),
        "image_encoder": lambda: ImageEncoder(OFFICIAL.image_encoder),
        "reference_unet": lambda: ReferenceUNet(OFFICIAL.unet),
        "denoising_unet": lambda: DenoisingUNet(OFFICIAL.unet),
        "motion_extractor": lambda: MotionExtractor(OFFICIAL.motion_extractor),
        "motion_encoder": lambda: MotionEncoder(OFFICIAL.motion_encoder),
        "pose_guider": lambda: PoseGuider(OFFICIAL.pose_guider),
    }  # fmt: skip
    for name, make in makers.items():  # one at a time: the machine need not hold two large ones
        module = make()
        if name == "motion_extractor":
            fill_motion_extractor(module)
        elif name not in ("autoencoder", "image_encoder"):  # the goldens have no rows for these: fresh weights
            fill(module, name)
        write_published({name: module}, root)
        del module
    folder.convert(root, tmp_path / "model", override(OFFICIAL, {"image_size": 128}))
    shutil.rmtree(root)
    model = PersonaLive.from_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    frames = model.start(picture(0, 128)).push(pictures(16))
    assert frames.shape == (4, 128, 128, 3)
    assert np.ptp(frames) > 0  # numbers that are none would all become the same colour
