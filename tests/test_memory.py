"""The memory plan: its counting against what is known exactly, its choices, and the hooks that carry a policy out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from personalive.acceleration import memory, offload
from personalive.acceleration.memory import choose_policy, make_plan, peak_of
from personalive.acceleration.offload import IN_PLACE, PARTS, PRESETS, Policy
from personalive.config import OFFICIAL, TOY, override
from personalive.errors import ConfigError
from personalive.pipeline import PersonaLive
from personalive.streaming.state import tensors
from personalive.warp.compose import read_portrait
from personalive.weights.load import build_networks, modules
from toy import picture, pictures, reference, toy_networks, warp_networks

GB = 10**9
OFFICIAL_PARAMETERS = {
    "autoencoder": 83_653_863,
    "image_encoder": 303_966_208,
    "reference_unet": 859_508_800,
    "denoising_unet": 1_684_818_244,
    "motion_extractor": 28_118_728,
    "motion_encoder": 61_628_209,
    "pose_guider": 1_086_480,
}
OFFICIAL_PEAKS = {"24GB": 9.54, "12GB": 7.25, "8GB": 5.69}  # docs/performance.md
if sys.version_info < (3, 11):  # it lets go of some tensors later
    OFFICIAL_PEAKS |= {"24GB": 9.58, "12GB": 7.29}


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="meta")


# Counting


def test_what_is_alive_at_a_time_is_counted_once() -> None:
    x = meta(100)

    def chain() -> Tensor:
        y = x + 1  # 400 bytes
        z = y + 1  # 400 more; both alive
        del y
        return z.view(10, 10) + 1  # a view is no memory; z and the sum are alive

    assert peak_of(chain, (x,)) == 800
    assert peak_of(lambda: x.view(10, 10).transpose(0, 1), (x,)) == 0
    assert peak_of(lambda: x.mul_(2), (x,)) == 0
    assert peak_of(lambda: x.double(), (x,)) == 800


def test_attention_is_counted_as_fused() -> None:
    q, k = meta(1, 2, 50, 8), meta(1, 2, 5000, 8)
    assert peak_of(lambda: functional.scaled_dot_product_attention(q, k, k), (q, k)) == q.numel() * 4
    assert peak_of(lambda: (q @ k.transpose(-1, -2)).softmax(-1) @ k, (q, k)) > 2 * 50 * 5000 * 4  # the test can fail


def test_a_layer_chain_holds_two_activations() -> None:
    net = nn.Sequential(*(nn.Linear(64, 64, device="meta") for _ in range(5)))
    held = (x := meta(1000, 64), *net.parameters())
    assert peak_of(lambda: net(x), held) == 2 * 1000 * 64 * 4


# The plan


@pytest.fixture(scope="module")
def toy_plan() -> memory.MemoryPlan:
    return make_plan(TOY, torch.float32)


def test_the_weights_are_all_there(toy_plan: memory.MemoryPlan) -> None:
    networks = build_networks(TOY)
    assert sum(toy_plan.weights.values()) == sum(memory.parameter_bytes(m) for m in modules(networks).values())
    assert set(toy_plan.weights) == set(PARTS) - {"reference_warp"}


def test_a_reference_warp_is_planned_too(toy_plan: memory.MemoryPlan) -> None:
    """Its weights, what it keeps of a portrait, and what it computes: once a portrait, before and after each chunk."""
    networks = warp_networks()
    plan = make_plan(networks.config, torch.float32)
    assert set(plan.weights) == set(PARTS)
    assert sum(plan.weights.values()) == sum(memory.parameter_bytes(m) for m in modules(networks).values())
    assert set(plan.activations) == set(memory.USES)
    assert set(plan.activations) - set(toy_plan.activations) == {"surface", "driver", "warp", "compose"}
    assert set(plan.caches) - set(toy_plan.caches) == {"portrait"}
    with torch.inference_mode():
        _, seen = reference(networks)
        layers = read_portrait(networks, picture(0), seen)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors(layers))
    integers = 8 * 8  # the numbers of the glances
    assert abs(plan.caches["portrait"] - kept) <= integers
    assert {name: plan.activations[name] for name in toy_plan.activations} == toy_plan.activations
    larger = make_plan(override(networks.config, {"warp.output_size": 128}), torch.float32)
    assert larger.activations["compose"] > 2 * plan.activations["compose"]
    assert larger.activations["decode"] == plan.activations["decode"]
    assert any(line.split()[:2] == ["weights", "reference_warp"] for line in plan.lines())


def test_precision_and_keyframes_are_seen(toy_plan: memory.MemoryPlan) -> None:
    half = make_plan(TOY, torch.float16)
    assert half.weights["denoising_unet"] * 2 == toy_plan.weights["denoising_unet"]
    assert half.activations["window"] < toy_plan.activations["window"]
    none, one = (make_plan(TOY, torch.float32, keyframes=count) for count in (0, 1))
    assert none.caches["keyframes"] == 0
    assert one.caches["keyframes"] * TOY.stream.keyframes == toy_plan.caches["keyframes"]
    assert none.activations["window"] < one.activations["window"] < toy_plan.activations["window"]


def test_a_part_that_leaves_counts_where_it_computes(toy_plan: memory.MemoryPlan) -> None:
    away = dataclasses.replace(toy_plan, policy=Policy("test", ("reference_unet",), beside=True))
    assert away.at("reference") == toy_plan.at("reference")
    assert toy_plan.at("window") - away.at("window") == toy_plan.weights["reference_unet"]
    assert toy_plan.peak == max(toy_plan.at(stage) for stage in toy_plan.activations)


def test_every_part_computes_somewhere() -> None:
    assert {part for parts in memory.USES.values() for part in parts} == set(PARTS)
    with pytest.raises(ConfigError, match="there is no part heart"):
        Policy("wrong", ("heart",))


def test_the_official_model_has_the_published_sizes() -> None:
    """Counted from the meta device: denoising UNet 1,685 M and reference UNet 860 M parameters, published for both."""
    networks = build_networks(OFFICIAL, "meta")
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules(networks).items()}
    assert counts == OFFICIAL_PARAMETERS


def test_the_presets_of_the_official_model() -> None:
    plans = {name: make_plan(OFFICIAL, torch.float16, policy) for name, policy in PRESETS.items()}
    peaks = {name: plan.peak / GB for name, plan in plans.items()}
    assert peaks["8GB"] < peaks["12GB"] < peaks["24GB"]
    assert plans["8GB"].peak + memory.RESERVE < 8 * 2**30
    assert plans["12GB"].peak + memory.RESERVE < 12 * 2**30
    assert {name: round(peak, 2) for name, peak in peaks.items()} == OFFICIAL_PEAKS


# Choosing


def test_the_first_preset_that_fits_is_chosen() -> None:
    peaks = {name: make_plan(TOY, torch.float16, policy).peak for name, policy in PRESETS.items()}

    def chosen(free: int, *presets: str) -> str:
        policies = [PRESETS[name] for name in presets or PRESETS]
        return choose_policy(TOY, torch.float16, free, policies, reserve=0).policy.name

    assert chosen(peaks["24GB"]) == "24GB"
    assert chosen(peaks["24GB"] - 1) == "12GB"
    assert chosen(peaks["24GB"], "8GB") == "8GB"
    with pytest.raises(ConfigError, match=r"the model needs .* GB \(8GB, float16\), but 0\.0 GB are free"):
        chosen(1000)
    with pytest.raises(ConfigError, match="half precision, fewer keyframes"):
        choose_policy(TOY, torch.float32, 0, reserve=0)


def test_a_chunk_that_is_decoded_beside_the_next_one_takes_the_memory_of_both(toy_plan: memory.MemoryPlan) -> None:
    alone = dataclasses.replace(toy_plan, policy=Policy("test"))
    assert toy_plan.policy.beside
    for stage in ("window", "motion", "pose", "reference"):
        assert toy_plan.at(stage) == alone.at(stage) + toy_plan.activations["decode"]
    for stage in ("image token", "encode", "decode"):
        assert toy_plan.at(stage) == alone.at(stage)


def test_the_plan_reads_as_a_table(toy_plan: memory.MemoryPlan) -> None:
    lines = list(toy_plan.lines())
    assert lines[0].startswith("memory plan (24GB): 0.00 GB at the peak")
    assert len(lines) == 1 + len(toy_plan.weights) + 3 + len(toy_plan.activations)
    assert len(lines) == 1 + (len(PARTS) - 1) + 3 + (len(memory.USES) - 4)  # without a reference warp


def test_the_cpus_free_memory_is_known_here() -> None:
    free = memory.free_memory(torch.device("cpu"))
    if Path("/proc/meminfo").exists():
        assert free is not None
        assert 2**20 < free < 2**50
    assert memory.free_memory(torch.device("meta")) is None


def test_only_a_large_model_is_planned_and_it_is_told_before() -> None:
    told: list[str] = []
    cpu = torch.device("cpu")
    assert memory.fit(TOY, 1000, cpu, tell=told.append) == memory.Fit(torch.float32, IN_PLACE)
    assert told == []
    fitted = memory.fit(TOY, memory.LARGE, cpu, torch.float16, "8GB", told.append)
    assert fitted == memory.Fit(torch.float16, IN_PLACE)  # nothing can leave a CPU
    assert told[0].startswith("memory plan (all in place)")
    assert told[-1].endswith("GB are free on cpu")
    with pytest.raises(ConfigError, match="there is no memory preset '6GB'"):
        memory.fit(TOY, 1000, cpu, preset="6GB")


def test_a_gpu_takes_the_first_preset_that_fits_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    needed = make_plan(TOY, torch.float16, PRESETS["12GB"]).peak + memory.RESERVE
    monkeypatch.setattr(memory, "free_memory", lambda device: needed)
    assert memory.fit(TOY, memory.LARGE, gpu) == memory.Fit(torch.float16, PRESETS["12GB"])
    monkeypatch.setattr(memory, "free_memory", lambda device: memory.RESERVE)
    with pytest.raises(ConfigError, match="the model needs"):
        memory.fit(TOY, memory.LARGE, gpu)


# Offloading


def test_parts_come_and_go_and_the_frames_are_the_same() -> None:
    expected = PersonaLive(toy_networks()).start(picture(0)).push(pictures(44))
    networks = build_networks(TOY)
    for name, module in modules(networks).items():
        module.load_state_dict(modules(toy_networks())[name].state_dict())
    moves: list[tuple[nn.Module, str]] = []
    policy, device = PRESETS["8GB"], torch.device("cpu")

    def move(module: nn.Module, to: torch.device) -> None:
        moves.append((module, to.type))

    offload.apply(networks, policy, device, rest="meta", move=move)
    parts = [offload.submodule(networks, part) for part in policy.leaves]
    assert moves == [(part, "meta") for part in parts]
    moves.clear()
    assert np.array_equal(PersonaLive(networks).start(picture(0)).push(pictures(44)), expected)
    for part in parts:
        trips = [to for module, to in moves if module is part]
        assert trips[:2] == ["cpu", "meta"]
        assert trips == ["cpu", "meta"] * (len(trips) // 2)
    assert {id(module) for module, _ in moves} == {id(part) for part in parts}


def test_a_part_leaves_even_if_it_failed() -> None:
    networks = build_networks(TOY)
    moves: list[str] = []
    move = lambda module, to: moves.append(to.type)  # noqa: E731
    offload.apply(networks, Policy("test", ("pose_guider",)), torch.device("cpu"), rest="meta", move=move)
    with pytest.raises(RuntimeError):
        networks.pose_guider(torch.zeros(1, 7, 8, 8))
    assert moves == ["meta", "cpu", "meta"]


def test_inputs_follow_the_part() -> None:
    inputs: Any = offload._inputs_to((torch.zeros(1), (torch.ones(1),), "x"), torch.device("meta"))
    assert inputs[0].is_meta
    assert inputs[1][0].is_meta
    assert inputs[2] == "x"
