"""Lists of cases in one TOML or JSON file: which portrait, driver, output and truth belong together.

    format = 1
    name = "my crossings"

    [[case]]
    name = "anna by ben"
    category = "cross"                # "self": the driver is the portrait's own video
    reference = "portraits/anna.png"
    driving = "videos/ben.mp4"
    generated = "out/anna-by-ben.mp4" # may be left out where the outputs' folder is named: FOLDER/<name>.*
    truth = "truth/anna-as-ben.mp4"   # may be left out
    driver_person = "people/ben.tar"  # rendered people only: shards with their exact motion; may be left out
    portrait_person = "people/anna.tar"

Paths are relative to the file. JSON has the same keys ({"format": 1, "case": [{...}]}).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from personalive.errors import InputError
from personalive.evaluation.cases import Case, files_by_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
CATEGORIES = ("self", "cross")
_NEEDED = ("name", "category", "reference", "driving")
_OPTIONAL = ("generated", "truth", "driver_person", "portrait_person")
_PATHS = tuple(key for key in (*_NEEDED, *_OPTIONAL) if key not in ("name", "category"))


def read_manifest(
    path: Path, generated: Path | None = None, planned: Path | None = None
) -> tuple[list[Case], list[str]]:
    """The cases of a manifest, and a line for each of which a file is missing.

    generated: the folder with the outputs, called as the cases; it goes before what the manifest says. planned: instead
    of it, the folder in which the outputs are still to be made: <name>.mp4. Raises InputError where the file cannot
    be read, is not of this format, or two cases have one name.
    """
    entries = _entries(path)
    outputs = None if generated is None else files_by_name(generated)
    found: dict[str, Case] = {}
    problems: list[str] = []
    for number, entry in enumerate(entries, 1):
        _check(path, number, entry)
        name = entry["name"]
        if name in found or any(line.startswith(f"{name}: ") for line in problems):
            raise InputError(f"{path}: case {number}: there is another case called {name!r}; give each its own name")
        parts = {key: path.parent / entry[key] for key in _PATHS if key in entry}
        if planned is not None:
            parts["generated"] = planned / f"{name}.mp4"
        elif outputs is not None:
            parts["generated"] = outputs.get(name, Path(f"{generated}/{name}.*"))
        elif "generated" not in parts:
            raise InputError(
                f"{path}: case {number} ({name}) names no output; add `generated`, or give --generated or --model"
            )
        needed = (part for key, part in parts.items() if planned is None or key != "generated")
        missing = next((part for part in needed if not part.is_file()), None)
        if missing is not None:
            problems.append(f"{name}: {missing} is missing")
        else:
            found[name] = Case(name=name, cross=entry["category"] == "cross", **parts)
    return list(found.values()), problems


def _entries(path: Path) -> list[Any]:
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path of the manifest") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a manifest file") from error
    except ValueError as error:  # of UTF-8, JSON and TOML alike
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise InputError(f"{path} is not {kind}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no manifest of this program; it starts with format = {FORMAT}")
    unknown = sorted(set(content) - {"format", "name", "case"})
    if unknown:
        raise InputError(f"{path}: unknown entry {unknown[0]!r}; known are format, name and case")
    entries = content.get("case")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} lists no case; add [[case]] tables")
    return entries


def _check(path: Path, number: int, entry: Any) -> None:
    """Raises InputError naming the first thing that is wrong with a case."""
    where = f"{path}: case {number}"
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no table; it needs {', '.join(_NEEDED)}")
    for key in _NEEDED:
        if key not in entry:
            raise InputError(f"{where} has no {key}; it needs {', '.join(_NEEDED)}")
    for key, value in entry.items():
        if key not in (*_NEEDED, *_OPTIONAL):
            raise InputError(
                f"{where} ({entry['name']}): unknown entry {key!r}; known are {', '.join(_NEEDED + _OPTIONAL)}"
            )
        if not isinstance(value, str) or not value:
            raise InputError(f"{where} ({entry['name']}): {key} must be text, not {value!r}")
    if entry["category"] not in CATEGORIES:
        raise InputError(
            f"{where} ({entry['name']}): category {entry['category']!r}; it is one of {', '.join(CATEGORIES)}"
        )
