"""What computes the window pass: torch, its compiler, another runtime by name, or files that somebody exported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

from personalive.acceleration.compile import compile_decoder, compile_window
from personalive.acceleration.export import (
    FlatWindow,
    example,
    export_onnx,
    export_package,
    made_package,
    open_package,
    unflattened,
)
from personalive.acceleration.made import Made, made_for, read_made
from personalive.acceleration.runtimes import (
    FlatRun,
    decode_by_openvino,
    has_bfloat16,
    open_onnx,
    open_openvino,
)
from personalive.acceleration.swap import WindowPass, each_session, own_unet, swap
from personalive.acceleration.tensorrt import export_engine, made_engine, open_engine
from personalive.acceleration.warp import warp_by_onnxruntime, warp_by_openvino
from personalive.contracts import Networks
from personalive.errors import ConfigError, OutputError
from personalive.weights.record import unheard

logger = logging.getLogger(__name__)

EAGER, COMPILE, GRAPHS, AUTO = "eager", "compile", "cuda-graphs", "auto"
BFLOAT16 = "openvino-bfloat16"

SMALL = 256 << 20
"""Bytes of a denoising UNet that "auto" translates: a large one would take long, and its size again for each file."""

SPARE = 64 << 20
"""Bytes of disk that stay free."""


@dataclass(frozen=True)
class Kind:
    """A runtime that reads files: how they end, how one is made, opened, and what its record says.

    package: what has to be installed; where: the type of device that it is for (None: any), on a CPU in float32;
    heavy: the weights are inside the file; able: whether this machine can (None: any can); rest: puts other networks,
    too, where the window pass is.
    """

    suffix: str
    write: Callable[[Networks, Path, int], Path]
    open: Callable[[Path, Networks], FlatRun]
    made: Callable[[Networks], Made] = made_for
    package: str | None = None
    where: str | None = None
    heavy: bool = True
    able: Callable[[], bool] | None = None
    rest: Callable[[Networks], Networks] | None = None

    def check(self, name: str, networks: Networks) -> None:
        """Before minutes of work for nothing. Raises ConfigError and ModuleNotFoundError."""
        parameter = next(own_unet(networks).parameters())
        if self.where == "cpu" and (parameter.device.type != "cpu" or parameter.dtype != torch.float32):
            raise ConfigError(
                f"the runtime {name} is for the CPU in float32: take --device cpu, or --runtime {COMPILE}"
            )
        if self.where == "cuda":
            _check_cuda(name, networks)
        if self.package is not None:
            importlib.import_module(self.package)
        if self.able is not None and not self.able():
            raise ConfigError(f"this CPU has no instructions for the runtime {name}: take --runtime {self.package}")


KINDS = {
    "aoti": Kind(".pt2", export_package, open_package, made_package, heavy=False),
    "onnxruntime": Kind(
        ".onnx",
        export_onnx,
        lambda path, _: open_onnx(path),
        package="onnxruntime",
        where="cpu",
        rest=warp_by_onnxruntime,
    ),
    "openvino": Kind(
        ".onnx",
        export_onnx,
        lambda path, _: open_openvino(path),
        package="openvino",
        where="cpu",
        rest=lambda networks: warp_by_openvino(networks, "f32"),
    ),
    BFLOAT16: Kind(
        ".onnx",
        export_onnx,
        lambda path, _: open_openvino(path, "bf16"),
        package="openvino",
        where="cpu",
        able=has_bfloat16,
        rest=lambda networks: warp_by_openvino(decode_by_openvino(networks, "bf16"), "bf16"),
    ),
    "tensorrt": Kind(".engine", export_engine, open_engine, made_engine, package="tensorrt", where="cuda"),
}
RUNTIMES = (AUTO, EAGER, COMPILE, GRAPHS, *KINDS)


def check_runtime(name: str) -> None:
    """Raises ConfigError unless there is a runtime or a file of this name, WeightsError for a file without record."""
    if name not in RUNTIMES:
        for file in exported_files(name):
            read_made(file)


def choose_runtime(networks: Networks, name: str, folder: Path, tell: Callable[[str], object] = unheard) -> Networks:
    """The networks with their window pass computed by one of `RUNTIMES`, or by files of `personalive export`.

    Those of `KINDS` take one file for each number of keyframes: made at the first time, which takes a minute for the
    built-in model, and kept in `folder` under a name that stands for everything inside. A `name` that is none of them
    is the path of such a file, or of a folder of them; for other numbers of keyframes the UNet goes its own way.
    "auto" is `quickest`, or eager, with one line to `tell`, where that does not work on this machine.

    Raises:
        ConfigError: there is no such runtime, it is not installed, or it is for another device.
        OutputError: the files cannot be written.
        WeightsError: a file was made for another model, device or precision, or is damaged.
    """
    if name == AUTO:
        return _quickest_that_works(networks, folder, tell)
    if name == EAGER:
        return networks
    if name == COMPILE:
        return compile_decoder(compile_window(networks))
    if name == GRAPHS:
        check_graphs(networks)
        return compile_decoder(compile_window(networks, "reduce-overhead"))
    wanted: dict[str, Made] = {}  # once for each kind: the weights are read for it
    if name in KINDS:
        KINDS[name].check(name, networks)
        wanted[name] = KINDS[name].made(networks)
        files = dict.fromkeys(window_files(networks, KINDS[name], wanted[name], folder, tell), name)
    else:
        files = {file: kind for file in exported_files(name) if (kind := kind_of(file))}
    windows: dict[int, WindowPass] = {}
    for file, kind in files.items():
        if kind not in wanted:
            KINDS[kind].check(kind, networks)
            wanted[kind] = KINDS[kind].made(networks)
        made = read_made(file)
        made.check(file, wanted[kind])
        windows[made.keyframes] = each_session(unflattened(KINDS[kind].open(file, networks)))
    swapped = swap(networks, windows)
    rest = KINDS[name].rest if name in KINDS else None
    return swapped if rest is None else rest(swapped)


def _quickest_that_works(networks: Networks, folder: Path, tell: Callable[[str], object]) -> Networks:
    """The networks in `quickest`, tried once; as they are where that fails in whatever way: nobody asked for it."""
    name = AUTO
    try:
        with torch.random.fork_rng(devices=[]):  # examples are random, whoever draws next must not notice
            name = quickest(networks)
            chosen = choose_runtime(networks, name, folder, tell)
            if name != EAGER:
                _try_once(chosen)
    except Exception as error:  # runtimes fail with errors of their own, which have no common type
        logger.debug("runtime %s", name, exc_info=True)
        said = " ".join(str(error).split())[:200] or type(error).__name__
        tell(f"the UNet is computed by torch, the runtime {name} does not work here: {said}")
        return networks
    return chosen


@torch.no_grad()
def _try_once(networks: Networks) -> None:
    """Computes one window and decodes one frame."""
    config = networks.config
    FlatWindow(networks.denoising_unet)(*example(networks, 0))
    networks.autoencoder.decode(torch.zeros(1, config.unet.latent_channels, *[config.latent_size] * 2))


def check_graphs(networks: Networks) -> None:
    """Raises ConfigError where there can be no CUDA graphs, or none in a server's thread."""
    _check_cuda(GRAPHS, networks)
    if TorchVersion(torch.__version__) < "2.13":
        raise ConfigError(f"the runtime {GRAPHS} needs torch 2.13 or newer, this is {torch.__version__}")


def _check_cuda(name: str, networks: Networks) -> None:
    if next(own_unet(networks).parameters()).device.type != "cuda":
        raise ConfigError(f"the runtime {name} is for an NVIDIA GPU: take --device cuda, or --runtime {COMPILE}")


def quickest(networks: Networks) -> str:
    """The runtime for these networks that needs no choice of the user's: OpenVINO for a small model on a CPU, in
    bfloat16 where the CPU has it, if it is installed; else eager.
    """
    unet = own_unet(networks)
    parameter = next(unet.parameters())
    small = sum(tensor.nbytes for tensor in unet.parameters()) <= SMALL
    wanted = small and parameter.device.type == "cpu" and parameter.dtype == torch.float32
    if not wanted or any(importlib.util.find_spec(package) is None for package in ("openvino", "onnxscript")):
        return EAGER
    return BFLOAT16 if has_bfloat16() else "openvino"


def exported_files(name: str) -> list[Path]:
    """A file of the window pass, or all that are in a folder. Raises ConfigError where there is none."""
    path = Path(name)
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    known = [file for file in files if kind_of(file) is not None]
    if known:
        return known
    if path.exists():
        suffixes = ", ".join(dict.fromkeys(kind.suffix for kind in KINDS.values()))
        raise ConfigError(f"{name} is no file of a window pass ({suffixes}), nor a folder with one")
    raise ConfigError(
        f"there is no runtime {name!r}; choose one of {', '.join(RUNTIMES)}, or a file that `personalive export` wrote"
    )


def kind_of(file: Path) -> str | None:
    """Which of `KINDS` reads a file, by its ending."""
    return next((name for name, kind in KINDS.items() if kind.suffix == file.suffix), None)


def window_files(
    networks: Networks, kind: Kind, made: Made, folder: Path, tell: Callable[[str], object] = unheard
) -> list[Path]:
    """The files for 0, 1, ... keyframes, as `made`; what is not there is made. Raises OutputError, ConfigError."""
    digest = hashlib.sha256(str(made).encode()).hexdigest()[:16]
    numbers = range(networks.config.stream.keyframes + 1)
    paths = [folder / f"{networks.config.name}-{digest}-{count}{kind.suffix}" for count in numbers]
    absent = [count for count, path in enumerate(paths) if not path.is_file()]
    if absent:
        weights = sum(tensor.nbytes for tensor in own_unet(networks).parameters()) if kind.heavy else SPARE
        size = len(absent) * weights
        tell(f"making {len(absent)} files of the window pass in {folder}, once for this model: {size / 1e6:.0f} MB")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror or error}") from error
        if free < size + SPARE:
            raise OutputError(f"{folder}: {size / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB of the disk are free")
    for count in absent:
        kind.write(networks, paths[count], count)
    return paths
