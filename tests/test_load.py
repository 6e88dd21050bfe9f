"""Checkpoints: round trips, official files, and every way in which a file can be the wrong one."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from personalive.config import OFFICIAL, SMALL, TOY, override
from personalive.contracts import Networks
from personalive.errors import OutputError, PersonaLiveError, WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.models.image_encoder import ImageEncoder
from personalive.models.pose_guider import PoseGuider
from personalive.plain_data import to_json
from personalive.weights import load, official
from personalive.weights.compact import COMPACT, LEVELS, SCALE, compacted, expanded
from personalive.weights.idle import idle_entries
from personalive.weights.manifest import NETWORKS
from toy import warp_networks


@pytest.fixture(scope="module")
def toy() -> Networks:
    torch.manual_seed(0)
    return load.build_networks(TOY)


@pytest.fixture(scope="module")
def checkpoint(toy: Networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    load.save_networks(toy, path, description="a toy")
    return path


def guider() -> PoseGuider:
    return PoseGuider(TOY.pose_guider)


def states(networks: Networks) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, module in load.modules(networks).items()
        for key, tensor in module.state_dict().items()
    }


# Our own checkpoints


def test_networks_are_built_in_evaluation_mode_on_real_memory(toy: Networks) -> None:
    assert set(load.modules(toy)) == {
        "autoencoder", "image_encoder", "reference_unet", "denoising_unet",
        "motion_extractor", "motion_encoder", "pose_guider",
    }  # fmt: skip
    for module in load.modules(toy).values():
        assert not any(part.training for part in module.modules())
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


def test_round_trip_in_single_precision_is_exact(toy: Networks, tmp_path: Path) -> None:
    path = tmp_path / "exact.safetensors"
    load.save_networks(toy, path, dtype=torch.float32)
    loaded = load.load_networks(path)
    assert loaded.config == TOY
    ours, theirs = states(toy), states(loaded)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours.keys() - idle(toy))


def idle(networks: Networks) -> set[str]:
    return {f"{name}.{key}" for name, module in load.modules(networks).items() for key in idle_entries(module)}


def test_round_trip_in_half_precision(toy: Networks, checkpoint: Path) -> None:
    loaded = load.load_networks(checkpoint)
    parameters = {f"{name}.{key}" for name, module in load.modules(toy).items() for key, _ in module.named_parameters()}
    theirs = states(loaded)
    for key, tensor in states(toy).items():
        if key in idle(toy):
            continue
        expected = tensor.detach().half().float() if key in parameters else tensor  # buffers keep their precision
        if key.startswith(COMPACT) and tensor.dim() == 4:
            assert_rounded(theirs[key], expected)
        else:
            assert torch.equal(theirs[key], expected), key
    for name, module in load.modules(loaded).items():
        assert not any(part.training for part in module.modules()), name
        assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]), name
        assert all(p.requires_grad for p in module.parameters()), name


def assert_rounded(found: Tensor, kernel: Tensor) -> None:
    """Found is the kernel (O, I, h, w) to half a step of 1/127 of the largest number of each output."""
    step = kernel.abs().amax((1, 2, 3), keepdim=True) / 127
    assert float(((found - kernel).abs() - 0.501 * step).max()) <= 1e-7


def test_a_warps_checkpoint_is_compact_and_near(tmp_path: Path) -> None:
    """Kernels of the networks that bear it take a byte; the head mesh is the same to the bit; the rest is half."""
    networks = warp_networks()
    path, exact = tmp_path / "warp.safetensors", tmp_path / "exact.safetensors"
    load.save_networks(networks, path)
    load.save_networks(networks, exact, torch.float32)
    stored = load_file(path)
    assert {tensor.dtype for key, tensor in stored.items() if key.endswith(LEVELS)} == {torch.int8}
    assert all(key.removesuffix(LEVELS) + SCALE in stored for key in stored if key.endswith(LEVELS))
    loaded, same, ours = states(load.load_networks(path)), states(load.load_networks(exact)), states(networks)
    assert loaded.keys() == same.keys() == ours.keys()
    compact = [key for key, tensor in ours.items() if key.startswith(COMPACT) and tensor.dim() == 4]
    assert {key.split(".")[1] for key in compact if key.startswith("reference_warp")} == {
        "landmarks", "surface", "compositor",
    }  # fmt: skip
    for key, tensor in ours.items():
        if key in idle(networks):
            continue
        assert torch.equal(same[key], tensor), key
        if key in compact:
            assert_rounded(loaded[key], tensor.half().float())
        else:
            torch.testing.assert_close(loaded[key], tensor, rtol=1e-3, atol=1e-6)
        if ".mesh." in key:
            assert torch.equal(loaded[key], tensor), key


@given(st.integers(0, 2**31), st.integers(1, 5), st.floats(-4, 3))
def test_compact_kernels_are_within_half_a_step(seed: int, outputs: int, decades: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (decades + torch.rand(outputs, 1, 1, 1, generator=generator))
    kernel = torch.randn(outputs, 3, 3, 3, generator=generator) * sizes
    kernel[0] *= float(torch.rand((), generator=generator) > 0.2)  # an output may be all zeros
    given_ = {"reference_unet.a.weight": kernel, "reference_unet.a.bias": kernel[:, 0, 0, 0], "pose_guider.b": kernel}
    stored = compacted(given_)
    assert stored.keys() == {
        "reference_unet.a.weight" + LEVELS, "reference_unet.a.weight" + SCALE, "reference_unet.a.bias", "pose_guider.b",
    }  # fmt: skip
    back = expanded(stored)
    assert back.keys() == given_.keys()
    assert_rounded(back["reference_unet.a.weight"], kernel)
    assert torch.equal(back["pose_guider.b"], kernel)


def test_half_of_a_compact_kernel_is_named(tmp_path: Path) -> None:
    path = tmp_path / "warp.safetensors"
    load.save_networks(warp_networks(), path)
    stored = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    lost = next(key for key in stored if key.endswith(SCALE))
    del stored[lost]
    save_file(stored, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"1 missing .*1 foreign") as error:
        load.load_networks(path)
    one_line(error)


def test_a_file_of_an_earlier_version_is_refused_with_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """The built-in model before the reference warp: its configuration says nothing of one."""
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    del config["warp"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(checkpoint), old, metadata={**metadata, "config": json.dumps(config)})
    with pytest.raises(
        WeightsError, match=r"not of this version: config: no warp: it was made by another version"
    ) as e:
        load.load_networks(old)
    one_line(e)


def test_tables_that_are_in_no_checkpoint_are_there_after_loading(toy: Networks, checkpoint: Path) -> None:
    loaded = load.load_networks(checkpoint)
    for name, module in load.modules(toy).items():
        theirs = dict(load.modules(loaded)[name].named_buffers())
        for key, buffer in module.named_buffers():
            assert torch.equal(buffer, theirs[key]), f"{name}.{key}"


def test_loaded_networks_compute_the_same(toy: Networks, tmp_path: Path) -> None:
    load.save_networks(toy, tmp_path / "toy.safetensors", dtype=torch.float32)
    loaded = load.load_networks(tmp_path / "toy.safetensors")
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.motion_encoder(images), toy.motion_encoder(images))
        angles = loaded.motion_extractor(images).angles, toy.motion_extractor(images).angles
        torch.testing.assert_close(*angles, rtol=0, atol=1e-3)
        torch.testing.assert_close(loaded.autoencoder.encode(images), toy.autoencoder.encode(images))
        torch.testing.assert_close(loaded.image_encoder(images), toy.image_encoder(images))


def test_precision_is_a_choice_of_the_reader(checkpoint: Path) -> None:
    loaded = load.load_networks(checkpoint, dtype=torch.float16)
    assert {p.dtype for module in load.modules(loaded).values() for p in module.parameters()} == {torch.float16}


def test_the_file_says_what_it_is(checkpoint: Path) -> None:
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "personalive"
    assert metadata["description"] == "a toy"
    assert json.loads(metadata["config"])["name"] == "toy"


def test_official_networks_are_built_without_memory() -> None:
    official = load.build_networks(OFFICIAL, "meta", torch.float16)
    assert all(p.is_meta and p.dtype == torch.float16 for m in load.modules(official).values() for p in m.parameters())


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    toy: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old one")

    def full(tensors: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(load, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        load.save_networks(toy, path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_output_error(toy: Networks, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        load.save_networks(toy, tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_values_that_half_precision_has_not_are_refused(value: float, tmp_path: Path) -> None:
    networks = load.build_networks(TOY)
    with torch.no_grad():
        networks.pose_guider.get_parameter("conv_in.bias")[1] = value
    with pytest.raises(WeightsError, match=r"pose_guider\.conv_in\.bias"):
        load.save_networks(networks, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


# Wrong files


def one_line(error: pytest.ExceptionInfo[WeightsError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint") as error:
        load.load_networks(tmp_path / "none.safetensors")
    one_line(error)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder: give the checkpoint file"):
        load.load_networks(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_cut_file(kept: int, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(checkpoint.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="not a whole safetensors file") as error:
        load.load_networks(path)
    one_line(error)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".safetensors", ".pth", ".bin"]))
def test_noise_is_always_one_clear_error(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(data)
    with pytest.raises(PersonaLiveError) as error:
        official.load_official(guider(), path)
    assert str(path) in one_line(error)  # type: ignore[arg-type]


def test_a_foreign_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="no PersonaLive configuration"):
        load.load_networks(path)


def test_a_configuration_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "future.safetensors"
    data = json.loads(to_json(TOY))
    data["quantum"] = True
    save_file({"w": torch.zeros(2)}, path, metadata={"format": "personalive", "config": json.dumps(data)})
    with pytest.raises(WeightsError, match="unknown key quantum"):
        load.load_networks(path)


def test_every_offending_entry_is_counted_and_the_first_are_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    del tensors["pose_guider.conv_in.bias"], tensors["pose_guider.conv_in.weight"]
    tensors["pose_guider.surprise"] = torch.zeros(1)
    tensors["motion_encoder.final_proj.bias"] = torch.zeros(3, 4)
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path, metadata={"format": "personalive", "config": to_json(TOY)})
    with pytest.raises(WeightsError) as error:
        load.load_networks(path)
    message = one_line(error)
    assert "2 missing (pose_guider.conv_in.weight, pose_guider.conv_in.bias)" in message
    assert "1 foreign (pose_guider.surprise)" in message
    assert "1 of the wrong size (motion_encoder.final_proj.bias is 3x4, not 32)" in message


def test_weights_of_another_size(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "size.safetensors"
    wider = override(TOY, {"pose_guider.channels": (4, 4, 8, 12)})
    save_file(load_file(checkpoint), path, metadata={"format": "personalive", "config": to_json(wider)})
    with pytest.raises(WeightsError, match=r"4 of the wrong size|3 of the wrong size"):
        load.load_networks(path)


def test_a_module_is_untouched_by_a_refused_file() -> None:
    module = guider()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    tensors = {key: tensor + 1 for key, tensor in before.items() if key != "conv_in.bias"}
    with pytest.raises(WeightsError, match="1 missing"):
        load.load_state(module, tensors, "a file")
    assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)


# Official files


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_official_files_of_every_kind(suffix: str, wrapped: bool, tmp_path: Path) -> None:
    source, target = guider(), guider()
    path = tmp_path / f"pose_guider{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": source.state_dict(), "epoch": 3} if wrapped else source.state_dict(), path)
    official.load_official(target, path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_computed_tables_may_be_absent() -> None:
    networks = load.build_networks(TOY)
    tensors = networks.motion_extractor.state_dict()
    del tensors["idx_tensor"]
    load.load_state(networks.motion_extractor, tensors, "a file")
    assert networks.motion_extractor.idx_tensor.tolist() == list(range(66))


def test_half_precision_files_keep_the_networks_own_precision(tmp_path: Path) -> None:
    target = guider()
    torch.save({key: t.half() for key, t in guider().state_dict().items()}, tmp_path / "half.pth")
    official.load_official(target, tmp_path / "half.pth")
    assert {p.dtype for p in target.parameters()} == {torch.float32}


class Trap:
    """What a malicious pickle does when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt", ".ckpt"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_code_is_refused_and_not_run(suffix: str, kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it-ran", tmp_path / f"model{suffix}"
    trap = {"conv_in.bias": Trap(mark)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"more than tensors .* refused") as error:
        official.load_official(guider(), path)
    assert "weights_only" not in one_line(error)  # torch's own text advises to run it
    assert not mark.exists()
    with pytest.raises(WeightsError):
        load.load_networks(path)
    assert not mark.exists()


def test_the_trap_is_one(tmp_path: Path) -> None:
    """The test above can fail: the same file read carelessly does create the mark."""
    torch.save({"a": Trap(tmp_path / "it-ran")}, tmp_path / "model.pth")
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "it-ran").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        official.load_official(guider(), tmp_path / "module.pth")


def test_entries_that_are_no_tensors(tmp_path: Path) -> None:
    torch.save({**guider().state_dict(), "note": "hello"}, tmp_path / "notes.pth")
    with pytest.raises(WeightsError, match=r"no tensors: 1 .*note"):
        official.load_official(guider(), tmp_path / "notes.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_pickles_that_are_no_table(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="not a table of tensors"):
        official.load_official(guider(), tmp_path / "list.pth")


def test_an_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"ends in \.safetensors, \.pth"):
        official.load_official(guider(), tmp_path / "model.onnx")


def test_the_file_of_another_network(toy: Networks, tmp_path: Path) -> None:
    torch.save(toy.motion_encoder.state_dict(), tmp_path / "motion_encoder.pth")
    with pytest.raises(WeightsError, match=r"16 missing \(conv_in.weight.*foreign") as error:
        official.load_official(guider(), tmp_path / "motion_encoder.pth")
    assert len(one_line(error)) < 600


def test_an_autoencoder_file_with_the_older_attention_names(tmp_path: Path) -> None:
    source, target = Autoencoder(SMALL.autoencoder), Autoencoder(SMALL.autoencoder)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for key, tensor in source.model.state_dict().items():
        for new, old in names.items():
            key = key.replace(new, old)
        tensors[key] = tensor
    assert sum(".query." in key for key in tensors) == 4
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    official.load_official(target, tmp_path / "diffusion_pytorch_model.bin")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_an_image_encoder_file_of_an_older_library(tmp_path: Path) -> None:
    source, target = ImageEncoder(TOY.image_encoder), ImageEncoder(TOY.image_encoder)
    tensors = {**source.model.state_dict(), "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    official.load_official(target, tmp_path / "pytorch_model.bin")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def split(networks: Networks, folder: Path) -> tuple[Path, Path]:
    """The denoising UNet as two files, by whether an entry belongs to the temporal modules."""
    state = networks.denoising_unet.state_dict()
    temporal = {key: tensor for key, tensor in state.items() if "temporal" in key}
    assert temporal
    torch.save({key: tensor for key, tensor in state.items() if key not in temporal}, folder / "denoising_unet.pth")
    torch.save(temporal, folder / "temporal_module.pth")
    return folder / "denoising_unet.pth", folder / "temporal_module.pth"


def test_the_two_files_of_the_denoising_unet(toy: Networks, tmp_path: Path) -> None:
    first, second = split(toy, tmp_path)
    fresh = load.build_networks(TOY, "meta").denoising_unet
    official.load_official_denoising(fresh, first, second)
    ours = toy.denoising_unet.state_dict()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in fresh.state_dict().items())
    with pytest.raises(WeightsError, match="missing"):
        official.load_official_denoising(fresh, first, first)
    with pytest.raises(WeightsError, match="missing"):
        official.load_official(fresh, first)


def official_folder(networks: Networks, folder: Path) -> Path:
    """A folder in the published layout."""
    for name, module in load.modules(networks).items():
        if name == "denoising_unet":
            continue
        path = folder / NETWORKS[name].places[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        inner = module.get_submodule("model") if name in ("autoencoder", "image_encoder") else module
        torch.save(inner.state_dict(), path)
    split(networks, folder / "personalive")
    return folder


def test_a_folder_in_the_published_layout(toy: Networks, tmp_path: Path) -> None:
    loaded = official.load_official_networks(official_folder(toy, tmp_path), TOY)
    ours, theirs = states(toy), states(loaded)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    (tmp_path / "personalive" / "motion_encoder.pth").unlink()
    with pytest.raises(WeightsError, match=r"lacks personalive/motion_encoder\.pth: `personalive download"):
        official.load_official_networks(tmp_path, TOY)


# Names


def test_a_path_is_found(checkpoint: Path) -> None:
    assert load.find_model(checkpoint) == checkpoint
    assert load.find_model(str(checkpoint)) == checkpoint


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"maxi: no such file, and no built-in model \(known: mini\)"):
        load.find_model("maxi")


def test_the_built_in_model_is_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path / package)
    with pytest.raises(WeightsError, match="not in this installation"):
        load.find_model("mini")
    asset = tmp_path / "personalive" / "assets" / "mini.safetensors"
    asset.parent.mkdir(parents=True)
    asset.touch()
    assert load.find_model("mini") == asset
