"""The window pass as a file: ONNX for other runtimes, or a package compiled ahead of time for this machine's device.

A file is made for one configuration, one precision and one number of keyframes: all its shapes are fixed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalive.acceleration.runtimes import FlatRun, open_onnx
from personalive.acceleration.shapes import Shapes
from personalive.acceleration.swap import WindowPass, append, own_unet, swap
from personalive.contracts import KeyValues, MotionSignals, Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.models.denoising_unet import DenoisingUNet
from personalive.streaming.schedule import Schedule

OUTPUT = "prediction"


class FlatWindow(nn.Module):
    """The window pass with plain tensors for arguments, as exporters want it."""

    def __init__(self, unet: DenoisingUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, latents: Tensor, timesteps: Tensor, image_token: Tensor, motion: Tensor, pose: Tensor, *shared: Tensor
    ) -> Tensor:
        """`shared`: the keys of every block, then the values of every block. See `swap.WindowPass`."""
        blocks = len(shared) // 2
        key_values = KeyValues(shared[:blocks], shared[blocks:])
        prediction: Tensor = self.unet(latents, timesteps, image_token, MotionSignals(motion, pose), key_values)
        return prediction


def input_names(networks: Networks) -> list[str]:
    """The names of the inputs, in their order."""
    blocks = range(own_unet(networks).attention_count)
    names = ["latents", "timesteps", "image_token", "motion", "pose"]
    return names + [f"keys_{block}" for block in blocks] + [f"values_{block}" for block in blocks]


def example(networks: Networks, keyframes: int) -> tuple[Tensor, ...]:
    """Random inputs for one session with so many keyframes, in the networks' precision and on their device."""
    config, unet = networks.config, own_unet(networks)
    parameter = next(unet.parameters())
    shapes = Shapes(config, parameter.dtype, str(parameter.device))
    reference, slots = shapes.reference(networks)
    if keyframes > config.stream.keyframes:
        raise ConfigError(f"this model has {config.stream.keyframes} keyframe slots, not {keyframes}")
    shared = append(reference.key_values, slots, list(range(keyframes)))
    window = shapes.signals(config.stream.window_frames)
    timesteps = Schedule(config.stream).window_timesteps(parameter.device)[None]  # (1, F)
    latents = shapes.latents(config.stream.window_frames).to(parameter.dtype)
    flat = (latents, timesteps, reference.image_token, window.motion, window.pose, *shared.keys, *shared.values)
    return tuple(tensor.clone() for tensor in flat)  # some are views of one memory


@torch.no_grad()
def export_onnx(networks: Networks, path: str | Path, keyframes: int = 0) -> Path:
    """Write the window pass as ONNX; weights beyond 2 GB go into a file beside it.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(path)
    arguments = example(networks, keyframes)
    program = torch.onnx.export(
        FlatWindow(own_unet(networks)).eval(),
        arguments,
        input_names=input_names(networks),
        output_names=[OUTPUT],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    large = sum(p.numel() * p.element_size() for p in own_unet(networks).parameters()) > 2**31 - 2**24
    return in_place(path, lambda temporary: program.save(str(temporary), external_data=large))


def use_onnx(networks: Networks, path: str | Path, keyframes: int = 0, providers: Sequence[str] = ()) -> Networks:
    """The networks with onnxruntime computing the window pass of an exported file.

    Raises:
        WeightsError: the file cannot be read.
    """
    return swap(networks, {keyframes: unflattened(open_onnx(path, providers))})


@torch.no_grad()
def export_package(networks: Networks, path: str | Path, keyframes: int = 0) -> Path:
    """Compile the window pass ahead of time for the networks' device: a .pt2 package that needs no compiling later.

    Raises:
        OutputError: it cannot be written, or not under this name.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise OutputError(f"{path}: a compiled package ends in .pt2")
    program = torch.export.export(FlatWindow(own_unet(networks)).eval(), example(networks, keyframes), strict=False)
    compiler: Callable[..., str] = torch._inductor.aoti_compile_and_package
    return in_place(path, lambda temporary: compiler(program, package_path=str(temporary)))


def use_package(networks: Networks, path: str | Path, keyframes: int = 0) -> Networks:
    """The networks with a compiled package computing the window pass.

    Raises:
        WeightsError: the package cannot be read.
    """
    try:
        loaded: Any = torch._inductor.aoti_load_package(str(path))
    except Exception as error:  # a damaged archive can fail anywhere in the reader
        raise WeightsError(f"{path} is no package of a window pass for this machine: export it again") from error
    return swap(networks, {keyframes: unflattened(loaded)})


def unflattened(run: FlatRun) -> WindowPass:
    """A `WindowPass` from a callable of plain tensors."""

    def window(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        return run(latents, timesteps, image_token, signals.motion, signals.pose, *shared.keys, *shared.values)

    return window


def in_place(path: Path, write: Callable[[Path], object]) -> Path:
    """What `write` writes under the same name in a folder of its own, moved when it is complete, companions first."""
    workshop = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        workshop.mkdir()
        write(workshop / path.name)
        for file in sorted(workshop.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return path
