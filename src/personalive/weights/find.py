"""A model by whatever a user calls it: a built-in name, "official", a file, a folder, or a repository on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from personalive.config import OFFICIAL, ModelConfig
from personalive.contracts import Networks
from personalive.errors import WeightsError
from personalive.weights import download
from personalive.weights.folder import CONFIG, is_model_folder, load_folder, read_config
from personalive.weights.load import BUILT_IN, find_model, load_networks, names_of, read_file_config
from personalive.weights.manifest import BUNDLES, Part, Repository
from personalive.weights.official import is_official_folder, load_official_networks
from personalive.weights.sources import HUB, find_source
from personalive.weights.tensors import CODE, PICKLES

OFFICIAL_NAME = "official"
LAYOUT = "pretrained_weights"
"""What the published layout's folder is called; one in the working directory is used as it is."""

HOME_VARIABLE = "PERSONALIVE_HOME"
"""Names the folder for downloaded weights; by default ~/.cache/personalive."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".safetensors", *PICKLES, *CODE)


def home() -> Path:
    """The folder for downloaded weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(HOME_VARIABLE) or Path(cache) / "personalive")


def official_folder() -> Path:
    """Where the official weights are, or would be: ./pretrained_weights if there is one, else under `home`."""
    local = Path(LAYOUT)
    return local if is_official_folder(local) else home() / LAYOUT


@dataclass(frozen=True)
class Model:
    """A model that was found but not loaded: its configuration, the bytes of its files, and how to load it."""

    config: ModelConfig
    size: int
    load: Callable[[str | torch.device, torch.dtype], Networks]


def find(name_or_path: str | Path) -> Model:
    """What a user may call a model: a built-in name, "official", a checkpoint file, a model's folder, a folder in the
    published layout, or a hub id like owner/name (fetched once, then offline).

    Raises:
        WeightsError: there is no such model, or it is plain already that it cannot be used.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name == OFFICIAL_NAME and not path.exists():
        path = official_folder()
        if not is_official_folder(path):
            raise WeightsError("the official weights are not on this machine: `personalive download official` (GBs)")
    elif isinstance(name_or_path, str) and _could_be_hub_id(name):
        path = fetch_model(name)
    if not path.is_dir() or name in BUILT_IN:
        file = find_model(name)
        return Model(read_file_config(file), file.stat().st_size, partial(load_networks, file))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if is_model_folder(path):
        return Model(read_config(path), size, partial(load_folder, path))
    if is_official_folder(path):
        return Model(OFFICIAL, size, partial(load_official_networks, path, OFFICIAL))
    raise WeightsError(
        f"{path} is no model's folder: it has neither {CONFIG} and safetensors files (`personalive convert`) nor the "
        "published layout (personalive/denoising_unet.pth ...)"
    )


def open_model(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Networks:
    """The networks of a model by any name that `find` knows, in evaluation mode. Raises WeightsError."""
    return find(name_or_path).load(device, dtype)


def fetch_model(name: str, source: str = HUB) -> Path:
    """The model's folder of a hub repository that holds one, fetched if it is not here yet.

    Raises:
        WeightsError: the hub cannot be reached, or the repository holds no model of ours.
        OutputError: the disk is full or cannot be written.
    """
    folder = home() / "models" / name.replace("/", "--")
    place = folder.name
    repository = Repository(name, place, licence="see its page")

    def fetch(*files: str) -> None:
        parts = [Part(repository, (file,)) for file in files]
        if not download.is_complete(folder.parent, parts):
            origin = find_source(source)
            download.carry_out(download.plan(parts, origin, folder.parent), origin)

    try:
        fetch(CONFIG)  # it says which networks there are
        fetch(CONFIG, *(f"{network}.safetensors" for network in names_of(read_config(folder))))
    except WeightsError as error:
        raise WeightsError(f"{name} is no file and no built-in model, and as a repository: {error}") from error
    return folder


def bundle(name: str) -> tuple[Part, ...]:
    """The files that `personalive download NAME` fetches. WeightsError for an unknown name."""
    if name not in BUNDLES:
        raise WeightsError(f"there is no {name!r} to download; choose one of {', '.join(BUNDLES)}")
    return BUNDLES[name]


def _could_be_hub_id(name: str) -> bool:
    """Like owner/name, and no path: neither one that exists nor a file's that does not."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists() and Path(name).suffix not in _FILES
