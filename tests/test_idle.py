from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from personalive.errors import WeightsError
from personalive.streaming import engine
from personalive.weights.idle import idle_entries
from personalive.weights.load import build_networks, load_networks, modules, save_networks, write_tensors
from personalive.weights.tensors import read_safetensors
from toy import picture, random_signals, reference, started, toy_networks


def test_no_result_depends_on_what_is_left_out() -> None:
    """The idle entries are replaced by noise; portrait, window and motion stay as they were, to the bit."""
    networks = toy_networks()
    noisy = build_networks(networks.config)
    for ours, theirs in zip(modules(networks).values(), modules(noisy).values(), strict=True):
        state = ours.state_dict()
        for key, tensor in idle_entries(ours).items():
            if not key.endswith(".pe"):
                assert tensor.shape == state[key].shape
                state[key] = torch.randn(tensor.shape)
        theirs.load_state_dict(state)
    results = []
    for nets in (networks, noisy):
        features, observation = reference(nets)
        with torch.no_grad():
            _, latents = engine.step(
                nets, started(nets), random_signals(nets.config, nets.config.stream.chunk_frames, 1)
            )
        results.append((*features.key_values.keys, *features.key_values.values, observation.head.angles, latents))
    assert len(idle_entries(nn.ModuleDict(modules(networks)))) > 10
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_file_without_them_gives_the_same_pictures(tmp_path: Path) -> None:
    networks = toy_networks()
    path = tmp_path / "toy.safetensors"
    save_networks(networks, path, torch.float32)
    stored = set(read_safetensors(path)[0])
    idle = {f"{n}.{key}" for n, module in modules(networks).items() for key in idle_entries(module)}
    assert not stored & idle
    again = load_networks(path)
    for nets in (networks, again):
        assert not any(tensor.is_meta for module in modules(nets).values() for tensor in module.state_dict().values())
    features, theirs = reference(networks, 3)[0], reference(again, 3)[0]
    assert torch.equal(features.key_values.keys[-1], theirs.key_values.keys[-1])
    encodings = {k: v for k, v in networks.denoising_unet.state_dict().items() if k.endswith(".pe")}
    assert encodings
    assert all(torch.equal(v, again.denoising_unet.state_dict()[k]) for k, v in encodings.items())
    assert picture(3).any()


def test_anything_else_must_be_there(tmp_path: Path) -> None:
    networks = toy_networks()
    path = tmp_path / "toy.safetensors"
    save_networks(networks, path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = read_safetensors(path)[0]
    del tensors["denoising_unet.conv_in.weight"]
    write_tensors(tensors, path, metadata)
    with pytest.raises(WeightsError, match="conv_in"):
        load_networks(path)
