"""StreamState: everything that one viewer's stream remembers, as a value. A reset is a new state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from personalive.contracts import Keyframes, MotionSignals, ReferenceFeatures
from personalive.device import send

T = TypeVar("T")

COMMON = -1
"""The draw that all frames of a session share; the others are counted from 0."""

_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class StreamState:
    """The window between two steps, for B sessions; L = `StreamConfig.lead_in_frames`, S keyframe slots.

    reference: what the frames are painted from. latents (B, L, C, h, w) float32: the older chunks, oldest (at t=0)
    first. signals: motion (B, L, T, D) and pose (B, L, C, h, w) of those frames. keyframes: the slots, and bank
    (B, 1 + S, T * D): the reference's motion tokens, then those of the keyframe in each slot.
    seeds, steps (B,) int64: which noise comes next is a function of both. They, keyframes.used and admitted are always
    on the CPU, so that no decision waits for a device.
    distance (B,) float32 and admitted (B,) bool tell of the latest step: how far the motion of the emitted chunk's
    first frame was from all that the bank held, and whether that frame became a keyframe (at the start: infinite, no).
    """

    reference: ReferenceFeatures
    latents: Tensor
    signals: MotionSignals
    keyframes: Keyframes
    bank: Tensor
    seeds: Tensor
    steps: Tensor
    distance: Tensor
    admitted: Tensor

    @property
    def sessions(self) -> int:
        """B, the number of sessions in this state."""
        return int(self.seeds.shape[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors: constant over a stream's life."""
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors(self))

    def to(self, device: torch.device | str) -> StreamState:
        """The same state on another device; it goes on with the same noise there."""
        moved = map_tensors(lambda tensor: tensor.to(device), self)
        keyframes = dataclasses.replace(moved.keyframes, used=self.keyframes.used)
        return dataclasses.replace(
            moved, keyframes=keyframes, seeds=self.seeds, steps=self.steps, admitted=self.admitted
        )

    def detach(self) -> StreamState:
        """The same values without their history: where training cuts the gradient through time."""
        return map_tensors(Tensor.detach, self)


def batch(states: Sequence[StreamState]) -> StreamState:
    """Sessions of equal configuration, side by side in one state, in the order given. Copies."""
    if not states:
        raise ValueError("at least one state is needed to make a batch")
    return map_tensors(lambda *parts: torch.cat(parts), *states)


def split(state: StreamState) -> list[StreamState]:
    """The inverse of `batch`: one state for each session. Copies, so that no part keeps the whole alive."""
    return [map_tensors(lambda tensor, i=i: tensor[i : i + 1].clone(), state) for i in range(state.sessions)]


def draw_noise(
    seeds: Tensor, draws: Tensor, shape: Sequence[int], device: torch.device | str = "cpu", common: float = 0.0
) -> Tensor:
    """Standard normal noise (B, F, ...) float32 of a `shape` (F, ...): session b's follows from seeds[b] and draws[b].

    Draw 0 belongs to the lead-in, draw 1 + i to step i. Drawn on the CPU, so that the device does not matter.
    common: the share of the variance that is the same in all frames of all draws of a session.
    """
    noise = _drawn(seeds, draws, shape)
    if common:
        shared = _drawn(seeds, torch.full_like(draws, COMMON), (1, *shape[1:]))
        noise = _blend(noise, shared, common)
    return send(noise, torch.device(device))


def noise_like(latents: Tensor, common: float) -> Tensor:
    """Noise for latents (B, F, ...) with the same share in common, of torch's own generator: training has no seeds."""
    noise = torch.randn_like(latents)
    return _blend(noise, torch.randn_like(latents[:, :1]), common) if common else noise


def _blend(noise: Tensor, shared: Tensor, common: float) -> Tensor:
    mixed: Tensor = common**0.5 * shared + (1 - common) ** 0.5 * noise
    return mixed


def _drawn(seeds: Tensor, draws: Tensor, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator()
    parts = []
    for seed, draw in zip(seeds.tolist(), draws.tolist(), strict=True):
        generator.manual_seed(_mix(seed, draw))
        parts.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(parts)


def _mix(seed: int, draw: int) -> int:
    """A 32-bit generator seed (the CPU generator uses no more), far apart for neighbouring seeds and draws.

    For one stream it is a bijection of the draw index: no draw comes twice before 2^32.
    """
    low, high = seed & _MASK32, (seed >> 32) & _MASK32
    return _scramble(_scramble(_scramble(low) ^ high) + draw)


def _scramble(value: int) -> int:
    """The finaliser of MurmurHash3: a bijection of 32-bit numbers in which each input bit moves every output bit."""
    value &= _MASK32
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


def map_tensors(function: Callable[..., Tensor], *trees: T) -> T:
    """Apply a function to the corresponding tensors of dataclasses and tuples of equal structure; None stays None."""
    first: Any = trees[0]
    if first is None:
        return cast(T, None)
    if isinstance(first, Tensor):
        return cast(T, function(*trees))
    if isinstance(first, tuple):
        many = cast("tuple[tuple[Any, ...], ...]", trees)
        return cast(T, tuple(map_tensors(function, *parts) for parts in zip(*many, strict=True)))
    names = [field.name for field in dataclasses.fields(first)]
    values = {name: map_tensors(function, *(getattr(tree, name) for tree in trees)) for name in names}
    return cast(T, type(first)(**values))


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a dataclass or tuple, depth first; other values are left out."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from tensors(part)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))
