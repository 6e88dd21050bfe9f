"""The fast paths that benchmarks/gpu.py times and compares: what each does to the networks, most telling first."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from quantisation import Fp8, replaced
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from personalive.acceleration import offload
from personalive.acceleration.choice import KINDS, choose_runtime
from personalive.acceleration.compile import compile_decoder, compile_window
from personalive.acceleration.decoder import random_tiny_decoder
from personalive.acceleration.swap import own_unet
from personalive.contracts import Networks
from personalive.models import attention
from personalive.models.attention import Attention, SharedKeyValues
from personalive.weights.load import modules


@dataclass
class Try:
    """A row as it is tried: for how many keyframes, whether dry, what it wants to be noted, and what ends with it."""

    keyframes: int
    dry: bool
    noted: dict[str, Any] = field(default_factory=dict)
    until: ExitStack = field(default_factory=ExitStack)


Change = Callable[[Networks, Try], Networks]

_attend = attention.attend


def as_it_is(networks: Networks, given: Try) -> Networks:
    """Eager."""
    del given
    return networks


def compiled(mode: str | None = None) -> Change:
    """Window and decoder by torch.compile, as `--runtime compile`; dry, without its compiler, which takes minutes."""

    def change(networks: Networks, given: Try) -> Networks:
        backend = compiler(given)
        return compile_decoder(compile_window(networks, mode, backend), backend)

    return change


def compiler(given: Try) -> str:
    """torch's, or, dry, none."""
    return "eager" if given.dry else "inductor"


def window_alone(networks: Networks, given: Try) -> Networks:
    """The window compiled, the decoder as it is."""
    return compile_window(networks, None, compiler(given))


def exported(kind: str) -> Change:
    """A file made and opened; dry, an ONNX file, which a CPU makes in seconds."""

    def change(networks: Networks, given: Try) -> Networks:
        chosen = KINDS["onnxruntime" if given.dry else kind]
        with tempfile.TemporaryDirectory() as folder:
            path, begun = Path(folder) / f"window{chosen.suffix}", time.perf_counter()
            chosen.write(networks, path, given.keyframes)
            made = time.perf_counter()
            swapped = choose_runtime(networks, str(path), Path(folder))
            given.noted |= {"made_s": made - begun, "opened_s": time.perf_counter() - made}
            given.noted["file_mb"] = path.stat().st_size / 1e6
        return swapped

    return change


def channels_last(networks: Networks, given: Try) -> Networks:
    """The autoencoder in the layout that the GPU's convolutions prefer."""
    del given
    networks.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return networks


def all_compiled(networks: Networks, given: Try) -> Networks:
    """The motion networks and the pose guider as well, and the decoder in the layout that the GPU prefers."""
    networks = compiled()(channels_last(networks, given), given)
    for part in (networks.motion_extractor, networks.motion_encoder, networks.pose_guider):
        part.compile(dynamic=False, backend=compiler(given))
    return networks


def small_card(networks: Networks, given: Try) -> Networks:
    """What leaves the GPU on a card of 8 GB."""
    del given
    device = next(networks.denoising_unet.parameters()).device
    offload.apply(networks, offload.PRESETS["8GB"], device)
    return networks


def tiny(networks: Networks, given: Try) -> Networks:
    """All compiled, with a tiny decoder where it fits (it does not fit the toy)."""
    return all_compiled(networks if given.dry else random_tiny_decoder(networks), given)


def fp8(networks: Networks, given: Try) -> Networks:
    """Linear layers of the UNet in eight bits, compiled."""
    return compiled()(replaced(networks, Fp8), given)


def cudnn_attention(networks: Networks, given: Try) -> Networks:
    """Compiled, attention by cuDNN's kernel where it can, instead of the one that torch takes first."""
    kernels = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    given.until.enter_context(sdpa_kernel(kernels, set_priority=True))
    return compiled()(networks, given)


def merged_attention(networks: Networks, given: Try) -> Networks:
    """Compiled, the shared keys attended to as one product for all frames, as a CPU does it, without copies of them."""
    given.until.enter_context(mock.patch.object(attention, "_partial", partial_softmax))
    given.until.enter_context(mock.patch.object(attention, "attend", attend_merged))
    return compiled()(networks, given)


def attend_merged(
    query: Tensor, key: Tensor, value: Tensor, heads: int, shared: SharedKeyValues | None = None
) -> Tensor:
    """`attention.attend`, but by `attention.attend_merged` wherever there are shared keys and no mask (a swapped pass
    has none)."""
    if shared is None or shared.mask is not None:
        return _attend(query, key, value, heads, shared)
    return attention.attend_merged(query, key, value, heads, shared)


def partial_softmax(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`attention._partial` by the GPU's flash kernel, which takes half precision and no mask."""
    if query.device.type == "cpu":
        result, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask)
    else:
        result, log_sum = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    return result.transpose(1, 2), log_sum.transpose(1, 2)  # (K, heads, rows, ...) -> (K, rows, heads, ...)


def batched_projections(networks: Networks, given: Try) -> Networks:
    """Compiled; queries, keys and values of a self-attention as one product instead of three."""
    for module in own_unet(networks).modules():
        if isinstance(module, Attention) and module.to_k.in_features == module.to_q.in_features:
            weights = [layer.weight.detach() for layer in (module.to_q, module.to_k, module.to_v)]
            module.register_buffer("all_three", torch.cat(weights), persistent=False)
    given.until.enter_context(mock.patch.object(Attention, "forward", _forward_batched))
    return compiled()(networks, given)


def _forward_batched(
    self: Any, tokens: Tensor, context: Tensor | None = None, shared: SharedKeyValues | None = None
) -> Tensor:
    together = getattr(self, "all_three", None)  # the reference UNet's have none
    if context is None and together is not None:
        query, key, value = functional.linear(tokens, together).chunk(3, dim=-1)
    else:
        source = tokens if context is None else context
        query, key, value = self.to_q(tokens), self.to_k(source), self.to_v(source)
    result: Tensor = self.to_out(attention.attend(query, key, value, self.heads, shared))
    return result


HALF, BRAIN = torch.float16, torch.bfloat16
ROWS: dict[str, tuple[torch.dtype, Change]] = {
    "eager fp16": (HALF, as_it_is),
    "fp16, compiled": (HALF, compiled()),
    "fp16, all compiled": (HALF, all_compiled),
    "fp16, all compiled, tiny decoder": (HALF, tiny),
    "fp16, compiled, CUDA graphs": (HALF, compiled("reduce-overhead")),
    "fp16, package": (HALF, exported("aoti")),
    "fp16, TensorRT": (HALF, exported("tensorrt")),
    "bf16, compiled": (BRAIN, compiled()),
    "fp16, window alone compiled": (HALF, window_alone),
    "fp16, compiled, cuDNN attention": (HALF, cudnn_attention),
    "fp16, compiled, merged attention": (HALF, merged_attention),
    "fp16, compiled, batched projections": (HALF, batched_projections),
    "eager bf16": (BRAIN, as_it_is),
    "fp16, decoder channels last": (HALF, channels_last),
    "fp16, 8GB preset": (HALF, small_card),
    "eager fp32": (torch.float32, as_it_is),
    "bf16, fp8 linear layers, compiled": (BRAIN, fp8),
}
"""What is tried, most telling first: a precision, and what is done to the networks."""

FIRST_ROWS = tuple(ROWS)[:7]
"""Those that the aims are about, and the usual ways: tried before all others, and without keyframes, too."""

LOW_ROWS = ("eager fp16", "fp16, all compiled", "fp16, all compiled, tiny decoder")
"""Those of the low-latency window."""

OTHER_NUMBERS = ("fp16, all compiled, tiny decoder", "eager fp32", "bf16, fp8 linear layers, compiled")
"""What cannot be held against the golden's float32: another decoder, float32 itself, and what fails (simulated)."""


def in_precision(networks: Networks, device: str, dtype: torch.dtype) -> Networks:
    """A copy on the device. Dry, float32: half precision on a CPU is no fast path, and ONNX there is for float32."""
    dtype = dtype if device.startswith("cuda") else torch.float32
    copies: dict[str, Any] = {
        name: copy.deepcopy(module).to(device, dtype) for name, module in modules(networks).items()
    }
    if networks.reference_warp is not None:  # its head mesh is geometry, and float32 in any case
        copies["reference_warp"].mesh = copy.deepcopy(networks.reference_warp.mesh).to(device)
    return dataclasses.replace(networks, **copies)
