"""How much memory a model will take, before it is loaded: weights, caches and activations, from the meta device.

Every stage of a stream runs once on tensors without memory, under a mode that adds up what would be alive at a time.
Attention counts as fused: only its output takes memory. What the plan cannot know (the device's own context, the
workspaces of its convolutions, gaps between blocks) is the `RESERVE`.
"""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from personalive.acceleration.offload import IN_PLACE, PARTS, PRESETS, Policy
from personalive.acceleration.shapes import Shapes, stages_of
from personalive.config import ModelConfig, override
from personalive.contracts import Networks
from personalive.errors import ConfigError
from personalive.streaming.state import tensors
from personalive.weights.load import build_networks, modules

logger = logging.getLogger(__name__)

LARGE = 1 << 30
"""Bytes of files from which on a model's memory is planned before it is loaded."""

RESERVE = 600 << 20
"""Bytes on a GPU beyond what is planned: an assumption, until it is measured on one."""

USES = {
    "image token": ("image_encoder",),
    "encode": ("autoencoder.encoder",),
    "reference": ("reference_unet",),
    "motion": ("motion_extractor", "motion_encoder"),
    "pose": ("pose_guider",),
    "window": ("denoising_unet",),
    "decode": ("autoencoder.decoder",),
    "surface": ("reference_warp",),
    "driver": ("reference_warp",),
    "warp": ("reference_warp",),
    "compose": ("reference_warp",),
}
"""The stages of a stream, and the parts that compute in each; the last four where there is a reference warp."""

BESIDE = ("reference", "motion", "driver", "pose", "warp", "window")
"""The stages of the next chunk, during which one may be decoded: the reference's, for a keyframe."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes: weights by part, caches by kind, the activations' peak by stage; and what leaves the device meanwhile."""

    weights: dict[str, int]
    caches: dict[str, int]
    activations: dict[str, int]
    policy: Policy

    def at(self, stage: str) -> int:
        """Bytes in use at the peak of one stage."""
        absent = set(self.policy.leaves) - set(USES[stage])
        resident = sum(size for part, size in self.weights.items() if part not in absent)
        last = max(self.activations["decode"], self.activations.get("compose", 0))
        meanwhile = last if self.policy.beside and stage in BESIDE else 0
        return resident + sum(self.caches.values()) + self.activations[stage] + meanwhile

    @property
    def peak(self) -> int:
        """Bytes in use at the worst time."""
        return max(self.at(stage) for stage in self.activations)

    def lines(self) -> Iterator[str]:
        """For people, in GB."""
        yield f"memory plan ({self.policy.name}): {self.peak / 1e9:.2f} GB at the peak"
        for part, size in self.weights.items():
            away = ", leaves while it does not compute" if part in self.policy.leaves else ""
            yield f"  weights      {part:<20} {size / 1e9:6.3f}{away}"
        for name, size in self.caches.items():
            yield f"  caches       {name:<20} {size / 1e9:6.3f}"
        for stage, size in self.activations.items():
            yield f"  activations  {stage:<20} {size / 1e9:6.3f} -> {self.at(stage) / 1e9:.2f} in all"


def make_plan(
    config: ModelConfig,
    dtype: torch.dtype = torch.float16,
    policy: Policy = PRESETS["24GB"],
    keyframes: int | None = None,
) -> MemoryPlan:
    """The plan for one session. keyframes: slots, by default the model's own."""
    slots = config.stream.keyframes if keyframes is None else keyframes
    weights, caches, activations = _measure(override(config, {"stream.keyframes": slots}), dtype)
    return MemoryPlan(dict(weights), dict(caches), dict(activations), policy)


def choose_policy(
    config: ModelConfig,
    dtype: torch.dtype,
    free: int,
    policies: Iterable[Policy] = tuple(PRESETS.values()),
    reserve: int = RESERVE,
) -> MemoryPlan:
    """The plan of the first policy that fits into `free` bytes. ConfigError if none does."""
    plans = [make_plan(config, dtype, policy) for policy in policies]
    for plan in plans:
        if plan.peak + reserve <= free:
            return plan
    needed = plans[-1].peak + reserve
    half = "" if dtype.itemsize == 2 else "half precision, "
    raise ConfigError(
        f"the model needs {needed / 1e9:.1f} GB ({plans[-1].policy.name}, {str(dtype).removeprefix('torch.')}), but "
        f"{free / 1e9:.1f} GB are free: {half}fewer keyframes (stream.keyframes), or closing other programs helps"
    )


@dataclass(frozen=True)
class Fit:
    """How a model will be loaded: the precision, and what leaves the device when."""

    dtype: torch.dtype
    policy: Policy


def fit(
    config: ModelConfig,
    size: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
    preset: str = "auto",
    tell: Callable[[str], object] = logger.info,
) -> Fit:
    """Plan a model of `size` bytes of files before it is loaded, and tell the plan line by line.

    A small model is loaded as it is, and nothing of it ever leaves.
    A large one is in float16 on a GPU unless `dtype` says otherwise, and has to fit.

    Raises:
        ConfigError: it does not fit into what is free, or there is no such preset.
    """
    if preset != "auto" and preset not in PRESETS:
        raise ConfigError(f"there is no memory preset {preset!r}; choose auto, {', '.join(PRESETS)}")
    large, on_gpu = size >= LARGE, device.type == "cuda"
    dtype = dtype or (torch.float16 if large and on_gpu else torch.float32)
    free = free_memory(device)
    if not large or free is None:
        return Fit(dtype, PRESETS["24GB"] if on_gpu else IN_PLACE)
    policies = [IN_PLACE] if not on_gpu else PRESETS.values() if preset == "auto" else [PRESETS[preset]]
    plan = choose_policy(config, dtype, free, policies, RESERVE if on_gpu else 0)
    for line in plan.lines():
        tell(line)
    tell(f"  {free / 1e9:.2f} GB are free on {device}")
    return Fit(dtype, plan.policy)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free for us on a device; None where nobody can tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # Windows has no sysconf
            return None


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory that is alive: each storage from the operation that makes it until nobody holds it.

    The storages of `held` existed before and do not count.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it: nothing but the output takes memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, value = args[0], args[2]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def peak_of(function: Callable[[], object], held: tuple[Tensor, ...] = ()) -> int:
    """Bytes alive at the peak of a function on the meta device, beyond the storages of `held`, which exist before."""
    alive = Alive(held)
    with torch.no_grad(), alive, _FusedAttention():
        function()
    return alive.peak


Items = tuple[tuple[str, int], ...]


@functools.lru_cache(maxsize=16)
def _measure(config: ModelConfig, dtype: torch.dtype) -> tuple[Items, Items, Items]:
    """Weights, caches and activations of a configuration. Slow for a large model: seconds."""
    networks = build_networks(config, "meta", dtype)
    for module in modules(networks).values():
        module.to("meta")  # the small tables, too: everything on one device
    there = modules(networks)
    weights = {part: _part_bytes(networks, part) for part in PARTS if part.partition(".")[0] in there}
    shapes = Shapes(config, dtype)
    reference, slots = shapes.reference(networks)
    window = shapes.signals(config.stream.window_frames)
    cached: dict[str, Any] = {"reference": reference, "keyframes": slots.key_values, "window": window}
    layers = None if networks.reference_warp is None else shapes.layers(networks.reference_warp)
    cached |= {} if layers is None else {"portrait": layers}
    caches = {name: sum(t.numel() * t.element_size() for t in tensors(value)) for name, value in cached.items()}
    stages = stages_of(networks, shapes, reference, window, slots, layers)
    held = (*_all_tensors(networks), *(tensor for value in cached.values() for tensor in tensors(value)))
    activations = {stage: peak_of(function, held) for stage, function in stages.items()}
    return tuple(weights.items()), tuple(caches.items()), tuple(activations.items())


def _part_bytes(networks: Networks, part: str) -> int:
    """Bytes of one of `PARTS`. What of the autoencoder is neither en- nor decoder is counted with the decoder."""
    network, _, inner = part.partition(".")
    module = modules(networks)[network]
    if inner == "encoder":
        return parameter_bytes(module.get_submodule("model.encoder"))
    if inner == "decoder":
        return parameter_bytes(module) - parameter_bytes(module.get_submodule("model.encoder"))
    return parameter_bytes(module)


def _all_tensors(networks: Networks) -> Iterator[Tensor]:
    for module in modules(networks).values():
        yield from module.parameters()
        yield from module.buffers()
