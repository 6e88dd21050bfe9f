"""Checkpoints -> networks, strictly: every missing, foreign or wrong-shaped entry is named, nothing is skipped.

A checkpoint is one safetensors file that carries its configuration. A large model may be a folder instead (folder.py);
the published files are read by official.py.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from personalive.config import ModelConfig, from_json
from personalive.contracts import Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.image_encoder import ImageEncoder
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_unet import ReferenceUNet
from personalive.models.reference_warp import ReferenceWarp
from personalive.plain_data import to_json
from personalive.weights.compact import compacted, expanded
from personalive.weights.idle import idle_entries
from personalive.weights.tensors import PICKLES, listing, read_metadata, read_safetensors, refuse_code

FORMAT = "personalive"
BUILT_IN = ("mini",)
NAMES = tuple(field.name for field in dataclasses.fields(Networks) if field.name != "config")

# What the constructors compute: official files may or may not hold these.
_COMPUTED = re.compile(r"(^|\.)(idx_tensor|pe|num_batches_tracked)$")


def build_networks(
    config: ModelConfig, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Networks:
    """The networks of a configuration with fresh weights, in evaluation mode; the head mesh is float32 in any case.

    On the "meta" device they have no weights at all, and wait for `load_state`.
    """
    meta = torch.device(device).type == "meta"
    with torch.device("meta" if meta else "cpu"):
        networks = Networks(
            config=config,
            autoencoder=Autoencoder(config.autoencoder),
            image_encoder=ImageEncoder(config.image_encoder),
            reference_unet=ReferenceUNet(config.unet),
            denoising_unet=DenoisingUNet(config.unet),
            motion_extractor=MotionExtractor(config.motion_extractor),
            motion_encoder=MotionEncoder(config.motion_encoder),
            pose_guider=PoseGuider(config.pose_guider),
            reference_warp=_reference_warp(config),
        )
    for module in modules(networks).values():
        # A move to meta would empty the tables that are not in checkpoints.
        module.to(dtype=dtype) if meta else module.to(device=device, dtype=dtype)
        module.eval()
    if networks.reference_warp is not None:
        networks.reference_warp.mesh.float()  # geometry, not a network: it needs its digits
    return networks


def modules(networks: Networks) -> dict[str, nn.Module]:
    """The modules of `networks` by the names of its fields; those that it has."""
    found = {name: getattr(networks, name) for name in NAMES}
    return {name: module for name, module in found.items() if module is not None}


def names_of(config: ModelConfig) -> tuple[str, ...]:
    """Names of the networks that a model of this configuration has."""
    return tuple(name for name in NAMES if config.warp.enabled or name != "reference_warp")


def _reference_warp(config: ModelConfig) -> ReferenceWarp | None:
    if not config.warp.enabled:
        return None
    tokens = config.motion_encoder.tokens * config.motion_encoder.token_dim
    return ReferenceWarp(config.warp, tokens, config.unet.channels[0])


def save_networks(
    networks: Networks, path: str | Path, dtype: torch.dtype = torch.float16, description: str = ""
) -> None:
    """Write one safetensors file with the networks and their configuration; it appears complete or not at all.

    Parameters are stored as `dtype`; buffers (running statistics, tables) as they are, since they are small and some
    have a range that half precision has not. What no result depends on is left out (`idle_entries`). In half precision
    the kernels of some networks take 8 bits (`compact.COMPACT`); float32 is exact.

    Raises:
        WeightsError: a parameter is not finite, or does not fit into `dtype`.
        OutputError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules(networks).items():
        stored, idle = stored_tensors(module, name, dtype), idle_entries(module)
        tensors |= {f"{name}.{key}": tensor for key, tensor in stored.items() if key not in idle}
    metadata = {"format": FORMAT, "config": to_json(networks.config), "description": description}
    write_tensors(tensors if dtype == torch.float32 else compacted(tensors), Path(path), metadata)


def stored_tensors(module: nn.Module, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A network's state as it goes into a file: parameters as `dtype`, buffers as they are.

    Raises:
        WeightsError: a value is not finite, or does not fit into `dtype`; `name` is the network's in the message.
    """
    parameters = {key for key, _ in module.named_parameters()}
    tensors = {}
    for key, tensor in module.state_dict().items():
        stored = tensor.detach().to("cpu", dtype if key in parameters else tensor.dtype).contiguous()
        if not torch.isfinite(stored).all():
            raise WeightsError(f"{name}.{key} has values that are not finite in {dtype}: nothing is written")
        tensors[key] = stored
    return tensors


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """One safetensors file, complete or not at all. Raises OutputError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(0o644)  # safetensors writes for the owner alone; a packaged checkpoint is for everybody
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"the checkpoint {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_networks(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Networks:
    """The networks of a file that `save_networks` wrote, in evaluation mode.

    Raises:
        WeightsError: the file is missing, damaged, foreign, or not what its configuration says.
    """
    path = Path(path)
    config = read_file_config(path)
    networks = build_networks(config, "meta", dtype)
    nets = nn.ModuleDict(modules(networks))
    load_state(nets, idle_entries(nets) | expanded(read_safetensors(path)[0]), str(path))
    nets.to(device)
    return networks


def read_file_config(path: Path) -> ModelConfig:
    """The configuration inside a file that `save_networks` wrote, without reading its tensors.

    Raises:
        WeightsError: the file is missing, damaged, foreign, or of another version.
    """
    refuse_code(path)
    if path.suffix in PICKLES:
        raise WeightsError(
            f"{path} is one file of a published model: give the folder that holds all of them. Pickles with code are "
            "never read"
        )
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path} has no PersonaLive configuration inside: give a checkpoint that this project wrote, "
            f"or a built-in model's name ({', '.join(BUILT_IN)})"
        )
    try:
        return from_json(metadata["config"])
    except ConfigError as error:
        raise WeightsError(f"{path}: its configuration is not of this version: {error}") from error


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a module from tensors by name, strictly; values are cast to the module's own precision.

    A module on the meta device takes the tensors (after the cast) as its own. Tables that the constructor computes may
    be missing.

    Raises:
        WeightsError: entries are missing, foreign or of another shape; `where` says whose they are.
    """
    own = {key: _counted(key, tensor) for key, tensor in module.state_dict().items()}
    computed = {key for key, tensor in own.items() if _COMPUTED.search(key) and not tensor.is_meta}
    wrong = [
        f"{key} is {_shape(tensors[key])}, not {_shape(own[key])}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    missing = [key for key in own if key not in tensors and key not in computed]
    foreign = [key for key in tensors if key not in own]
    if missing or foreign or wrong:
        problems = [listing("missing", missing), listing("foreign", foreign), listing("of the wrong size", wrong)]
        found = "; ".join(problem for problem in problems if problem)
        raise WeightsError(
            f"{where} does not fit this network: {found}. Give the file that belongs to it",
            details=[f"missing {key}" for key in missing] + [f"foreign {key}" for key in foreign] + wrong,
        )
    meta = any(tensor.is_meta for tensor in own.values())
    state = {key: tensors[key].to(own[key].dtype) if key in tensors else own[key] for key in own}
    module.load_state_dict(state, assign=meta)


def find_model(name_or_path: str | Path) -> Path:
    """The checkpoint file of a built-in model's name, or of a path.

    Raises:
        WeightsError: there is neither such a model nor such a file.
    """
    name = str(name_or_path)
    if name in BUILT_IN:
        asset = Path(str(importlib.resources.files("personalive"))) / "assets" / f"{name}.safetensors"
        if not asset.is_file():
            raise WeightsError(f"the built-in model {name!r} is not in this installation ({asset}): install it again")
        return asset
    if not Path(name).exists():
        raise WeightsError(f"{name}: no such file, and no built-in model (known: {', '.join(BUILT_IN)})")
    return Path(name)


def _counted(key: str, tensor: Tensor) -> Tensor:
    """A batch counter needs no memory to speak of, and older files have none: a zero, instead of nothing on meta."""
    counter = tensor.is_meta and key.rpartition(".")[2] == "num_batches_tracked"
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if counter else tensor


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a number"
