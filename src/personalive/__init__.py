"""PersonaLive: a portrait that moves as you move, live, for as long as you like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalive.errors import PersonaLiveError

if TYPE_CHECKING:
    from personalive.pipeline import PersonaLive, Stream

__all__ = ["PersonaLive", "PersonaLiveError", "Stream", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # PersonaLive and Stream bring torch with them; `import personalive` alone stays quick.
    if name in ("PersonaLive", "Stream"):
        from personalive import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'personalive' has no attribute {name!r}")
