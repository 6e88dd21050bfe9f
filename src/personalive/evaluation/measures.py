"""Every measure of a video by name: whether more is better, and what the published ones need to be measured."""

from __future__ import annotations

from personalive.evaluation.yardstick import SIGNALS

BETTER: dict[str, bool | None] = {
    "L1": False, "PSNR": True, "SSIM": True, "MS-SSIM": True, "LPIPS": False,
    "tLP": False, "ID-SIM": True, "AED": False, "APD": False, "FVD": False,
    "temporal error": False, "change ratio": None, "flicker ratio": None,
    "identity cosine, box crop": True, "identity distance": False, "nearer to the portrait": True,
    **{f"follows {name}": True for name in SIGNALS},
}  # fmt: skip
"""Name -> whether more is better (None: 1 is best), in the order of tables. docs/evaluation.md defines each."""

NEEDED: dict[str, str] = {
    "LPIPS": "pip install lpips, then --lpips alex (or vgg, or a TorchScript file)",
    "tLP": "as LPIPS; the temporal error has its form, with a distance that needs no weights",
    "ID-SIM": "--identity ARCFACE.onnx --face-landmarks YUNET.onnx; the identity distance is the yardstick's",
    "AED": "--face-parameters with a SMIRK-like network; `follows` are the yardstick's correlations",
    "APD": "as AED",
    "FVD": "--i3d with a TorchScript I3D, and some hundred clips of 16 frames",
}
"""Published measure -> how to have it measured. No stand-in is given under these names."""


def not_measured(measured: set[str]) -> dict[str, str]:
    """The published measures that a report lacks, and what each would need."""
    return {name: how for name, how in NEEDED.items() if name not in measured}
