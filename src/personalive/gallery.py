"""The portraits and the driving clip that come with the package: rendered people, found by name."""

from __future__ import annotations

from pathlib import Path

from personalive.errors import InputError

DRIVING = "builtin"
"""What to say instead of a driving video's path for the clip that comes with the package."""

ASSETS = Path(__file__).parent / "assets"


def portraits() -> dict[str, Path]:
    """The built-in portraits by name; empty in an installation without them."""
    return {path.stem: path for path in sorted((ASSETS / "portraits").glob("*.jpg"))}


def has_driving() -> bool:
    """Whether the built-in clip is there."""
    return _clip().is_file()


def find_portrait(name_or_path: str | Path) -> Path:
    """The picture of a built-in portrait's name, else the path as given. Raises InputError for an unknown bare name.

    A name wins over a file that is called the same: write ./ada for the file.
    """
    known = portraits()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path)
    if _is_bare_name(path) and not path.exists():
        names = f", and no built-in portrait (known: {', '.join(known)})" if known else ""
        raise InputError(f"{path} does not exist{names}; check the path of the picture")
    return path


def find_driving(name_or_path: str | Path) -> Path:
    """The built-in clip for the word "builtin", else the path as given. Raises InputError where the clip is missing."""
    if str(name_or_path) != DRIVING:
        return Path(name_or_path)
    clip = _clip()
    if not clip.is_file():
        raise InputError(f"the built-in clip is not in this installation ({clip}): install it again, or name a video")
    return clip


def _is_bare_name(path: Path) -> bool:
    """A word that could be meant as a name: no folder, no extension."""
    return path.name == str(path) and not path.suffix


def _clip() -> Path:
    return ASSETS / "driving.mp4"
