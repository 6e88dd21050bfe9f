"""The window pass as a TensorRT engine, built from its ONNX file for the GPU that it runs on (extra: tensorrt)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalive.acceleration.export import OUTPUT, export_onnx, in_place, input_names
from personalive.acceleration.made import Made, made_for
from personalive.acceleration.runtimes import FlatRun
from personalive.acceleration.swap import own_unet
from personalive.contracts import Networks
from personalive.errors import ConfigError, WeightsError


def export_engine(networks: Networks, path: str | Path, keyframes: int = 0) -> Path:
    """Write an engine in the precision of the networks; building takes minutes.

    Raises:
        ModuleNotFoundError: TensorRT is not installed.
        ConfigError: TensorRT cannot build it here.
        OutputError: it cannot be written.
    """
    import tensorrt

    path = Path(path)
    workshop = path.with_name(f".{path.name}.onnx.tmp")
    try:
        workshop.mkdir(exist_ok=True)
        window = export_onnx(networks, workshop / "window.onnx", keyframes)
        engine = build(tensorrt, window)
        return in_place(path, lambda temporary: temporary.write_bytes(engine), made_engine(networks, keyframes))
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def made_engine(networks: Networks, keyframes: int = 0) -> Made:
    """The record of an engine."""
    import tensorrt

    return made_for(networks, keyframes, device=True, software=f"TensorRT {tensorrt.__version__}")


def open_engine(path: Path, networks: Networks) -> FlatRun:
    """An engine as a window pass on the GPU of these networks.

    Raises:
        WeightsError: the file cannot be read.
    """
    import tensorrt

    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING)).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise WeightsError(f"{path} is no engine for this GPU and TensorRT {tensorrt.__version__}: export it again")
    names = input_names(networks)
    used = {engine.get_tensor_name(number) for number in range(engine.num_io_tensors)} - {OUTPUT}
    context = engine.create_execution_context()
    # On the default queue TensorRT would wait for the device after every pass.
    queue = torch.cuda.Stream(next(own_unet(networks).parameters()).device)  # type: ignore[no-untyped-call]

    def run(*flat: Tensor) -> Tensor:
        given = {name: tensor.contiguous() for name, tensor in zip(names, flat, strict=True) if name in used}
        prediction = torch.empty_like(given["latents"])
        for name, tensor in (*given.items(), (OUTPUT, prediction)):
            context.set_tensor_address(name, tensor.data_ptr())
        here = torch.cuda.current_stream(prediction.device)
        queue.wait_stream(here)
        if not context.execute_async_v3(queue.cuda_stream):
            raise RuntimeError(f"{path}: TensorRT refused the pass; its own lines above say why")
        here.wait_stream(queue)  # and with it whoever gets the inputs' memory next
        return prediction

    return run


def build(tensorrt: Any, window: Path) -> bytes:
    """An engine of an ONNX file, every number in the type that the file gives it. Raises ConfigError, WeightsError."""
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(window)):
        raise WeightsError(f"TensorRT {tensorrt.__version__} cannot read the window pass: {'; '.join(_errors(parser))}")
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        raise ConfigError(f"TensorRT {tensorrt.__version__} could not build the engine here: see its own lines above")
    return bytes(engine)


def _errors(parser: Any) -> Iterator[str]:
    for number in range(parser.num_errors):
        yield str(parser.get_error(number).desc())
