"""Other runtimes for an exported window pass on a CPU: onnxruntime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from personalive.errors import WeightsError

FlatRun: TypeAlias = Callable[..., Tensor]
"""The window pass of plain tensors: latents, timesteps, image token, motion, pose, keys and values of every block."""


def open_onnx(path: str | Path, providers: Sequence[str] = ()) -> FlatRun:
    """An ONNX file in onnxruntime, by default on the CPU, with as many threads as torch has.

    Raises:
        WeightsError: the file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait slow down everything else on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers) or ["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no common type of their own
        raise WeightsError(f"{path} is no ONNX file of a window pass: export it again") from error
    names = [known.name for known in session.get_inputs()]

    def run(*flat: Tensor) -> Tensor:
        (prediction,) = session.run(None, dict(zip(names, map(_as_array, flat), strict=True)))
        return torch.from_numpy(prediction).to(flat[0])

    return run


def open_openvino(path: str | Path) -> FlatRun:
    """An ONNX file in OpenVINO on the CPU, in float32, with as many threads as torch has.

    Raises:
        WeightsError: the file cannot be read.
    """
    import openvino

    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(str(path)), "CPU", threads)
    except RuntimeError as error:
        raise WeightsError(f"{path} is no ONNX file of a window pass: export it again") from error
    request = compiled.create_infer_request()

    def run(*flat: Tensor) -> Tensor:
        arrays: dict[Any, Any] = dict(enumerate(map(_as_array, flat)))
        prediction = request.infer(arrays, share_inputs=True)[compiled.output(0)]
        return torch.from_numpy(np.array(prediction)).to(flat[0])  # a copy: the next step writes over the original

    return run


def _as_array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()
