"""Weights that no process holds whole: torch's `fully_shard` (FSDP), and how a shard becomes a tensor and back.

Each layer's weights are gathered when it computes, and its gradient is scattered when it has one. All processes
therefore have to make the same passes in the same order: whatever decides how often a sharded network runs must not
differ between the batches of one step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

LARGE = 100_000_000
"""Learning numbers of a network from which on it is sharded; a smaller one stays whole in every process."""

LAYER = 1_000_000
"""Numbers of a layer from which on it is gathered by itself, when it computes; smaller ones come with the network."""

METHODS = ("project",)
"""What is called of a network beside `forward`, and needs its weights gathered, too."""


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh, half: bool) -> None:
    """Spread what learns of the large networks over a mesh. `half`: large layers are gathered in bfloat16.

    What is frozen stays whole: it needs neither gradients nor states.
    """
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
    for network in networks:
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if sum(parameter.numel() for parameter in learning) < LARGE:
            continue
        for layer in [inner for inner in network.modules() if inner is not network and _is_large(inner)]:
            fully_shard(layer, mesh=mesh, mp_policy=policy if half else MixedPrecisionPolicy())
        frozen = {parameter for parameter in network.parameters() if not parameter.requires_grad}
        # Resharded after each pass: what stayed gathered would not see the next weights.
        fully_shard(network, mesh=mesh, ignored_params=frozen, reshard_after_forward=True)
        for method in METHODS:
            if hasattr(network, method):
                register_fsdp_forward_method(network, method)


def _is_large(layer: nn.Module) -> bool:
    """Whether this is a layer with much to learn, and one that computes by being called and no other way."""
    return isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.requires_grad and layer.weight.numel() >= LAYER


def is_spread(tensor: Tensor) -> bool:
    """Whether processes hold a part of it each."""
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread; any other tensor itself. They share memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor, where `like` is the parameter: rows, or all of it."""
    if not isinstance(like, DTensor):
        return whole
    rows = whole.chunk(like.device_mesh.size())  # as fully_shard divides: the last processes may hold none
    rank = like.device_mesh.get_local_rank()
    return rows[rank] if rank < len(rows) else whole[:0]


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The inverse of `part`; every process has to ask for it."""
    if not isinstance(like, DTensor):
        return part
    spread = DTensor.from_local(
        part.detach().to(like.device), like.device_mesh, like.placements, run_check=False, shape=like.shape,
        stride=like.stride(),
    )  # fmt: skip
    return spread.full_tensor()
