"""The tiny decoder: the published architecture, its files in both layouts, fetched, found, and put in its place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from command import Command, save_toy
from fake_hub import FakeHub, running
from personalive.acceleration.decoder import SwappedDecoder, decodes_tiny, random_tiny_decoder, swap_decoder
from personalive.config import MINI, OFFICIAL, TOY
from personalive.errors import ConfigError, WeightsError
from personalive.models.tiny_decoder import TinyDecoder
from personalive.pipeline import PersonaLive
from personalive.weights import find
from personalive.weights.load import save_networks
from personalive.weights.tiny import find_decoder, load_tiny_decoder
from toy import picture, pictures, toy_networks


def whole_autoencoder() -> Any:
    """diffusers' own, random, in the size of the published file."""
    torch.manual_seed(0)
    autoencoder: Any = AutoencoderTiny()  # type: ignore[no-untyped-call]
    return autoencoder.eval()


@pytest.fixture(scope="module")
def reference() -> Any:
    return whole_autoencoder()


def original_names(autoencoder: Any) -> dict[str, Tensor]:
    """As in taesd_decoder.safetensors: the steps are counted from the bending of the latents."""
    named = {}
    for key, tensor in autoencoder.decoder.layers.state_dict().items():
        step, _, rest = key.partition(".")
        named[f"{int(step) + 1}.{rest}"] = tensor
    return named


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither a folder of weights nor a cache from outside of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("layout", ["original", "whole", "float16"])
def test_it_computes_what_the_published_one_does(layout: str, reference: Any, tmp_path: Path) -> None:
    tensors = original_names(reference) if layout == "original" else dict(reference.state_dict())
    if layout == "float16":
        tensors = {key: tensor.half() for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "some.safetensors")
    decoder = load_tiny_decoder(tmp_path / "some.safetensors", "cpu", torch.float32)
    latents = 4 * torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = (reference.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        got = decoder(latents)
    assert got.shape == (2, 3, 48, 48)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-3 if layout == "float16" else 1e-6)
    assert expected.std() > 0.01  # pictures with something in them, not all clipped


def test_entries_are_checked_by_name(reference: Any, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    names = original_names(reference)
    del names["1.bias"]
    save_file({**names, "surprise": torch.zeros(1), "4.conv.0.bias": torch.zeros(3)}, path)
    with pytest.raises(WeightsError) as error:
        load_tiny_decoder(path, "cpu", torch.float32)
    assert sorted(error.value.details) == [
        "foreign surprise", "layers.3.conv.0.bias is 3, not 64", "missing layers.0.bias",
    ]  # fmt: skip
    save_file({**reference.state_dict(), "surprise": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"foreign \(surprise\)"):
        load_tiny_decoder(path, "cpu", torch.float32)


def test_a_decoder_is_found_by_name_or_path(elsewhere: Path) -> None:
    assert find_decoder("vae", MINI.autoencoder) is None
    with pytest.raises(WeightsError, match="`personalive download taesd`"):
        find_decoder("taesd", OFFICIAL.autoencoder)
    with pytest.raises(WeightsError, match=r"mine\.safetensors: no such decoder"):
        find_decoder("mine.safetensors", OFFICIAL.autoencoder)
    with pytest.raises(ConfigError, match="this model has another one: take --decoder vae"):
        find_decoder("taesd", MINI.autoencoder)
    for folder in ("home/pretrained_weights", "model"):  # the one beside the model counts first
        path = elsewhere / folder / "taesd" / "diffusion_pytorch_model.safetensors"
        path.parent.mkdir(parents=True)
        path.touch()
        assert find_decoder("taesd", OFFICIAL.autoencoder, Path("model")) in (path, path.relative_to(elsewhere))
    Path("mine.safetensors").touch()
    assert find_decoder("mine.safetensors", OFFICIAL.autoencoder) == Path("mine.safetensors")


def test_downloaded_it_decodes_a_models_frames(
    reference: Any, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Licence, fetching from a hub on this machine, and frames that are the tiny decoder's, not the model's own."""
    content = {"taesd_decoder.safetensors": save(original_names(reference)), "README.md": b"not wanted"}
    with running(FakeHub({"madebyollin/taesd": content}, licence="mit")) as hub:
        done = Command(capsys)("download", "taesd", "--from", hub.url)
    assert done.code == 0, done.err
    assert 'licence  madebyollin/taesd: MIT; the hub says "mit"' in done.out
    assert "fetch    taesd/taesd_decoder.safetensors: 4.9 MB" in done.out
    networks = toy_networks()
    save_networks(networks, "toy.safetensors", torch.float32)
    model = PersonaLive.from_pretrained("toy.safetensors", "cpu", decoder="taesd")
    file = find_decoder("taesd", TOY.autoencoder)
    assert file is not None
    expected = swap_decoder(networks, load_tiny_decoder(file, "cpu", torch.float32))
    got = model.start(picture(0)).push(pictures(20))
    assert np.array_equal(got, PersonaLive(expected).start(picture(0)).push(pictures(20)))
    assert not np.array_equal(got, PersonaLive(networks).start(picture(0)).push(pictures(20)))


def test_only_the_pictures_change() -> None:
    """Encoding, the loop and the parameters that others look for are the model's own."""
    networks = toy_networks()
    swapped = random_tiny_decoder(networks)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(swapped.autoencoder.encode(images), networks.autoencoder.encode(images))
    encoder = swapped.autoencoder.get_submodule("model.encoder")
    assert encoder is networks.autoencoder.get_submodule("model.encoder")
    latents = [PersonaLive(n).start(picture(0)) for n in (networks, swapped)]
    for stream in latents:
        stream.push(pictures(8))
    ours, theirs = (stream._state for stream in latents)
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours.latents, theirs.latents)
    again = random_tiny_decoder(swapped)
    assert isinstance(again.autoencoder, SwappedDecoder)
    assert again.autoencoder.autoencoder is networks.autoencoder
    assert decodes_tiny(swapped)
    assert not decodes_tiny(networks)
    assert not decodes_tiny(swap_decoder(networks, networks.autoencoder)), "another runtime's decoder is not tiny"
    with pytest.raises(ConfigError, match="does not fit the latents of mini"):
        random_tiny_decoder(dataclasses.replace(networks, config=MINI))


def test_operations() -> None:
    """Four frames of 512x512: the figures of docs/performance.md."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder = TinyDecoder()
        decoder(torch.empty(4, 4, 64, 64))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 1_222_531
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.565, abs=0.001)  # the autoencoder's: 10.058


def test_commands_take_a_decoder(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, model = Command(capsys), save_toy(elsewhere)
    asked = ("bench", "speed", "--random", "toy", "--decoder", "taesd", "--chunks", "1", "--device", "cpu", "--json")
    done = command(*asked)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["note"] == "random weights, decoder taesd"
    # Of a picture of 32 pixels it is a 256th of the work on 512.
    assert report["tflop"]["decode"] == pytest.approx(0.5654 / 256, rel=1e-3)
    assert "--decoder is vae or taesd" in command("bench", "speed", "--random", "toy", "--decoder", "x").err
    absent = command("bench", "speed", "--model", model, "--decoder", "taesd", "--device", "cpu")
    assert (absent.code, absent.err) == (
        1,
        "error: the tiny decoder is not on this machine: `personalive download taesd` (some MB)\n",
    )
