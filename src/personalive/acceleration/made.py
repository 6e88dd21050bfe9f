"""What a file of the window pass was made for: a record beside it, so that nothing else ever runs it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from personalive.acceleration.swap import own_unet
from personalive.contracts import Networks
from personalive.errors import ConfigError, WeightsError
from personalive.plain_data import build, to_json


@dataclass(frozen=True)
class Made:
    """model: its name; fingerprint: of its weights and sizes; precision: of what goes in and comes out; device: the
    processor ("any" where it does not matter); software: what reads it ("any" likewise); keyframes: how many it takes.
    """

    model: str
    fingerprint: str
    precision: str
    keyframes: int
    device: str = "any"
    software: str = "any"

    def write(self, path: Path) -> None:
        """Beside the file `path`."""
        _beside(path).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", "utf-8")

    def check(self, path: Path, wanted: Made) -> None:
        """WeightsError unless a file with this record serves what is wanted, whatever the number of keyframes."""
        told = {
            "model": f"the model {self.model}, not {wanted.model}",
            "fingerprint": f"other weights or sizes of {self.model}",
            "precision": f"{self.precision}, not {wanted.precision}",
            "device": f"{self.device}, not {wanted.device}",
            "software": f"{self.software}, not {wanted.software}",
        }
        for field, what in told.items():
            if getattr(self, field) != getattr(wanted, field):
                raise WeightsError(f"{path} was made for {what}: make it here with `personalive export`")


def made_for(networks: Networks, keyframes: int = 0, *, device: bool = False, software: str = "any") -> Made:
    """The record of a file for these networks. device: it runs on their kind of processor only."""
    parameter = next(own_unet(networks).parameters())
    precision = str(parameter.dtype).removeprefix("torch.")
    processor = processor_of(parameter.device) if device else "any"
    return Made(networks.config.name, fingerprint(networks), precision, keyframes, processor, software)


def read_made(path: Path) -> Made:
    """The record beside the file. Raises WeightsError where there is none."""
    try:
        return build(Made, json.loads(_beside(path).read_text("utf-8")), str(path))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        wrong = f"{path} cannot be used without {_beside(path).name}, which says what it was made for"
        raise WeightsError(f"{wrong}: copy both, or `personalive export` it again") from error


def processor_of(device: torch.device) -> str:
    """What code that was compiled for a device runs on: the GPU's name, or the CPU's instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def fingerprint(networks: Networks) -> str:
    """16 digits that change with the denoising UNet's weights and the configuration."""
    digest = hashlib.sha256(to_json(networks.config).encode())
    for key, tensor in own_unet(networks).state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
