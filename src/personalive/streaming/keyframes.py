"""When to remember an emitted frame, and where: historical keyframes, bounded by construction (model.md 3.5).

A motion bank starts with the reference's motion tokens. A frame whose tokens lie further than tau from everything
in the bank shows the person as nobody has seen them yet: its clean latents go through the reference UNet and serve
later windows as a second reference. Each keyframe owns one slot and one bank entry; when the slots are full, nothing
is admitted any more and the bank rests (the published live code keeps growing it, to no effect).
"""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.config import StreamConfig
from personalive.contracts import Keyframes, KeyValues
from personalive.device import send


def empty(reference: KeyValues, slots: int) -> Keyframes:
    """Unused slots of the shapes that this reference's projected features (B, heads, n, head_dim) call for."""

    def room(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(f.new_zeros(f.shape[0], slots, *f.shape[1:]) for f in features)

    used = torch.zeros(reference.keys[0].shape[0], slots, dtype=torch.bool)
    return Keyframes(KeyValues(room(reference.keys), room(reference.values)), used)


def new_bank(reference_motion: Tensor, slots: int) -> Tensor:
    """A bank (B, 1 + slots, T * D) that knows the reference's motion tokens (B, T, D) only."""
    first = reference_motion.detach().flatten(1)[:, None]  # (B, 1, T * D)
    return torch.cat([first, first.new_zeros(first.shape[0], slots, first.shape[2])], dim=1)


def nearest_distance(bank: Tensor, used: Tensor, motion: Tensor) -> Tensor:
    """L2 distance of motion tokens (B, T, D) to the nearest entry in use: (B,) float32, on the bank's device."""
    gaps = bank.float() - motion.detach().float().flatten(1)[:, None]  # (B, 1 + S, T * D)
    distances = torch.linalg.vector_norm(gaps, dim=-1)
    filled = torch.cat([used.new_ones(used.shape[0], 1), used], dim=1)  # the reference's always counts
    filled = send(filled, bank.device)
    nearest: Tensor = distances.masked_fill(~filled, torch.inf).amin(dim=1)
    return nearest


def admission(config: StreamConfig, used: Tensor, distance: Tensor, steps: Tensor) -> Tensor:
    """Which sessions remember this step's frame, (B,) bool on the CPU: late enough, beyond tau, and a slot free."""
    possible = (steps >= config.keyframes_from_step) & ~used.all(dim=1)
    if not bool(possible.any()):  # known without waiting for the device
        return possible
    return possible & (distance > config.tau).cpu()


def insert(
    keyframes: Keyframes, bank: Tensor, features: KeyValues, motion: Tensor, admitted: Tensor
) -> tuple[Keyframes, Tensor]:
    """Fill the first free slot of each admitted session, and its bank entry; others stay as they are.

    features: projected, (B, heads, n, head_dim) each; motion (B, T, D); admitted (B,) bool on the CPU, true only where
    a slot is free.
    """
    used = keyframes.used
    slots = torch.arange(used.shape[1], device=used.device)
    chosen = admitted[:, None] & (slots == used.sum(dim=1, keepdim=True))  # (B, S)
    target = send(chosen, bank.device)

    def fill(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.where(target[:, :, None, None, None], n[:, None], o) for o, n in zip(old, new, strict=True))

    key_values = KeyValues(
        fill(keyframes.key_values.keys, features.keys), fill(keyframes.key_values.values, features.values)
    )
    entry = torch.cat([torch.zeros_like(target[:, :1]), target], dim=1)  # (B, 1 + S): never the reference's
    bank = torch.where(entry[:, :, None], motion.detach().flatten(1)[:, None], bank)
    return Keyframes(key_values, used | chosen), bank
