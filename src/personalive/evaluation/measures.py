"""Every measure of a video by name: whether more is better, and what the published ones need to be measured."""

from __future__ import annotations

from personalive.evaluation.mesh import HOW, MESH_SIGNALS
from personalive.evaluation.yardstick import SIGNALS

ID_SIM, COSINE = COSINES = ("ID-SIM", "identity cosine")
"""A face recogniser's mean cosine: with faces aligned by five points, as the published figure, and otherwise."""

SAME_PERSON, STRANGERS = ", same person", ", strangers"
"""Ends the names of what such a cosine is held against (identity.py): no figure of likeness is shown without them."""

OWN_NEAREST = "own portrait nearest"

RENDERED = " (rendered people)"
"""Ends the names of the yardstick's figures of identity: it was fitted to renders; of real people it says nothing."""

GROUPS: dict[str, dict[str, bool | None]] = {
    "Pictures against the truth": {"L1": False, "PSNR": True, "SSIM": True, "MS-SSIM": True, "LPIPS": False},
    "Change over time": {
        "tLP": False, "FVD": False, "temporal error": False, "change ratio": None, "flicker ratio": None,
        "sharpness loss": False,
    },
    "Who it is, by a face recogniser": {
        **{f"{name}{beside}": None if beside else True for name in COSINES for beside in ("", SAME_PERSON, STRANGERS)},
        OWN_NEAREST: True, "nearer to the portrait": True, "identity drift": False,
    },
    "Who it is, of rendered people only, as the yardstick (fitted to renders) sees them": {
        f"identity distance{RENDERED}": False, f"nearer to the portrait{RENDERED}": True,
        f"identity drift{RENDERED}": False,
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

REAL_IDENTITY = "identity of real people"

NEEDED: dict[str, str] = {
    "LPIPS": "pip install lpips, then --lpips alex (or vgg, or a TorchScript file)",
    "tLP": "as LPIPS; the temporal error has its form, with a distance that needs no weights",
    REAL_IDENTITY: "no face recogniser was named; name one that you have: --identity NETWORK.onnx (for the "
    "published ID-SIM an ArcFace network, with --face-landmarks YUNET.onnx), or --identity face_recognition, installed",
    "AED": "--face-parameters with a SMIRK-like network; `follows` are the yardstick's correlations",
    "APD": "as AED",
    "follows gaze sideways, mesh": f"and all that an independent tracker sees: {HOW}",
    "FVD": "--i3d with a TorchScript I3D, and some hundred clips of 16 frames",
}
"""Measure -> how to have it measured. No stand-in is given under these names."""


def not_measured(measured: set[str]) -> dict[str, str]:
    """Return the measures by networks that a report lacks, and what each would need."""
    known = measured | ({REAL_IDENTITY} if measured.intersection(COSINES) else set())
    return {name: how for name, how in NEEDED.items() if name not in known}
