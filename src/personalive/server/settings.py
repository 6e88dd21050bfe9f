"""What an operator can set: by flag, by environment (PERSONALIVE_...), or in a TOML file, in this order."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from personalive.errors import ConfigError
from personalive.server.messages import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "PERSONALIVE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    """Settings of the live server; each is also an environment variable, e.g. PERSONALIVE_PORT."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    model: str = "mini"
    device: str = "auto"
    decoder: str = "vae"
    """The model's own, "taesd" (tiny), or a file."""

    runtime: str = "auto"
    """What computes the UNet: auto (OpenVINO for a small model on a CPU, if installed; else eager), eager, compile,
    aoti, onnxruntime, openvino, openvino-bfloat16, cuda-graphs, tensorrt, or an exported file's path."""

    window: str = "live"
    """LEVELSxFRAMES of the model's window; live: 2x2 for the built-in model, others' own. Fewer frames are sooner."""

    size: Annotated[int, Field(ge=64, le=1024)] | None = None
    """Side of the pictures in pixels, a multiple of 8; None: the model's own, 256 for the built-in one."""

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{8,}$")] | None = None
    """What a client must show; needed on any address but loopback, where one is made if none is set."""

    max_sessions: Annotated[int, Field(ge=1)] | None = None
    """How many sessions at most; None: as many as can have `rate`, as measured."""

    rate: Annotated[float, Field(ge=1, le=60)] = 8.0
    """Frames per second that every session is promised: who cannot have it is told that the server is full."""

    max_rate: Annotated[float, Field(ge=1, le=60)] = 30.0
    """Frames per second at which a session is driven at most."""

    batch_wait_ms: Annotated[float, Field(ge=0, le=100)] = 4.0
    """How long sessions that are ready wait for others, to be stepped together."""

    badge: bool = False
    """Whether "AI" is written into every frame."""

    allowed_origins: list[str] = []
    """Other origins whose pages may use this server, e.g. https://example.org."""

    allowed_hosts: list[str] = []
    """On loopback: other names of this machine that requests may carry (names foreign to it are refused)."""

    max_upload_mb: Annotated[float, Field(gt=0, le=1000)] = 20.0
    max_upload_megapixels: Annotated[float, Field(gt=0, le=64)] = 32.0
    max_portraits: Annotated[int, Field(ge=1)] = 32
    """Uploaded pictures that are kept, in memory only; the one unused for longest goes first."""

    requests_per_minute: Annotated[int, Field(ge=1)] = 600
    """Of one client, of any kind."""

    uploads_per_minute: Annotated[int, Field(ge=1)] = 20
    sessions_per_minute: Annotated[int, Field(ge=1)] = 30
    """Of one client: pictures, and sessions or connections."""

    linger_seconds: Annotated[float, Field(gt=0, le=60)] = 4.0
    """How long a session waits for a client that has lost its connection, before everything of it is freed."""

    ice_servers: list[str] = []
    """STUN or TURN servers for WebRTC, e.g. stun:stun.example.org; none: no request leaves the machine."""

    virtual_camera: bool = False
    """Whether the newest session is also shown as a camera of this machine (extra: virtualcam)."""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK


def load_settings(flags: dict[str, Any], file: Path | None = None) -> Settings:
    """Settings from flags (None: not given), environment and file, in this order of strength.

    Raises ConfigError for a file that cannot be read, an unknown name or a value out of range.
    """
    values = {name: value for name, value in _read(file).items() if f"{PREFIX}{name.upper()}" not in os.environ}
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(f"a setting is wrong: {explain(error)}") from None


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        return values
    except OSError as error:
        raise ConfigError(f"the settings file {file} cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {file} is not TOML: {error}") from None
