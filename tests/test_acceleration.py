"""Swapped window passes: compiled or exported, the loop computes the same, whatever keyframes are in use."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from command import Command, save_toy
from personalive.acceleration import export
from personalive.acceleration.choice import choose_runtime
from personalive.acceleration.compile import compile_decoder, compile_window
from personalive.acceleration.decoder import decodes_tiny, random_tiny_decoder
from personalive.acceleration.made import read_made
from personalive.acceleration.shapes import Shapes
from personalive.acceleration.swap import SwappedUNet, append, each_session, own_unet, slots_in_use, swap
from personalive.config import SMALL
from personalive.contracts import Keyframes, KeyValues, MotionSignals, Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.pipeline import PersonaLive
from personalive.streaming import engine
from personalive.streaming.state import batch, map_tensors, split, tensors
from personalive.weights.load import build_networks
from toy import picture, pictures, random_signals, started, toy_networks

TAU = {"stream__tau": 0.1}  # everything becomes a keyframe, until the slots are full


class Counting:
    """The UNet's own pass, and with how many keyframes it was called."""

    def __init__(self, networks: Networks) -> None:
        self.unet = own_unet(networks)
        self.calls: list[int] = []
        self.tokens = started(networks).reference.key_values.keys[0].shape[2]

    def __call__(
        self, latents: Any, timesteps: Any, image_token: Any, signals: MotionSignals, shared: KeyValues
    ) -> Any:
        self.calls.append(shared.keys[0].shape[2] // self.tokens - 1)
        return self.unet(latents, timesteps, image_token, signals, shared)


def frames(networks: Networks, count: int = 56) -> np.ndarray[Any, Any]:
    return PersonaLive(networks).start(picture(0)).push(pictures(count))


def test_the_loop_never_notices_and_every_keyframe_is_seen() -> None:
    networks = toy_networks(**TAU)
    counting = Counting(networks)
    got = frames(swap(networks, counting))
    assert np.abs(got.astype(int) - frames(networks)).max() <= 1  # the keys stand in another order of computation
    assert counting.calls == [0] * 10 + [1, 2, 3, 3]


def test_a_pass_for_other_keyframes_is_not_called() -> None:
    networks = toy_networks(**TAU)
    counting = Counting(networks)
    frames(swap(networks, {2: counting}))
    assert counting.calls == [2]


@torch.no_grad()
def test_sessions_that_differ_go_the_unets_own_way() -> None:
    networks = toy_networks(**TAU)
    counting = Counting(networks)
    swapped = swap(networks, counting)
    one, other = started(networks, 0), started(networks, 1)
    slots = one.keyframes
    used = torch.zeros_like(slots.used)
    used[:, 1] = True
    one = dataclasses.replace(one, keyframes=dataclasses.replace(slots, used=used), steps=one.steps + 20)
    both = batch([one, dataclasses.replace(other, steps=other.steps + 20)])
    driving = random_signals(networks.config, networks.config.stream.chunk_frames, 5, sessions=2)
    _, expected = engine.step(networks, both, driving)
    _, got = engine.step(swapped, both, driving)
    assert torch.equal(got, expected)
    assert counting.calls == []


def test_training_goes_the_unets_own_way() -> None:
    networks = toy_networks()
    counting = Counting(networks)
    state = started(networks)
    driving = random_signals(networks.config, networks.config.stream.chunk_frames, 5)
    _, latents = engine.step(swap(networks, counting), state, driving)
    assert counting.calls == []
    assert latents.requires_grad


def test_slots_and_their_keys() -> None:
    used = torch.tensor([[True, False, True]])
    slots = torch.arange(6.0).view(1, 3, 1, 2, 1)
    keyframes = Keyframes(KeyValues((slots,), (slots + 10,)), used)
    own = KeyValues((torch.full((1, 1, 2, 1), 7.0),), (torch.full((1, 1, 2, 1), 8.0),))
    assert slots_in_use(keyframes) == [0, 2]
    joined = append(own, keyframes, [0, 2])
    assert joined.keys[0].flatten().tolist() == [7, 7, 0, 1, 4, 5]
    assert joined.values[0].flatten().tolist() == [8, 8, 10, 11, 14, 15]
    assert slots_in_use(Keyframes(keyframes.key_values, torch.tensor([[True], [False]]))) is None
    assert slots_in_use(None) == []


def test_a_swap_of_a_swap_is_of_the_unet_itself() -> None:
    networks = toy_networks()
    twice = swap(swap(networks, Counting(networks)), Counting(networks))
    assert isinstance(twice.denoising_unet, SwappedUNet)
    assert own_unet(twice) is networks.denoising_unet
    parameters = twice.denoising_unet.parameters()
    assert {id(p) for p in parameters} == {id(p) for p in networks.denoising_unet.parameters()}


@torch.no_grad()
def test_compiled_code_gets_the_strides_that_it_was_made_for() -> None:
    """Alone, in a batch, and after one: a package would read other strides as if they were its own."""
    networks = toy_networks()
    wanted = [tensor.stride() for tensor in export.example(networks, 0)]
    assert wanted == [torch.empty(tensor.shape).stride() for tensor in export.example(networks, 0)]
    unet, seen = own_unet(networks), []

    def one(latents: Any, timesteps: Any, image_token: Any, signals: MotionSignals, shared: KeyValues) -> Any:
        given = (latents, timesteps, image_token, signals.motion, signals.pose, shared)
        seen.append([tensor.stride() for tensor in tensors(given)])
        return unet(latents, timesteps, image_token, signals, shared)

    swapped = swap(networks, each_session(one))
    sessions = [started(networks, 0), started(networks, 1)]
    # As signals.encode_reference makes them: a view whose heads do not lie one after the other.
    assert not sessions[0].reference.key_values.keys[0].is_contiguous()
    driving = random_signals(networks.config, networks.config.stream.chunk_frames, 5, sessions=2)
    alone, _ = engine.step(swapped, sessions[0], driving_of(driving, 0))
    both, _ = engine.step(
        swapped, batch([alone, engine.step(swapped, sessions[1], driving_of(driving, 1))[0]]), driving
    )
    engine.step(swapped, split(both)[0], driving_of(driving, 0))
    assert len(seen) == 5
    assert all(strides == wanted for strides in seen)


def driving_of(driving: MotionSignals, session: int) -> MotionSignals:
    return map_tensors(lambda tensor: tensor[session : session + 1], driving)


def counted_graphs() -> tuple[Any, list[int]]:
    """A compiler that runs graphs as they are, and the number of inputs of each that it was given."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    return backend, graphs


@torch.no_grad()
def test_a_compiled_window_is_one_whole_graph_for_each_number_of_keyframes() -> None:
    torch._dynamo.reset()
    networks, (backend, graphs) = toy_networks(**TAU), counted_graphs()
    compiled = compile_window(networks, backend=backend)
    for keyframes in (0, 2, 0, 2):
        flat, expected = inputs_and_result(networks, keyframes)
        got = compiled.denoising_unet(*flat[:3], MotionSignals(flat[3], flat[4]), shared_of(flat))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 2  # compiled whole, and never again
    first, second = (inputs_and_result(networks, 0, seed) for seed in (3, 4))
    flat = tuple(torch.cat(parts) for parts in zip(first[0], second[0], strict=True))
    got = compiled.denoising_unet(*flat[:3], MotionSignals(flat[3], flat[4]), shared_of(flat))
    torch.testing.assert_close(got, torch.cat([first[1], second[1]]), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 2  # two viewers do not wait for a third graph
    assert torch._dynamo.config.recompile_limit >= 9  # the most keyframes of a model, and none; at 8 torch would raise


@torch.no_grad()
def test_what_a_recorded_pass_gave_stays_when_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs write each result into the memory of the one before."""
    networks = toy_networks(**TAU)
    memory = torch.zeros(())

    def record(window: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
        assert options["mode"] == "reduce-overhead"

        def replay(*given: Any) -> Tensor:
            nonlocal memory
            result = window(*given)
            memory = torch.zeros_like(result) if memory.shape != result.shape else memory
            return memory.copy_(result)

        return replay

    monkeypatch.setattr(torch, "compile", record)
    recorded = compile_window(networks, "reduce-overhead")
    both = [inputs_and_result(networks, 0, seed) for seed in (3, 4)]
    flat = tuple(torch.cat(parts) for parts in zip(*(flat for flat, _ in both), strict=True))
    got = recorded.denoising_unet(*flat[:3], MotionSignals(flat[3], flat[4]), shared_of(flat))
    torch.testing.assert_close(got, torch.cat([expected for _, expected in both]), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_compiled_decoder_has_two_graphs_whatever_it_is_given() -> None:
    torch._dynamo.reset()
    networks, (backend, graphs) = toy_networks(**TAU), counted_graphs()
    compiled = compile_decoder(networks, backend=backend)
    chunk, config = networks.config.stream.chunk_frames, networks.config
    for count in (chunk, 1, chunk - 1, 2 * chunk, 2 * chunk + 1):
        latents = torch.randn(count, config.unet.latent_channels, config.latent_size, config.latent_size)
        expected = networks.autoencoder.decode(latents)
        torch.testing.assert_close(compiled.autoencoder.decode(latents), expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 2
    assert not decodes_tiny(compiled)


def test_a_compiled_tiny_decoder_is_still_the_tiny_one() -> None:
    with torch.device("meta"):
        networks = random_tiny_decoder(build_networks(SMALL))
    assert decodes_tiny(networks)
    assert decodes_tiny(compile_decoder(networks))


# Files


@torch.no_grad()
def inputs_and_result(
    networks: Networks, keyframes: int, seed: int = 3
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    torch.manual_seed(seed)
    flat = export.example(networks, keyframes)
    return flat, export.FlatWindow(own_unet(networks))(*flat)


def test_the_flat_window_is_the_window() -> None:
    networks = toy_networks()
    flat, result = inputs_and_result(networks, 0)
    names = export.input_names(networks)
    assert len(flat) == len(names)
    given = dict(zip(names, flat, strict=True))
    blocks = own_unet(networks).attention_count
    shared = KeyValues(
        tuple(given[f"keys_{block}"] for block in range(blocks)),
        tuple(given[f"values_{block}"] for block in range(blocks)),
    )
    with torch.no_grad():
        expected = own_unet(networks)(
            given["latents"],
            given["timesteps"],
            given["image_token"],
            MotionSignals(given["motion"], given["pose"]),
            shared,
        )
    assert torch.equal(result, expected)
    with pytest.raises(ConfigError, match="this model has 3 keyframe slots, not 4"):
        export.example(networks, 4)


def shared_of(flat: tuple[torch.Tensor, ...]) -> KeyValues:
    blocks = (len(flat) - 5) // 2
    return KeyValues(flat[5 : 5 + blocks], flat[5 + blocks :])


def test_a_package_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "window.pt2").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is no package"):
        export.open_package(tmp_path / "window.pt2", toy_networks())
    with pytest.raises(OutputError, match=r"ends in \.pt2"):
        export.export_package(toy_networks(), tmp_path / "window.so")


@pytest.mark.slow
def test_a_package_compiled_ahead_of_time_computes_the_same(tmp_path: Path) -> None:
    """Needs a C++ compiler, and minutes (sixteen on a busy machine)."""
    networks = toy_networks(stream__keyframes=0)
    accelerated = choose_runtime(networks, "aoti", tmp_path)
    (path,) = tmp_path.glob("*.pt2")
    assert read_made(path).software == f"torch {torch.__version__}"
    assert np.abs(frames(accelerated, 24).astype(int) - frames(networks, 24)).max() <= 1
    by_path = choose_runtime(networks, str(path), tmp_path)
    assert np.array_equal(frames(by_path, 24), frames(accelerated, 24))
    own = copy.deepcopy(own_unet(networks))
    run = export.open_package(path, dataclasses.replace(networks, denoising_unet=own))
    with torch.no_grad():
        flat = export.example(networks, 0)
        own.conv_out.weight.mul_(2)  # the weights are the networks' own, not a copy in the package
        torch.testing.assert_close(run(*flat), export.FlatWindow(own)(*flat), rtol=1e-4, atol=1e-5)


def test_the_command_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_onnx(networks: Networks, path: Path, keyframes: int) -> Path:
        path.write_bytes(bytes(keyframes))
        return path

    monkeypatch.setattr(export, "export_onnx", export_onnx)
    model = save_toy(tmp_path)
    done = Command(capsys)("export", "--model", model, "-o", tmp_path / "a.onnx", "--keyframes", "3")
    assert done.code == 0, done.err
    assert "0.0 MB, 3 keyframes" in done.out
    assert (tmp_path / "a.onnx").stat().st_size == 3
    assert "ends in .onnx" in Command(capsys)("export", "--model", model, "-o", tmp_path / "a.pt2").err
    assert "no export to 'jpeg'" in Command(capsys)("export", "--to", "jpeg", "-o", tmp_path / "a.onnx").err


def test_random_shapes_are_what_the_networks_take() -> None:
    networks = toy_networks()
    reference, slots = Shapes(networks.config, torch.float32, "cpu").reference(networks)
    made = started(networks)
    assert [t.shape for t in reference.key_values.keys] == [t.shape for t in made.reference.key_values.keys]
    assert [t.shape for t in slots.key_values.values] == [t.shape for t in made.keyframes.key_values.values]
