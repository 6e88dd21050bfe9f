"""Golden tensors of the published system and the parameters they were computed with (a test helper, no tests).

The golden files hold what the published code computed with every parameter filled by a rule instead of trained
weights; `fill` applies that rule to a module whose state dict has the official names. The environment's PARITY_DEVICE
("cuda") says where the numbers are compared, a CPU by default.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parent / "data" / "parity"

DEVICE = torch.device(os.environ.get("PARITY_DEVICE", "cpu"))
"""Where filled modules and golden tensors are."""
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 is what is compared

Row = tuple[str, tuple[int, ...], str]


@functools.cache
def _manifest() -> dict[str, list[list[Any]]]:
    with gzip.open(DATA / "manifest.json.gz", "rt", encoding="utf-8") as file:
        manifest: dict[str, list[list[Any]]] = json.load(file)
    return manifest


def official_rows(tag: str) -> list[Row]:
    """The official (name, shape, kind) of every state-dict entry of one network."""
    return [(str(name), tuple(shape), str(kind)) for name, shape, kind in _manifest()[tag]]


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of tests/data/parity/<name>.safetensors, on `DEVICE`."""
    return load_file(DATA / f"{name}.safetensors", device=str(DEVICE))


def standard_normal(seed: int, *shape: int) -> Tensor:
    """The goldens' N(seed, *shape), on `DEVICE`."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)).to(DEVICE)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """||result - expected|| / ||expected||, in float64; the shapes must agree."""
    assert result.shape == expected.shape, f"{tuple(result.shape)} is not {tuple(expected.shape)}"
    difference = result.double() - expected.double()
    return float(difference.norm() / expected.double().norm())


def value(tag: str, name: str, shape: Sequence[int], kind: str) -> Tensor:
    """What the rule puts into one parameter; `kind` as in the manifest, not "computed" or "counter"."""
    generator = np.random.default_rng(zlib.crc32(f"{tag}.{name}".encode()))
    x = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    if kind == "weight":
        return x / math.sqrt(math.prod(shape[1:]))
    if kind == "bias":
        return x * 0.02
    if kind == "norm_weight":
        return x * 0.1 + 1
    if kind == "bn_mean":
        return x * 0.1
    assert kind == "bn_var", f"unknown kind {kind!r} for {name}"
    return torch.exp(x * 0.1)


def fill(module: nn.Module, tag: str, rows: Sequence[Row] | None = None) -> None:
    """Fill a module's parameters and buffers in place by the goldens' rule, strictly; `DEVICE`, evaluation mode.

    `tag` names the network in the manifest; `rows` replaces the manifest's rows (for a module that holds a part).
    Fails when the module's names or shapes differ from the rows.
    """
    expected = rows if rows is not None else official_rows(tag)
    state = module.state_dict(keep_vars=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name: tuple(shape) for name, shape, _ in expected}
    difference = sorted(set(shapes.items()) ^ set(wanted.items()))
    assert not difference, f"{tag}: {len(difference)} entries differ, e.g. {difference[:6]}"
    with torch.no_grad():
        for name, shape, kind in expected:
            if kind not in ("computed", "counter"):
                state[name].copy_(value(tag, name, shape, kind))
    module.to(DEVICE).eval()


def fill_motion_extractor(module: nn.Module) -> None:
    """`fill` for the motion extractor, made plausible as a face as the goldens' page says."""
    fill(module, "motion_extractor")
    state = module.state_dict(keep_vars=True)
    with torch.no_grad():
        state["detector.fc_kp.bias"].copy_(golden("motion_extractor")["fc_kp_bias"])
        for head in ("fc_kp", "fc_t", "fc_scale"):
            state[f"detector.{head}.weight"].mul_(0.02)
        state["detector.fc_scale.bias"].fill_(1.2)
