"""Makes a training step run on tensors without values, as a GPU would run it, so that its memory can be counted.

On the meta device nothing is computed: shapes and types are all there is. Three things need help. What asks for a
value gets one (every number is 0, every question is answered yes, so that all keyframe slots are in use); autocast,
which torch does not offer there, is done by its published rules; and attention takes the memory of the fused kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._device import DeviceContext
from torch.utils._pytree import tree_flatten, tree_map

_HALVED = "linear conv2d conv_transpose2d matmul __matmul__ bmm baddbmm addmm scaled_dot_product_attention"
HALVED = frozenset(_HALVED.split(" "))
"""What autocast computes in bfloat16, of the operations that occur here."""

_FULL = (
    "group_norm layer_norm softmax log_softmax softplus norm prod sum cumsum pow __pow__ exp log rsqrt reciprocal "
    "mse_loss l1_loss normalize cosine_similarity __rdiv__ __rpow__"
)
FULL = frozenset(_FULL.split(" "))
"""What autocast computes in float32."""

WIDEST = frozenset(["cat", "stack", "grid_sample", "addcmul", "addcdiv"])
"""What autocast computes in the widest type that comes in."""


class _Fused(torch.autograd.Function):
    """Attention as the fused kernels do it: beside its inputs it keeps the output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        same = value.shape[-1] == query.shape[-1]  # the kernels lay the output out as the queries are
        result = torch.empty_like(query) if same else query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, *_gradients: Any) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class Rehearsal(DeviceContext):
    """For `with`: what is made inside is on the meta device. `half`: under autocast to bfloat16.

    It is a device's context since checkpointing enters that one again where it computes something a second time. A
    weight's bfloat16 copy is kept, as autocast keeps it, until the backward pass.
    """

    def __init__(self, half: bool) -> None:
        super().__init__("meta")
        self._half = half
        self._copies: dict[int, Tensor] = {}
        self._keeps = True

    def backward(self, loss: Tensor) -> None:
        """The backward pass of a loss, after the `with` of the forward pass."""
        self._copies.clear()
        self._keeps = False
        loss.backward()  # type: ignore[no-untyped-call]
        self._keeps = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta and name in _ANSWERS:
            return _ANSWERS[name](first)
        if name in ("to", "cpu") and isinstance(first, Tensor) and first.is_meta:
            args, kwargs = _staying(args, kwargs)
            return first.to(*args[1:], **kwargs) if len(args) > 1 or kwargs else first
        if name == "randn":
            kwargs.pop("generator", None)
        if name in ("__getitem__", "where") and any(isinstance(a, Tensor) and a.is_meta for a in _flat(args)):
            args = tree_map(lambda a: a.to("meta") if isinstance(a, Tensor) else a, args)
        if self._half:
            args, kwargs = self._cast(name, args, kwargs)
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            return _Fused.apply(*args[:3])  # type: ignore[no-untyped-call]
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

    def _cast(self, name: str, args: Any, kwargs: Any) -> Any:
        """The arguments as autocast passes them on."""
        if name in HALVED:
            return tree_map(self._halved, (args, kwargs))
        if name in FULL or (name in WIDEST and any(_is(a, torch.float32) for a in _flat(args))):
            return tree_map(lambda a: a.float() if _is(a, torch.bfloat16) else a, (args, kwargs))
        return args, kwargs

    def _halved(self, value: Any) -> Any:
        if not _is(value, torch.float32):
            return value
        if not (self._keeps and isinstance(value, nn.Parameter) and value.requires_grad):
            return value.bfloat16()
        if id(value) not in self._copies:
            self._copies[id(value)] = value.bfloat16()
        return self._copies[id(value)]


def _is(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype


def _flat(values: Any) -> list[Any]:
    return tree_flatten(values)[0]


def _staying(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of `Tensor.to` without a device: everything stays where nothing takes memory."""
    kept = tuple(a for a in args if isinstance(a, (Tensor, torch.dtype)))
    return kept, {key: value for key, value in kwargs.items() if key in ("dtype", "copy", "memory_format")}


def _values(tensor: Tensor) -> Any:
    """What `tolist` says: nested lists of one number."""
    number = _number(tensor)
    for size in reversed(tensor.shape):
        number = [number] * size
    return number


def _number(tensor: Tensor) -> Any:
    return True if tensor.dtype == torch.bool else (0.0 if tensor.is_floating_point() else 0)


_ANSWERS: dict[str, Any] = {
    "tolist": _values,
    "item": _number,
    "__bool__": lambda _: True,
    "__int__": lambda _: 0,
    "__index__": lambda _: 0,
    "__float__": lambda _: 0.0,
    "equal": lambda _: True,
    "numpy": lambda tensor: np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch.")),
}
