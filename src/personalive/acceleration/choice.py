"""What computes the window pass, by name: torch, its compiler, or another runtime with files that are made once."""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from personalive.acceleration.compile import compile_window
from personalive.acceleration.export import export_onnx, unflattened
from personalive.acceleration.runtimes import FlatRun, open_onnx, open_openvino
from personalive.acceleration.swap import WindowPass, own_unet, swap
from personalive.config import to_json
from personalive.contracts import KeyValues, MotionSignals, Networks
from personalive.errors import ConfigError, OutputError
from personalive.streaming.state import map_tensors
from personalive.weights.record import unheard

EAGER, COMPILE = "eager", "compile"
OPENERS: dict[str, Callable[[Path], FlatRun]] = {"onnxruntime": open_onnx, "openvino": open_openvino}
RUNTIMES = (EAGER, COMPILE, *OPENERS)

SPARE = 64 << 20
"""Bytes of disk that stay free."""


def check_runtime(name: str) -> None:
    """Raises ConfigError unless there is a runtime of this name."""
    if name not in RUNTIMES:
        raise ConfigError(f"there is no runtime {name!r}; choose one of {', '.join(RUNTIMES)}")


def choose_runtime(networks: Networks, name: str, folder: Path, tell: Callable[[str], object] = unheard) -> Networks:
    """The networks with their window pass computed by one of `RUNTIMES`.

    onnxruntime and openvino take one ONNX file for each number of keyframes: made at the first time, which takes a
    minute for the built-in model, and kept in `folder` under a name that stands for everything inside.

    Raises:
        ConfigError: there is no such runtime, it is not installed, or it is for a CPU in float32 only.
        OutputError: the files cannot be written.
    """
    check_runtime(name)
    if name == EAGER:
        return networks
    if name == COMPILE:
        return compile_window(networks)
    parameter = next(own_unet(networks).parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise ConfigError(f"the runtime {name} is for the CPU in float32: take --device cpu, or --runtime {COMPILE}")
    importlib.import_module(name)  # before minutes of work for nothing
    files = window_files(networks, folder, tell)
    return swap(networks, {count: each_session(unflattened(OPENERS[name](file))) for count, file in enumerate(files)})


def window_files(networks: Networks, folder: Path, tell: Callable[[str], object] = unheard) -> list[Path]:
    """The ONNX files for 0, 1, ... keyframes; what is not there is made. Raises OutputError, ConfigError."""
    stem = f"{networks.config.name}-{fingerprint(networks)}"
    paths = [folder / f"{stem}-{count}.onnx" for count in range(networks.config.stream.keyframes + 1)]
    absent = [count for count, path in enumerate(paths) if not path.is_file()]
    if absent:
        size = len(absent) * sum(tensor.nbytes for tensor in own_unet(networks).parameters())
        tell(f"making {len(absent)} files of the window pass in {folder}, once for this model: {size / 1e6:.0f} MB")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
        if free < size + SPARE:
            raise OutputError(f"{folder}: {size / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB of the disk are free")
    for count in absent:
        export_onnx(networks, paths[count], count)
    return paths


def fingerprint(networks: Networks) -> str:
    """16 digits that change with the denoising UNet's weights, the configuration and torch's version."""
    digest = hashlib.sha256(f"{torch.__version__} {to_json(networks.config)}".encode())
    for key, tensor in own_unet(networks).state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def each_session(one: WindowPass) -> WindowPass:
    """A pass for any number of sessions by one that takes a single one: a file's shapes are fixed."""

    def run(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        together = (latents, timesteps, image_token, signals, shared)
        alone = [map_tensors(lambda tensor, b=b: tensor[b : b + 1], together) for b in range(latents.shape[0])]
        return torch.cat([one(*arguments) for arguments in alone])

    return run
