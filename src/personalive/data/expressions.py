"""The names of the 53 expression coefficients of ICT-FaceKit, in the order of every coefficient vector."""

from __future__ import annotations

# fmt: off
_SIDED = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn",
    "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress",
    "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)
_CENTRAL = (
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)
# fmt: on
EXPRESSIONS: tuple[str, ...] = tuple(sorted([*_CENTRAL, *(f"{name}_{side}" for name in _SIDED for side in "LR")]))
