"""Other runtimes on a CPU: onnxruntime and OpenVINO for an exported window pass, OpenVINO for the decoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from personalive.acceleration.decoder import swap_decoder
from personalive.contracts import Networks
from personalive.errors import WeightsError

FlatRun: TypeAlias = Callable[..., Tensor]
"""The window pass of plain tensors: latents, timesteps, image token, motion, pose, keys and values of every block."""


def open_onnx(path: str | Path, providers: Sequence[str] = ()) -> FlatRun:
    """An ONNX file in onnxruntime, by default on the CPU, with as many threads as torch has.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        return open_session(str(path), providers)
    except Exception as error:  # onnxruntime's errors have no common type of their own
        raise WeightsError(f"{path} is no ONNX file of a window pass: export it again") from error


def open_session(model: str | bytes, providers: Sequence[str] = ()) -> FlatRun:
    """An ONNX model of one output, a file's path or its content, as a callable of tensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait slow down everything else on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=list(providers) or ["CPUExecutionProvider"])
    names = [known.name for known in session.get_inputs()]

    def run(*flat: Tensor) -> Tensor:
        (prediction,) = session.run(None, dict(zip(names, map(_as_array, flat), strict=True)))
        return torch.from_numpy(prediction).to(flat[0])

    return run


def open_openvino(path: str | Path, precision: str = "f32") -> FlatRun:
    """An ONNX file in OpenVINO on the CPU, computed in a precision ("f32", "bf16"), with as many threads as torch has.

    Raises:
        WeightsError: the file cannot be read.
    """
    import openvino

    core = openvino.Core()
    try:
        return _compiled(core.read_model(str(path)), precision)
    except RuntimeError as error:
        raise WeightsError(f"{path} is no ONNX file of a window pass: export it again") from error


def has_bfloat16() -> bool:
    """Whether OpenVINO finds this CPU's own instructions for products in bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def decode_by_openvino(networks: Networks, precision: str) -> Networks:
    """The networks with their decoder in OpenVINO, for any number of frames. Translating it takes a second."""
    config = networks.config
    shape = (config.unet.latent_channels, config.latent_size, config.latent_size)
    return swap_decoder(networks, in_openvino(_Decoding(networks).eval(), shape, precision))


def in_openvino(network: nn.Module, shape: tuple[int, ...], precision: str) -> nn.Module:
    """A network of one input (N, *shape), any N, and one output, computed by OpenVINO."""
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of checks of shapes that it takes for constants
        given = [openvino.PartialShape([-1, *shape])]
        graph = openvino.convert_model(network, example_input=(torch.zeros(1, *shape),), input=given)
    return Elsewhere(_compiled(graph, precision))


class _Decoding(nn.Module):
    """The decoder alone: what `decode` of the networks' autoencoder does."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.autoencoder = networks.autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


class Elsewhere(nn.Module):
    """A network of one input and one output that another runtime computes."""

    def __init__(self, run: FlatRun) -> None:
        super().__init__()
        self._run = run

    def forward(self, given: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        return self._run(given)


def _compiled(graph: Any, precision: str) -> FlatRun:
    """OpenVINO's graph of one output as a callable of tensors."""
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(graph, "CPU", {**threads, "INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()

    def run(*flat: Tensor) -> Tensor:
        arrays: dict[Any, Any] = dict(enumerate(map(_as_array, flat)))
        prediction = request.infer(arrays, share_inputs=True)[compiled.output(0)]
        return torch.from_numpy(np.array(prediction)).to(flat[0])  # a copy: the next step writes over the original

    return run


def _as_array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()
