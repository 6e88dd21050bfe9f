"""Errors that a user can cause. Each says what was wrong, where, and what to do; the CLI prints one line."""

from __future__ import annotations

import errno
from pathlib import Path


class PersonaLiveError(Exception):
    """Root of every error that the user can mend. `str(error)` is one line."""


class InputError(PersonaLiveError):
    """A picture or video that cannot be used: missing, empty, not what it claims to be, too small or too large."""


class FaceNotFoundError(InputError):
    """A picture, or a whole driving video, in which no face was found."""


class OutputError(PersonaLiveError):
    """A place that cannot be written: missing folder, no permission, disk full, unknown extension."""


class ConfigError(PersonaLiveError):
    """An option or a configuration value that is unknown, of the wrong type or out of range."""


class WeightsError(PersonaLiveError):
    """A checkpoint that is missing, foreign, of the wrong size, or that holds code instead of tensors.

    `details`: every offending entry, where the message names only the first.
    """

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


def output_error(path: Path, error: Exception) -> OutputError:
    """What the user can do about a failure to write."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"{path} cannot be written: the disk is full; free some space or write elsewhere")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path} cannot be written: no permission for {path.parent}; write elsewhere")
    if number == errno.ENAMETOOLONG:
        return OutputError(f"{path.name[:40]}... is too long a name; choose a shorter one")
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(f"{path} cannot be written: {reason}; try another name or folder")
