"""Every measure of a video by name: whether more is better, and what the published ones need to be measured."""

from __future__ import annotations

from personalive.evaluation.mesh import HOW, MESH_SIGNALS
from personalive.evaluation.yardstick import SIGNALS

GROUPS: dict[str, dict[str, bool | None]] = {
    "Pictures against the truth": {"L1": False, "PSNR": True, "SSIM": True, "MS-SSIM": True, "LPIPS": False},
    "Change over time": {
        "tLP": False, "FVD": False, "temporal error": False, "change ratio": None, "flicker ratio": None,
        "sharpness loss": False,
    },
    "Who it is": {
        "ID-SIM": True, "identity cosine, box crop": True, "identity distance": False, "nearer to the portrait": True,
        "identity drift": False,
    },
    "Following the driver, by an independent tracker": {
        "AED": False, "APD": False, **{f"follows {name}, mesh": True for name in MESH_SIGNALS},
        "face found, mesh": True,
    },
    "Following the driver, as the yardstick sees both": {f"follows {name}": True for name in SIGNALS},
    "Rendered people: the driver is known exactly, the output is read by the yardstick": {
        "expression error": False, "expression error, seen": False, "pose error": False, "pose error, seen": False,
        **{f"{name} to truth{seen}": True for name in SIGNALS for seen in ("", ", seen")},
        "mistaken identity": False, "mistaken identity, seen": False,
    },
    "Speed": {
        "frames per second": True, "chunk time, s": False, "first frame, s": False, "delay, computed, s": False,
        "peak memory, GB": False,
    },
}  # fmt: skip
"""Title of a part of a table -> its measures, and whether more is better (None: 1 is best)."""

SEEN = ", seen"
"""Ends the name of what the tracker reads in a true video, where that is known: what it can see at all."""

BETTER: dict[str, bool | None] = {name: better for group in GROUPS.values() for name, better in group.items()}
"""The same without titles, in the order of tables. docs/evaluation.md defines each."""

EFFICIENCY = tuple(GROUPS["Speed"])
"""Measured while the product animates a case: see outputs.efficiency. Other systems' speed is stated with --fps."""

NEEDED: dict[str, str] = {
    "LPIPS": "pip install lpips, then --lpips alex (or vgg, or a TorchScript file)",
    "tLP": "as LPIPS; the temporal error has its form, with a distance that needs no weights",
    "ID-SIM": "--identity ARCFACE.onnx --face-landmarks YUNET.onnx; the identity distance is the yardstick's",
    "AED": "--face-parameters with a SMIRK-like network; `follows` are the yardstick's correlations",
    "APD": "as AED",
    "follows gaze sideways, mesh": f"and all that an independent tracker sees: {HOW}",
    "FVD": "--i3d with a TorchScript I3D, and some hundred clips of 16 frames",
}
"""Measure -> how to have it measured. No stand-in is given under these names."""


def not_measured(measured: set[str]) -> dict[str, str]:
    """The measures by networks that a report lacks, and what each would need."""
    return {name: how for name, how in NEEDED.items() if name not in measured}
