"""Toy networks whose answer is known, as files: no tests here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class MeanColour(nn.Module):
    """An identity: the mean colour (N, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def scripted(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def onnx_file(path: Path, outputs: dict[str, list[int] | None], batch: int | str = "N", side: int = 112) -> Path:
    """A graph that gives means of its input: over the picture (axes [2, 3]) or over everything but the batch."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make: Any = onnx.helper
    kind = onnx.TensorProto.FLOAT
    nodes, tensors, values = [], [], []
    for name, axes in outputs.items():
        chosen = [1, 2, 3] if axes is None else axes
        tensors.append(make.make_tensor(f"{name} axes", onnx.TensorProto.INT64, [len(chosen)], chosen))
        nodes.append(make.make_node("ReduceMean", ["in", f"{name} axes"], [f"{name} mean"], keepdims=0))
        shape = make.make_tensor(f"{name} shape", onnx.TensorProto.INT64, [2], [-1, 1 if axes is None else 3])
        tensors.append(shape)
        nodes.append(make.make_node("Reshape", [f"{name} mean", f"{name} shape"], [name]))
        values.append(make.make_tensor_value_info(name, kind, [batch, 1 if axes is None else 3]))
    taken = make.make_tensor_value_info("in", kind, [batch, 3, side, side])
    graph = make.make_graph(nodes, "toy", [taken], values, tensors)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def embedding_file(path: Path, side: int, last: bool = False, channels: int = 3, normalises: bool = False) -> Path:
    """An embedding network: the mean colours of 4x4 parts of its input, (N, 48), of values in [-1, 1]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make: Any = onnx.helper
    kind = onnx.TensorProto.FLOAT
    nodes, tensors, name = [], [], "in"
    if normalises:
        tensors += [make.make_tensor("mean", kind, [1], [127.5]), make.make_tensor("by", kind, [1], [1 / 127.5])]
        nodes += [make.make_node("Sub", [name, "mean"], ["less"]), make.make_node("Mul", ["less", "by"], ["scaled"])]
        name = "scaled"
    if last:
        nodes.append(make.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    part = side // 4
    nodes.append(make.make_node("AveragePool", [name], ["parts"], kernel_shape=[part, part], strides=[part, part]))
    nodes.append(make.make_node("Flatten", ["parts"], ["embedding"]))
    shape = ["N", side, side, channels] if last else ["N", channels, side, side]
    taken = make.make_tensor_value_info("in", kind, shape)
    given = make.make_tensor_value_info("embedding", kind, ["N", 16 * channels])
    graph = make.make_graph(nodes, "toy", [taken], [given], tensors)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9), str(path))
    return path
