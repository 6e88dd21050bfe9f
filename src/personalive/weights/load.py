"""Checkpoints -> networks, strictly: every missing, foreign or wrong-shaped entry is named, nothing is skipped.

Our own checkpoints are one safetensors file that carries its configuration. The published ones are one file for each
network, in the layout that spec section 6 lists; pickles among them are read as tensors only, never as code.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from personalive.config import OFFICIAL, ModelConfig, from_json, to_json
from personalive.contracts import Networks
from personalive.errors import ConfigError, OutputError, WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.image_encoder import ImageEncoder
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_unet import ReferenceUNet

FORMAT = "personalive"
BUILT_IN = ("mini",)
NAMES = tuple(field.name for field in dataclasses.fields(Networks) if field.name != "config")
PICKLES = (".pth", ".bin", ".pt", ".ckpt")

# Where the published layout keeps each network but the denoising UNet, which is in two files.
OFFICIAL_FILES = {
    "autoencoder": (
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        "sd-vae-ft-mse/diffusion_pytorch_model.bin",
    ),
    "image_encoder": (
        "sd-image-variations-diffusers/image_encoder/model.safetensors",
        "sd-image-variations-diffusers/image_encoder/pytorch_model.bin",
    ),
    **{
        name: (f"personalive/{name}.pth",)
        for name in ("reference_unet", "motion_extractor", "motion_encoder", "pose_guider")
    },
}

# What the constructors compute: official files may or may not hold these.
_COMPUTED = re.compile(r"(^|\.)(idx_tensor|pe|num_batches_tracked)$")
# Older libraries wrote these; today's diffusers and transformers name them otherwise or not at all.
_AUTOENCODER_RENAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_FORGOTTEN = ("vision_model.embeddings.position_ids",)


def build_networks(
    config: ModelConfig, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Networks:
    """The networks of a configuration with fresh weights, in evaluation mode.

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
        )
    for module in modules(networks).values():
        # A move to meta would empty the tables that are not in checkpoints.
        module.to(dtype=dtype) if meta else module.to(device=device, dtype=dtype)
        module.eval()
    return networks


def modules(networks: Networks) -> dict[str, nn.Module]:
    """The modules of `networks` by the names of its fields."""
    return {name: getattr(networks, name) for name in NAMES}


def save_networks(
    networks: Networks, path: str | Path, dtype: torch.dtype = torch.float16, description: str = ""
) -> None:
    """Write one safetensors file with the networks and their configuration; it appears complete or not at all.

    Parameters are stored as `dtype`; buffers (running statistics, tables) as they are, since they are small and some
    have a range that half precision has not.

    Raises:
        WeightsError: a parameter is not finite, or does not fit into `dtype`.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    for name, module in modules(networks).items():
        parameters = {key for key, _ in module.named_parameters()}
        for key, tensor in module.state_dict().items():
            stored = tensor.detach().to("cpu", dtype if key in parameters else tensor.dtype).contiguous()
            if not torch.isfinite(stored).all():
                raise WeightsError(f"{name}.{key} has values that are not finite in {dtype}: {path} is not written")
            tensors[f"{name}.{key}"] = stored
    metadata = {"format": FORMAT, "config": to_json(networks.config), "description": description}
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
    tensors, metadata = _read_safetensors(path)
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path} has no PersonaLive configuration inside: give a checkpoint that this project wrote, "
            f"or a built-in model's name ({', '.join(BUILT_IN)})"
        )
    try:
        config = from_json(metadata["config"])
    except ConfigError as error:
        raise WeightsError(f"{path}: its configuration is not of this version: {error}") from error
    networks = build_networks(config, "meta", dtype)
    nets = nn.ModuleDict(modules(networks))
    load_state(nets, tensors, str(path))
    nets.to(device)
    return networks


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a module from tensors by name, strictly; values are cast to the module's own precision.

    A module on the meta device takes the tensors (after the cast) as its own. Tables that the constructor computes may
    be missing.

    Raises:
        WeightsError: entries are missing, foreign or of another shape; `where` says whose they are.
    """
    own = module.state_dict()
    computed = {key for key, tensor in own.items() if _COMPUTED.search(key) and not tensor.is_meta}
    wrong = [
        f"{key} is {_shape(tensors[key])}, not {_shape(own[key])}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    problems = [
        _listing("missing", [key for key in own if key not in tensors and key not in computed]),
        _listing("foreign", [key for key in tensors if key not in own]),
        _listing("of the wrong size", wrong),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise WeightsError(f"{where} does not fit this network: {found}. Give the file that belongs to it")
    meta = any(tensor.is_meta for tensor in own.values())
    state = {key: tensors[key].to(own[key].dtype) if key in tensors else own[key] for key in own}
    module.load_state_dict(state, assign=meta)


def load_official(module: nn.Module, path: str | Path) -> None:
    """Fill one network from one published file (.pth, .bin, .pt, .ckpt or .safetensors) with its official key names.

    Raises:
        WeightsError: the file is missing, damaged, holds code, or does not fit the network.
    """
    load_state(_official_part(module), _official_names(module, read_tensors(path)), str(path))


def load_official_denoising(module: DenoisingUNet, denoising_path: str | Path, temporal_path: str | Path) -> None:
    """Fill the denoising UNet from its two published files, which together must hold every entry.

    Where both hold one, the temporal file's counts, as in the published loading order.

    Raises:
        WeightsError: as `load_official`.
    """
    tensors = {**read_tensors(denoising_path), **read_tensors(temporal_path)}
    load_state(module, tensors, f"{denoising_path} with {temporal_path}")


def load_official_networks(
    folder: str | Path,
    config: ModelConfig = OFFICIAL,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Networks:
    """The networks of a folder in the published layout (spec section 6: `pretrained_weights`), in evaluation mode.

    Raises:
        WeightsError: a file is missing, damaged, holds code, or does not fit its network.
    """
    folder = Path(folder)
    networks = build_networks(config, "meta", dtype)
    parts = modules(networks)
    for name, places in OFFICIAL_FILES.items():
        load_official(parts[name], _first_file(folder, places))
    own = folder / "personalive"
    load_official_denoising(networks.denoising_unet, own / "denoising_unet.pth", own / "temporal_module.pth")
    for module in parts.values():
        module.to(device)
    return networks


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of any kind, on the CPU. A {"state_dict": ...} around them is taken off.

    Raises:
        WeightsError: the file is missing, damaged, of an unknown kind, or holds anything but tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    if path.suffix not in PICKLES:
        raise WeightsError(f"{path}: a checkpoint ends in .safetensors, {', '.join(PICKLES)}")
    return _read_pickle(path)


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


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    _require_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({_line(error)}): fetch or write it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _require_file(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path} holds more than tensors ({named[1] if named else 'or is no checkpoint'}): refused, since such a "
            "file can run code. Nothing of it was run; use a checkpoint of tensors only"
        ) from error
    except Exception as error:  # a damaged pickle can fail anywhere in the reader
        raise WeightsError(f"{path} is not a whole PyTorch checkpoint: fetch it again") from error
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise WeightsError(f"{path} holds a {type(data).__name__}, not a table of tensors")
    foreign = [str(key) for key, value in data.items() if not isinstance(value, Tensor)]
    if foreign:
        raise WeightsError(f"{path} holds entries that are no tensors: {_listing('foreign', foreign)}")
    return {str(key): value for key, value in data.items()}


def _first_file(folder: Path, places: tuple[str, ...]) -> Path:
    """The first of several places in a folder where there is a file, else the first place."""
    return next((folder / place for place in places if (folder / place).is_file()), folder / places[0])


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise WeightsError(f"{path} is a folder: give the checkpoint file itself")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint (built-in models: {', '.join(BUILT_IN)})")


def _official_part(module: nn.Module) -> nn.Module:
    """The module that has the official names: two of ours wrap a library's network."""
    return module.get_submodule("model") if isinstance(module, (Autoencoder, ImageEncoder)) else module


def _official_names(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that today's libraries give them."""
    if isinstance(module, ImageEncoder):
        return {key: tensor for key, tensor in tensors.items() if key not in _FORGOTTEN}
    if not isinstance(module, Autoencoder):
        return tensors
    old = re.compile(rf"(?<=\.attentions\.0\.)({'|'.join(_AUTOENCODER_RENAMES)})(?=\.)")
    return {old.sub(lambda match: _AUTOENCODER_RENAMES[match[1]], key): tensors[key] for key in tensors}


def _listing(kind: str, keys: Iterable[str]) -> str:
    """E.g. "5 missing (a, b, c, ...)", or nothing where there are none."""
    keys = list(keys)
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} {kind} ({shown})" if keys else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a number"


def _line(error: Exception) -> str:
    """The first line of an error's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
