"""How much memory a stage will take, before anything is read: from its own code, run on tensors without values.

Weights, gradients, states and averages are counted from the parameters: exactly. Activations are the most that is alive
at a time while the stage prepares data, works off one batch forward and backward, and validates. What no count knows
(the workspaces of convolutions, gaps between blocks, the driver's own) is the `RESERVE` of `acceleration.memory`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from personalive.acceleration.memory import RESERVE, Alive
from personalive.config import ModelConfig
from personalive.errors import ConfigError
from personalive.streaming.schedule import Schedule
from personalive.training import sharding
from personalive.training.clips import COEFFICIENTS, Corpus
from personalive.training.image_stage import ImageStage
from personalive.training.learner import halve, mark
from personalive.training.prepared import latent_importance, prepare
from personalive.training.recipe import Optimisation, Recipe
from personalive.training.rehearsal import Rehearsal
from personalive.training.rollout_stage import RolloutStage
from personalive.training.stream_stage import StreamStage

Denoising: TypeAlias = ImageStage | RolloutStage | StreamStage

ESTIMATED = ("image", "rollout", "stream")
"""The stages whose memory is estimated: those of the denoiser."""

FRAMES = 16
"""Of each of two made-up people; more take memory while data is prepared only, three bytes a pixel and frame."""


DONE = 10**9
"""A step at which everything that a recipe brings in later is there."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device: `held` all the while that it learns, by kind; `phases`: in all, at the peak of each phase.

    `main`: bytes of weights and states in main memory, data not counted.
    """

    stage: str
    held: dict[str, int]
    phases: dict[str, int]
    main: int

    @property
    def peak(self) -> int:
        """Bytes in use at the worst time, the reserve included."""
        return max(self.phases.values()) + RESERVE

    def lines(self) -> Iterator[str]:
        """For people, in GB."""
        yield f"stage {self.stage}: {self.peak / 1e9:.1f} GB on the device, {self.main / 1e9:.1f} GB in main memory"
        for name, size in self.held.items():
            yield f"  held      {name:<28} {size / 1e9:7.3f}"
        for phase, size in self.phases.items():
            yield f"  in all    {phase:<28} {size / 1e9:7.3f}"
        yield f"  reserve   {'(an assumption)':<28} {RESERVE / 1e9:7.3f}"

    def check(self, size: int) -> None:
        """Raises ConfigError when a device of `size` bytes is too small."""
        if self.peak > size:
            raise ConfigError(
                f"stage {self.stage} needs about {self.peak / 1e9:.1f} GB, but the device has {size / 1e9:.1f} GB: see "
                f"docs/training.md for what makes it smaller, first of all --set {self.stage}.optimisation.offload=true"
            )


def estimate(name: str, config: ModelConfig, recipe: Recipe, processes: int = 1) -> Estimate:
    """The memory of a denoiser stage, in each of so many processes that shard it.

    The discriminator counts from the first step on, LPIPS where it may be used, and every keyframe slot is in use.
    Raises ConfigError for a stage that is not in `ESTIMATED`.
    """
    if name not in ESTIMATED:
        raise ConfigError(f"memory is estimated for the stages {', '.join(ESTIMATED)}, not for {name!r}")
    for device in ("cpu", "meta"):
        Schedule(config.stream).alphas_cumprod(device)  # tables that are kept must not be made without values
    settings: Optimisation = getattr(recipe, name).optimisation
    half = settings.weights == "bfloat16"
    with Rehearsal(half=False), torch.no_grad():
        corpus = _corpus(config)
        stage = _build(name, config, recipe, corpus)
        own = [getattr(stage.frozen, field.name) for field in dataclasses.fields(stage.frozen)]
        networks = [*stage.modules().values(), *own]
        alive = Alive([*_tensors(networks), *_pictures(corpus)])
        with alive:
            latent_importance(stage.frozen, prepare(config, stage.frozen, corpus, None))
        preparing = _bytes(networks) + alive.peak
    named = mark(stage)
    held, main = _held(stage, named, settings, processes)
    for parameter in named.values():
        if half:
            halve(parameter)
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
    there = [*_tensors(networks), *gradients, *_pictures(corpus)]
    rehearsal = Rehearsal(settings.precision == "bfloat16")
    batch, validating = Alive(there), Alive(there)
    with batch:
        _work_off(stage, rehearsal)
    if isinstance(stage, StreamStage):  # as many windows as it takes until one shows a driving frame
        stage.recipe = dataclasses.replace(stage.recipe, windows=config.stream.levels)
    with validating, rehearsal, torch.no_grad():
        stage.validate()
    learning = sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)
    total = sum(held.values())
    phases = {
        "preparing the data": preparing,
        "a batch": total + batch.peak,
        "validating": total - held["gradients"] + validating.peak,
    }
    if half and not settings.offload:
        phases["an update"] = total + 4 * learning  # the copies' own gradients
    elif not settings.offload:
        phases["validating"] += held["weights that learn"]  # the live ones, put aside
    return Estimate(name, held, phases, main)


def _corpus(config: ModelConfig) -> Corpus:
    """Two made-up people without values."""
    side, people = config.image_size, 2

    def known(*shape: int) -> Tensor:
        return torch.empty(people, *shape)

    return Corpus(
        images=torch.empty(people, FRAMES, 3, side, side, dtype=torch.uint8),
        expression=known(FRAMES, COEFFICIENTS),
        angles=known(FRAMES, 3),
        scale=known(FRAMES),
        translation=known(FRAMES, 2),
        canonical=known(21, 3),
        landmarks=known(FRAMES, 68, 2),
        group=torch.zeros(people, FRAMES, dtype=torch.int64),
        clip_start=torch.zeros(people, dtype=torch.int64),
    )


def _build(name: str, config: ModelConfig, recipe: Recipe, corpus: Corpus) -> Denoising:
    """A stage on the meta device, in the state in which a step needs most."""
    device = torch.device("meta")
    if name == "image":
        return ImageStage(config, recipe.image, None, corpus, corpus, device)
    stage: RolloutStage | StreamStage
    plain: dict[str, Any] = {"perceptual_kind": "gradients"}
    if name == "rollout":
        rollout = dataclasses.replace(recipe.rollout, judgement=dataclasses.replace(recipe.rollout.judgement, **plain))
        stage = RolloutStage(config, rollout, None, corpus, corpus, device)
        stage.odds = (0.0,) * (len(stage.odds) - 1) + (1.0,)
        kind = recipe.rollout.judgement.perceptual_kind
    else:
        judgement = dataclasses.replace(recipe.stream.judgement, **plain)
        # Two windows that both learn and look at keyframes stand for all.
        stream = dataclasses.replace(
            recipe.stream, windows=2, gradient_every=1, keyframes_from_step=-1, judgement=judgement
        )
        stage = StreamStage(config, stream, None, corpus, corpus, device)
        kind = recipe.stream.judgement.perceptual_kind
    if kind != "gradients":
        stage.judge.perceptual = _Lpips().requires_grad_(False)
    return stage


def _work_off(stage: Denoising, rehearsal: Rehearsal) -> None:
    """One batch, forward and backward."""
    losses = stage.losses(random.Random(0), DONE)
    while True:
        with rehearsal:
            found = next(losses, None)
        if found is None:
            return
        rehearsal.backward(found["loss"])


def _held(
    stage: ImageStage | RolloutStage | StreamStage,
    named: dict[str, nn.Parameter],
    settings: Optimisation,
    processes: int,
) -> tuple[dict[str, int], int]:
    """Bytes by kind on the device, in one of the processes, and bytes in main memory."""
    half = settings.weights == "bfloat16"
    learning = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    spread = _spread(learning) if processes > 1 else {}
    whole = {name: parameter for name, parameter in learning.items() if name not in spread}
    own = sum(p.numel() for p in whole.values()) + sum(p.numel() for p in spread.values()) // processes
    states = sum(state_bytes(p, settings) for p in whole.values())
    states += sum(state_bytes(p, settings) for p in spread.values()) // processes
    frozen = [parameter for name, parameter in named.items() if name not in learning]
    away = 4 * own if half and not spread else 0  # float32 copies
    weights = sum(_size(p, half) for p in whole.values()) + sum(4 * p.numel() for p in spread.values()) // processes
    at_rest = [stage.frozen.autoencoder, *_warp_at_rest(stage)]
    held = {
        "weights that learn": weights,
        "weights that do not": sum(_size(p, half) for p in frozen) + _bytes(at_rest),
        "gradients": weights,
    }
    if spread:
        held["gathered weights"] = _gathered(spread, half)
    if hasattr(stage, "judge") and isinstance(stage.judge.perceptual, nn.Module):
        held["perceptual network"] = _bytes([stage.judge.perceptual])
    copies = {"float32 copies": away, "optimiser's states": states, "average": 4 * own}
    main = sum(4 * p.numel() for p in frozen if p.ndim > 1) if half else 0
    if settings.offload:
        return held, main + states + 3 * 4 * own  # copies, average, and at an update the copies' gradients
    return held | copies, main


def _warp_at_rest(stage: Denoising) -> Iterator[nn.Module]:
    """Of the reference warp, what is on the device beside the guider, which is the denoiser's: the stream stage's."""
    if isinstance(stage, StreamStage) and stage.networks.reference_warp is not None:
        yield from (part for name, part in stage.networks.reference_warp.named_children() if name != "guider")


def state_bytes(parameter: Tensor, settings: Optimisation) -> int:
    """Bytes of the optimiser's state of one parameter: two float32 moments, two of 8 bits, or one momentum."""
    count = parameter.numel()
    if settings.optimiser == "adamw8bit" and count >= 4096:
        return 2 * (count + 4 * -(-count // 256))
    return 4 * count if settings.optimiser == "muon" and parameter.ndim > 1 else 8 * count


def _size(parameter: Tensor, half: bool) -> int:
    return parameter.numel() * (2 if half and parameter.ndim > 1 else 4)


def _spread(learning: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What learns in the networks that are large enough to be sharded."""
    sizes: dict[str, int] = {}
    for name, parameter in learning.items():
        network = name.partition(".")[0]
        sizes[network] = sizes.get(network, 0) + parameter.numel()
    return {n: p for n, p in learning.items() if sizes[n.partition(".")[0]] >= sharding.LARGE}


def _gathered(spread: dict[str, nn.Parameter], half: bool) -> int:
    """Bytes of sharded weights that are whole while they compute: all small ones, and the two largest layers."""
    small = sum(4 * p.numel() for p in spread.values() if p.numel() < sharding.LAYER)
    large = sorted(_size(p, half) for p in spread.values() if p.numel() >= sharding.LAYER)
    return small + sum(large[-2:])


def _tensors(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


def _pictures(corpus: Corpus) -> list[Tensor]:
    values = (getattr(corpus, field.name) for field in dataclasses.fields(corpus))
    return [value for value in values if isinstance(value, Tensor)]


def _bytes(networks: Iterable[nn.Module]) -> int:
    """Of all parameters and buffers, each counted once."""
    found = {id(tensor): tensor.numel() * tensor.element_size() for tensor in _tensors(networks)}
    return sum(found.values())


class _Lpips(nn.Module):
    """The shapes of LPIPS (VGG16's features, compared at five depths), where the package may not be installed."""

    def __init__(self) -> None:
        super().__init__()
        widths, last = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 3
        self.depths = nn.ModuleList()
        for width, layers in widths:
            first = [nn.Conv2d(last, width, 3, padding=1)]
            self.depths.append(
                nn.ModuleList(first + [nn.Conv2d(width, width, 3, padding=1) for _ in range(layers - 1)])
            )
            last = width
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width, _ in widths)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for depth in self.depths:
            x = functional.max_pool2d(found[-1], 2) if found else pictures
            assert isinstance(depth, nn.ModuleList)
            for layer in depth:
                x = functional.relu(layer(x), inplace=True)
            found.append(x)
        return found

    def forward(self, output: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """As `perceptual.Perceptual`."""
        total = torch.zeros(())
        for ours, theirs, head in zip(self._features(output), self._features(truth), self.heads, strict=True):
            parts = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (ours, theirs)]
            distance = head((parts[0] - parts[1]).square())
            wide = functional.interpolate(distance, size=output.shape[2:], mode="bilinear")
            total = total + (wide * weight).mean()
        return total
