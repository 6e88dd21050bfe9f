"""The window pass as a file: ONNX for other runtimes, or a package compiled ahead of time for this machine's device.

A file is made for one configuration, one precision and one number of keyframes: all its shapes are fixed.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalive.acceleration.made import Made, made_for
from personalive.acceleration.runtimes import FlatRun
from personalive.acceleration.shapes import Shapes
from personalive.acceleration.swap import WindowPass, append, own_unet, plain
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
    return tuple(plain(tensor).clone() for tensor in flat)  # some are views of one memory


@torch.no_grad()
def export_onnx(networks: Networks, path: str | Path, keyframes: int = 0) -> Path:
    """Write the window pass as ONNX; weights beyond 2 GB go into a file beside it.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(path)
    arguments = example(networks, keyframes)
    with without_chatter():
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
    made = made_for(networks, keyframes)
    return in_place(path, lambda temporary: program.save(str(temporary), external_data=large), made)


@contextmanager
def without_chatter() -> Iterator[None]:
    """The exporter tells everybody that torchvision is not there, and warns of its own deprecated calls."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


@torch.no_grad()
def export_package(networks: Networks, path: str | Path, keyframes: int = 0) -> Path:
    """Compile the window pass ahead of time for the networks' device: a .pt2 package that needs no compiling later.

    The weights stay outside, so that packages for several numbers of keyframes share them with the networks.

    Raises:
        OutputError: it cannot be written, or not under this name.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise OutputError(f"{path}: a compiled package ends in .pt2")
    program = torch.export.export(FlatWindow(own_unet(networks)).eval(), example(networks, keyframes), strict=False)
    compiler: Callable[..., str] = torch._inductor.aoti_compile_and_package
    settings = {"aot_inductor.package_constants_in_so": False}
    return in_place(
        path,
        lambda temporary: compiler(program, package_path=str(temporary), inductor_configs=settings),
        made_package(networks, keyframes),
    )


def made_package(networks: Networks, keyframes: int = 0) -> Made:
    """The record of a compiled package."""
    return made_for(networks, keyframes, device=True, software=f"torch {torch.__version__}")


def open_package(path: Path, networks: Networks) -> FlatRun:
    """A compiled package that computes with the weights of these networks, which it was made for.

    Raises:
        WeightsError: the package cannot be read, or asks for other weights.
    """
    weights = FlatWindow(own_unet(networks)).state_dict()
    try:
        package: Any = torch._inductor.aoti_load_package(str(path))
        wanted = {name: weights[name] for name in package.get_constant_fqns()}
        package.load_constants(wanted, check_full_update=True, user_managed=True)
    except Exception as error:  # a damaged archive can fail anywhere in the reader
        raise WeightsError(f"{path} is no package of a window pass for this machine: export it again") from error

    def run(*flat: Tensor) -> Tensor:
        prediction: Tensor = package(*flat)
        return prediction

    return run


def unflattened(run: FlatRun) -> WindowPass:
    """A `WindowPass` from a callable of plain tensors."""

    def window(
        latents: Tensor, timesteps: Tensor, image_token: Tensor, signals: MotionSignals, shared: KeyValues
    ) -> Tensor:
        return run(latents, timesteps, image_token, signals.motion, signals.pose, *shared.keys, *shared.values)

    return window


def in_place(path: Path, write: Callable[[Path], object], made: Made) -> Path:
    """What `write` writes under the same name in a folder of its own, moved when it is complete, companions first."""
    workshop = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        workshop.mkdir()
        write(workshop / path.name)
        made.write(workshop / path.name)
        for file in sorted(workshop.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return path
