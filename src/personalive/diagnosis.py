"""What is wrong with this machine or this installation, and the one command that mends it: `personalive doctor`.

Facts are gathered apart from what is concluded from them, so that every conclusion can be tested on any machine.
"""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import subprocess
import webbrowser
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personalive.errors import PersonaLiveError

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "huggingface_hub", "av", "PIL", "cv2", "numpy", "rich")
ENCODERS = {"libx264": "MP4", "aac": "sound", "gif": "GIF"}
DECODERS = ("h264", "hevc", "vp9", "aac")
LEAST_DISK = 20 << 30  # the official weights, and a converted copy


@dataclass(frozen=True)
class Finding:
    """One line of the report. "note": nothing is wrong, but something does not work here. `mend`: a command."""

    state: Literal["ok", "note", "problem"]
    about: str
    says: str
    mend: str = ""


@dataclass(frozen=True)
class TorchFacts:
    """torch's build and the GPU it sees: CUDA versions as "12.8", kernels as "sm_90", capability as (9, 0)."""

    version: str
    built_for: str | None
    available: bool
    kernels: tuple[str, ...] = ()
    gpu: str = ""
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class DriverFacts:
    """The NVIDIA driver: its version and the newest CUDA that it knows ("" where it does not say)."""

    version: str
    cuda: str = ""


def examine(checks: Collection[Callable[[], Iterator[Finding]]] | None = None) -> Iterator[Finding]:
    """Every finding, in order. A check that fails by itself is a finding, too."""
    for check in CHECKS if checks is None else checks:
        try:
            yield from check()
        except PersonaLiveError as error:
            yield Finding("problem", check.__name__.replace("_", " "), str(error))
        except Exception as error:
            yield Finding("problem", check.__name__.replace("_", " "), f"{type(error).__name__}: {error}")


def machine() -> Iterator[Finding]:
    """What this is, and its disk. (Another Python than we need does not get here.)"""
    from personalive.weights.find import home

    yield Finding("ok", "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    enough = free >= LEAST_DISK
    says = f"{free / 1e9:.0f} GB free for weights in {home()}"
    yield Finding("ok" if enough else "note", "disk", says if enough else f"{says}; the official ones need about 20 GB")


def packages() -> Iterator[Finding]:
    """What we stand on can be imported."""
    broken = {}
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation can fail in any way
            broken[name] = f"{type(error).__name__}: {error}"
    for name, reason in broken.items():
        yield Finding("problem", f"package {name}", reason, "pip install --force-reinstall personalive")
    if not broken:
        yield Finding("ok", "packages", f"all {len(PACKAGES)} can be imported")


def gpu() -> Iterator[Finding]:
    """torch's build against the driver."""
    yield judge_gpu(torch_facts(), driver_facts())


def judge_gpu(torch: TorchFacts, driver: DriverFacts | None) -> Finding:
    """What torch's build and the driver mean together."""
    build = f"torch {torch.version}" + (f" for CUDA {torch.built_for}" if torch.built_for else " for CPUs only")
    upgrade = "pip install --upgrade --force-reinstall torch"
    if driver is None:
        if torch.built_for and not torch.available:
            return Finding("note", "GPU", f"{build}, but there is no NVIDIA driver: the CPU is used")
        if not torch.available:
            return Finding(
                "note", "GPU", f"none; {build}: the built-in model runs, the official one would take minutes"
            )
    elif torch.built_for is None:
        return Finding("problem", "GPU", f"there is an NVIDIA GPU (driver {driver.version}), but {build}", upgrade)
    elif not torch.available:
        known = f" knows CUDA {driver.cuda}" if driver.cuda else ""
        old = driver.cuda and _number(driver.cuda) < _number(torch.built_for)
        why = f"the driver {driver.version}{known}" + (", which is too old" if old else " does not answer torch")
        return Finding("problem", "GPU", f"{build}, but {why}", "sudo ubuntu-drivers install" if old else "nvidia-smi")
    kernel = f"sm_{torch.capability[0]}{torch.capability[1]}"
    if torch.kernels and not _covered(torch.capability, torch.kernels):
        return Finding("problem", "GPU", f"{torch.gpu} needs {kernel}, which {build} lacks", upgrade)
    return Finding("ok", "GPU", f"{torch.gpu} ({kernel}), {build}")


def memory() -> Iterator[Finding]:
    """Whether the official model fits on the device, and with which preset."""
    import torch

    from personalive.acceleration.memory import choose_policy, free_memory
    from personalive.config import OFFICIAL
    from personalive.device import choose_device

    device = choose_device()
    free = free_memory(device)
    if device.type != "cuda" or free is None:
        known = "an unknown amount of" if free is None else f"{free / 1e9:.1f} GB of"
        yield Finding("note", "memory", f"{known} memory free on the {device.type}; the official model wants a GPU")
        return
    try:
        plan = choose_policy(OFFICIAL, torch.float16, free)
        peak = plan.peak / 1e9
        yield Finding("ok", "memory", f"official model in fp16: {peak:.1f} of {free / 1e9:.1f} GB ({plan.policy.name})")
    except PersonaLiveError as error:
        yield Finding("problem", "memory", str(error), "nvidia-smi")


def weights() -> Iterator[Finding]:
    """The built-in model is sound; the official files, if they are here, are what was downloaded."""
    from personalive.weights.describe import describe_checkpoint
    from personalive.weights.download import is_complete
    from personalive.weights.find import bundle, official_folder
    from personalive.weights.load import BUILT_IN, find_model
    from personalive.weights.manifest import BUNDLES
    from personalive.weights.record import damaged_files, read_record

    for name in BUILT_IN:
        try:
            about = describe_checkpoint(find_model(name))
            yield Finding("ok", f"model {name}", f"{about.parameters / 1e6:.1f} M numbers, {about.size / 1e6:.1f} MB")
        except PersonaLiveError as error:
            yield Finding("problem", f"model {name}", str(error), "pip install --force-reinstall personalive")
    folder, parts = official_folder(), bundle("official")
    where = "" if folder == official_folder_of_user() else f" --to {folder}"
    damaged = damaged_files(folder)
    for place, wrong in damaged.items():
        bundles = (name for name, parts in BUNDLES.items() if any(place in part.places for part in parts))
        mend = f"personalive download {next(bundles, 'official')} --repair{where}"
        yield Finding("problem", f"weights {place}", wrong, mend)
    if not is_complete(folder, parts):
        some = any((folder / place).is_file() for part in parts for place in part.places)
        says = f"incomplete in {folder}" if some else "not on this machine"
        yield Finding("problem" if some else "note", "model official", says, f"personalive download official{where}")
        return
    unknown = [p for part in parts for p in part.places if (folder / p).is_file() and p not in read_record(folder)]
    if unknown:
        says = f"in {folder}; {len(unknown)} files were never compared with the hub's hashes"
        yield Finding("note", "model official", says, f"personalive download official --repair{where}")
    elif not damaged:
        yield Finding("ok", "model official", f"in {folder}, every file verified")


def official_folder_of_user() -> Path:
    """Where a plain `personalive download` would go from anywhere."""
    from personalive.weights.find import LAYOUT, home

    return home() / LAYOUT


def codecs() -> Iterator[Finding]:
    """PyAV's own ffmpeg can read and write what we need."""
    from av.codec import codecs_available

    yield from judge_codecs(codecs_available)


def judge_codecs(available: Collection[str]) -> Iterator[Finding]:
    """What ffmpeg's list of codecs means."""
    missing = [f"{name} (to write {use})" for name, use in ENCODERS.items() if name not in available]
    missing += [f"{name} (to read)" for name in DECODERS if name not in available]
    if missing:
        yield Finding("problem", "video", f"PyAV lacks {', '.join(missing)}", "pip install --force-reinstall av")
    else:
        yield Finding("ok", "video", f"PyAV has {', '.join([*ENCODERS, *DECODERS])}")


def browser() -> Iterator[Finding]:
    """Whether a page could be opened here."""
    try:
        yield Finding("ok", "browser", webbrowser.get().name)
    except webbrowser.Error:
        yield Finding("note", "browser", "none on this machine: open the live page's address on another one")


def torch_facts() -> TorchFacts:
    """What torch says of itself."""
    import torch

    if not torch.cuda.is_available():
        return TorchFacts(torch.__version__, torch.version.cuda, False)
    return TorchFacts(
        torch.__version__,
        torch.version.cuda,
        True,
        tuple(torch.cuda.get_arch_list()),
        torch.cuda.get_device_name(),
        torch.cuda.get_device_capability(),
    )


def driver_facts() -> DriverFacts | None:
    """What nvidia-smi says; None where there is no driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
    return DriverFacts(version[1], cuda[1] if cuda else "") if version else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _covered(capability: tuple[int, int], kernels: Collection[str]) -> bool:
    """Machine code of the same major version and no newer, or an intermediate code (compute_) that is no newer."""
    for kernel in kernels:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", kernel)
        if found:
            built = (int(found[2]), int(found[3]))
            if built <= capability and (found[1] == "compute" or built[0] == capability[0]):
                return True
    return False


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (machine, packages, gpu, memory, weights, codecs, browser)
