"""The published files, in the layout that docs/model.md lists (section 10), into our networks, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from personalive.config import OFFICIAL, ModelConfig
from personalive.contracts import Networks
from personalive.errors import WeightsError
from personalive.models.autoencoder import Autoencoder
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.image_encoder import ImageEncoder
from personalive.weights.load import build_networks, load_state, modules
from personalive.weights.manifest import BASE_UNET, BUNDLES, DENOISING, NETWORKS, TEMPORAL, Part
from personalive.weights.tensors import read_tensors

# Older libraries wrote these; today's diffusers and transformers name them otherwise or not at all.
_AUTOENCODER_RENAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_FORGOTTEN = ("vision_model.embeddings.position_ids",)


def read_published(path: str | Path) -> dict[str, Tensor]:
    """`read_tensors` without the prefix that training on several GPUs leaves before every name."""
    tensors = read_tensors(path)
    if tensors and all(key.startswith("module.") for key in tensors):
        return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def is_official_folder(folder: Path) -> bool:
    """Whether this looks like a folder in the published layout."""
    return (folder / DENOISING.places[0]).is_file()


def load_official(module: nn.Module, path: str | Path) -> None:
    """Fill one network from one published file (.pth, .bin, .pt, .ckpt or .safetensors) with its official key names.

    Raises:
        WeightsError: the file is missing, damaged, holds code, or does not fit the network.
    """
    load_state(_official_part(module), _official_names(module, read_published(path)), str(path))


def load_official_denoising(
    module: DenoisingUNet, denoising_path: str | Path, temporal_path: str | Path, base_path: str | Path | None = None
) -> None:
    """Fill the denoising UNet from its two published files, which together must hold every entry.

    Where both hold one, the temporal file's counts, as in the published loading order. What both leave open may come
    from the base UNet that the published code starts from.

    Raises:
        WeightsError: as `load_official`.
    """
    tensors = {**read_published(denoising_path), **read_published(temporal_path)}
    where = f"{denoising_path} with {temporal_path}"
    if base_path is not None:
        own = module.state_dict()
        open_entries = {key: tensor for key, tensor in read_published(base_path).items() if key in own}
        tensors, where = {**open_entries, **tensors}, f"{where} over {base_path}"
    load_state(module, tensors, where)


def denoising_gaps(folder: Path, config: ModelConfig = OFFICIAL) -> list[str]:
    """The denoising UNet's entries that its two published files leave open to the base UNet.

    Raises:
        WeightsError: one of the files is missing, damaged or holds code.
    """
    with torch.device("meta"):
        wanted = DenoisingUNet(config.unet).state_dict()
    there = {**read_published(_file(folder, DENOISING)), **read_published(_file(folder, TEMPORAL))}
    return [key for key in wanted if key not in there]


def fill_official(networks: Networks, name: str, folder: Path) -> None:
    """Fill the network of one field of `networks` from a folder in the published layout. Raises WeightsError."""
    module = modules(networks)[name]
    if isinstance(module, DenoisingUNet):
        base = _file(folder, BASE_UNET)
        load_official_denoising(
            module, _file(folder, DENOISING), _file(folder, TEMPORAL), base if base.is_file() else None
        )
    else:
        load_official(module, _file(folder, NETWORKS[name]))


def load_official_networks(
    folder: str | Path,
    config: ModelConfig = OFFICIAL,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Networks:
    """The networks of a folder in the published layout (`pretrained_weights`), in evaluation mode.

    Raises:
        WeightsError: a file is missing, damaged, holds code, or does not fit its network.
    """
    folder = Path(folder)
    files = [_file(folder, part) for part in BUNDLES["official"]]
    absent = [str(file.relative_to(folder)) for file in files if not file.is_file()]
    if absent:
        raise WeightsError(
            f"{folder} lacks {', '.join(absent)}: `personalive download official --to {folder}` fetches what is missing"
        )
    networks = build_networks(config, "meta", dtype)
    for name, module in modules(networks).items():
        fill_official(networks, name, folder)
        module.to(device)
    return networks


def _file(folder: Path, part: Part) -> Path:
    """The first of a part's files that is there, else its first."""
    return next((folder / place for place in part.places if (folder / place).is_file()), folder / part.places[0])


def _official_part(module: nn.Module) -> nn.Module:
    """The module that has the official names: two of ours wrap a library's network."""
    return module.get_submodule("model") if isinstance(module, (Autoencoder, ImageEncoder)) else module


def _official_names(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names that today's libraries give them."""
    if isinstance(module, ImageEncoder):
        return {key: tensor for key, tensor in tensors.items() if key not in _FORGOTTEN}
    if not isinstance(module, Autoencoder):
        return tensors
    old = re.compile(rf"(?<=\.attentions\.0\.)({'|'.join(_AUTOENCODER_RENAMES)})(?=\.)")
    return {old.sub(lambda match: _AUTOENCODER_RENAMES[match[1]], key): tensors[key] for key in tensors}
