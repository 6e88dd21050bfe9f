"""The control messages of a session (docs/live.md), the same on the WebSocket and on the data channel."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from personalive.errors import InputError
from personalive.motion.keypoints import MotionGains

MAX_MESSAGE = 4096
"""Characters of a control message."""

Gain = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Identity = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""What sessions and portraits are called."""


class Controls(BaseModel):
    """How a session is driven and shown. A gain that is not given is the model's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rotation_gain: Gain | None = None
    translation_gain: Gain | None = None
    scale_gain: Gain | None = None
    expression_gain: Gain | None = None
    smoothing: Share = 0.0
    mirror: bool = False
    driving_rate: Literal["auto"] | Annotated[float, Field(ge=1, le=60)] = "auto"
    quality: Share = 0.7

    def gains(self, own: MotionGains) -> MotionGains:
        """A model's own gains, with those replaced that were given."""
        return MotionGains(
            rotation=own.rotation if self.rotation_gain is None else self.rotation_gain,
            translation=own.translation if self.translation_gain is None else self.translation_gain,
            scale=own.scale if self.scale_gain is None else self.scale_gain,
            expression=own.expression if self.expression_gain is None else self.expression_gain,
        )


class SetControls(Controls):
    """Replaces the controls that are named; the others stay."""

    type: Literal["controls"]


class SetPortrait(BaseModel):
    """Animates another portrait from the next chunk on."""

    type: Literal["portrait"]
    portrait: Identity


class Recalibrate(BaseModel):
    """The pose of the next driving frame becomes the neutral one."""

    type: Literal["recalibrate"]


class FrameShown(BaseModel):
    """The client has put a frame on the screen: both times in milliseconds of the client's own clock."""

    type: Literal["shown"]
    captured: Finite
    displayed: Finite


class Ping(BaseModel):
    """Asks for a pong with the same time, in milliseconds of the client's clock."""

    type: Literal["ping"]
    time: Finite


Message = SetControls | SetPortrait | Recalibrate | FrameShown | Ping
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def read_message(text: str) -> Message:
    """A client's message. Raises InputError that says what is wrong with it."""
    if len(text) > MAX_MESSAGE:
        raise InputError(f"a message of {len(text)} characters is too long; at most {MAX_MESSAGE} are read")
    try:
        return _MESSAGE.validate_json(text)
    except ValidationError as error:
        raise InputError(f"the message is not understood: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
