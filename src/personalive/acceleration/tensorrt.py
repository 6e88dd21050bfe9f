"""The window pass as a TensorRT engine, built from its ONNX file for the GPU that it is built on (extra: tensorrt)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personalive.acceleration.export import export_onnx, in_place
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
        return in_place(path, lambda temporary: temporary.write_bytes(engine))
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


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
