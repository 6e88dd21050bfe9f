"""The memory that training will take: its counting against tensors that really are there."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from made_up_people import corpus, toy_config
from personalive.acceleration.memory import RESERVE, Alive
from personalive.errors import ConfigError
from personalive.models.reference_warp import ReferenceWarp
from personalive.training.estimate import Estimate, estimate, state_bytes
from personalive.training.image_stage import ImageStage
from personalive.training.learner import Learner
from personalive.training.optimiser import build_optimiser
from personalive.training.processes import Processes
from personalive.training.recipe import Optimisation, Recipe, load_recipe
from personalive.training.rehearsal import Rehearsal
from toy_mesh import WARP


def storage_bytes(tensors: list[Tensor], but: list[Tensor]) -> int:
    """Of all different storages, without those of `but`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for place, size in found.items() if place not in known)


class Block(nn.Module):
    """Convolution, norm, attention, feed-forward: what the UNets are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.project, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.silu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in self.project(tokens).chunk(3, dim=-1))
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = self.out(functional.gelu(seen))
        return result


def test_what_the_forward_pass_keeps_is_counted_exactly() -> None:
    """Against the tensors that autograd really saves on the CPU."""
    block, x = Block(), torch.randn(2, 3, 16, 16)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = block(x)
    wanted = storage_bytes([*saved, y], [x, *block.parameters()])
    with Rehearsal(half=False):
        twin, z = Block(), torch.empty(x.shape)
    alive = Alive([z, *twin.parameters()])
    with alive, Rehearsal(half=False):
        out = twin(z)
    assert out.shape == y.shape
    assert alive.now == wanted
    assert wanted > 10 * x.numel() * 4


def test_checkpointing_forgets_and_computes_again() -> None:
    peaks, kept = [], []
    for forget in (False, True):
        rehearsal = Rehearsal(half=True)
        with rehearsal:
            blocks, x = nn.ModuleList(Block() for _ in range(4)), torch.empty(2, 3, 16, 16)
            parameters = list(blocks.parameters())
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
        alive = Alive([x, *parameters, *(p.grad for p in parameters if p.grad is not None)])
        with alive:
            with rehearsal:
                total = torch.zeros(())
                for block in blocks:
                    total = total + (checkpoint(block, x, use_reentrant=False) if forget else block(x)).sum()
            kept.append(alive.now)
            rehearsal.backward(total)
        peaks.append(alive.peak)
    assert kept[1] < 0.2 * kept[0]
    assert peaks[1] < 0.6 * peaks[0]


def test_types_are_those_of_autocast() -> None:
    def types() -> list[torch.dtype]:
        x, weight = torch.zeros(2, 4), nn.Parameter(torch.zeros(4, 4))
        y = functional.linear(x, weight)
        return [y.dtype, (y @ weight).dtype, torch.cat([x, y]).dtype, (y + 1).dtype, (y + x).dtype]

    with torch.autocast("cpu", torch.bfloat16):
        wanted = types()
    with Rehearsal(half=True):
        assert types() == wanted
        half = torch.zeros(2, 4, dtype=torch.bfloat16)
        # On a GPU, unlike on the CPU, norms and softmax are computed in full.
        assert functional.layer_norm(half, (4,)).dtype == half.softmax(-1).dtype == torch.float32
    with Rehearsal(half=False):
        assert set(types()) == {torch.float32}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_states_take_what_is_said(optimiser: Any) -> None:
    settings = Optimisation(steps=1, batch=1, rate=0.1, optimiser=optimiser)
    named = {"a.weight": nn.Parameter(torch.randn(6, 5)), "a.bias": nn.Parameter(torch.randn(6))}
    made = build_optimiser(named, settings)
    for parameter in named.values():
        parameter.grad = torch.randn_like(parameter)
    made.step()
    states = [t for state in made.state.values() for t in state.values() if t.ndim]
    assert sum(t.numel() * t.element_size() for t in states) == sum(state_bytes(p, settings) for p in named.values())
    assert state_bytes(torch.empty(1 << 20), dataclasses.replace(settings, optimiser="adamw8bit")) < 2.1 * (1 << 20)


@pytest.fixture(scope="module")
def held() -> dict[str, Estimate]:
    """A toy image stage held in two ways."""
    paper = {"image.optimisation.batch": 2}
    return {
        "paper": estimate("image", toy_config(), load_recipe(Path("paper"), paper)),
        "plain": estimate("image", toy_config(), Recipe()),
    }


def test_what_is_held_is_what_a_learner_holds(held: dict[str, Estimate]) -> None:
    for name, recipe in (("paper", load_recipe(Path("paper"))), ("plain", Recipe())):
        stage = ImageStage(toy_config(), recipe.image, None, corpus(), corpus(1, seed=1))
        learner = Learner(stage, Processes("cpu"))
        ours = sum(p.numel() * p.element_size() for p in learner.named.values())
        assert held[name].held["weights that learn"] == held[name].held["gradients"] == ours
        rest: list[Tensor] = [
            p for module in stage.modules().values() for p in module.parameters() if not p.requires_grad
        ]
        rest += [*stage.autoencoder.parameters(), *stage.autoencoder.buffers()]
        assert held[name].held["weights that do not"] == sum(p.numel() * p.element_size() for p in rest)
        apart = sum(m.numel() * 4 for m in learner.masters.tensors.values())
        average = sum(a.numel() * 4 for a in learner.average.values())
        if name == "paper":
            assert held[name].main >= 3 * apart + average  # two moments beside the copies
        else:
            assert held[name].main == 0
            assert held[name].held["average"] == average


def test_activations_are_those_of_a_real_batch(held: dict[str, Estimate]) -> None:
    """What autograd really saves for a toy batch, and no more than a third beyond it."""
    recipe = Recipe().image
    stage = ImageStage(toy_config(), recipe, None, corpus(), corpus(1, seed=1))
    Learner(stage, Processes("cpu"))
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = next(stage.losses(random.Random(0), 0))
    known = [tensor for module in stage.modules().values() for tensor in (*module.parameters(), *module.buffers())]
    wanted = storage_bytes(saved, known)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    found = held["plain"].phases["a batch"] - sum(held["plain"].held.values())
    assert wanted <= found <= 1.33 * wanted


def test_too_small_a_device_is_refused(held: dict[str, Estimate]) -> None:
    plan = held["plain"]
    plan.check(plan.peak)
    with pytest.raises(ConfigError, match=r"needs about .* GB, but the device has .*offload=true"):
        plan.check(plan.peak - 1)
    assert plan.peak == max(plan.phases.values()) + RESERVE
    assert held["paper"].main > 0
    assert any("in all" in line for line in plan.lines())
    with pytest.raises(ConfigError, match="not for 'motion'"):
        estimate("motion", toy_config(), Recipe())


@pytest.mark.parametrize("stage", ["image", "stream"])
def test_a_reference_warp_is_estimated_too(
    stage: str, held: dict[str, Estimate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guider learns in the image stage; the stream stage holds all of it. Heads are fitted without their values."""
    monkeypatch.setattr("personalive.warp.fit.POSE_ROUNDS", 1)  # each takes the memory of the one before it
    monkeypatch.setattr("personalive.warp.fit.ROUNDS", 1)
    config = dataclasses.replace(toy_config(), warp=WARP)
    found = estimate(stage, config, Recipe())
    warp = ReferenceWarp(WARP, config.motion_encoder.tokens * config.motion_encoder.token_dim, config.unet.channels[0])
    guider = 4 * sum(parameter.numel() for parameter in warp.guider.parameters())
    if stage == "image":
        assert found.held["weights that learn"] == held["plain"].held["weights that learn"] + guider
        assert found.held["weights that do not"] == held["plain"].held["weights that do not"]
    else:
        own = sum(t.numel() * t.element_size() for t in (*warp.parameters(), *warp.buffers()))
        plain = estimate(stage, toy_config(), Recipe())
        assert found.held["weights that do not"] == plain.held["weights that do not"] + own
    assert found.phases["a batch"] > sum(found.held.values())


@pytest.mark.parametrize("stage", ["rollout", "stream"])
@pytest.mark.slow
def test_the_other_stages_have_an_estimate_too(stage: str) -> None:
    found = estimate(stage, toy_config(), load_recipe(Path("paper")))
    assert found.phases["a batch"] > sum(found.held.values())
    assert found.held["perceptual network"] > 50_000_000
    halved = estimate(stage, toy_config(), load_recipe(Path("paper"), {f"{stage}.judgement.decoded_frames": 1}))
    assert halved.phases["a batch"] <= found.phases["a batch"]
