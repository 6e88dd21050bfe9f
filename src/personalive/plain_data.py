"""Dataclasses from and to plain data, strictly: every key known, every type right."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from personalive.errors import ConfigError

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def to_json(config: Any) -> str:
    """A dataclass of plain values as one line of JSON."""
    return json.dumps(dataclasses.asdict(config))


def build(kind: type[T], data: Any, where: str) -> T:
    """A dataclass from plain JSON data, strictly: every key known, every type right; `where` names it in errors."""
    require(isinstance(data, dict), f"{where}: a table is expected, not {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - names)
    require(not unknown, f"{where}: unknown key {', '.join(unknown)} (known: {', '.join(sorted(names))})")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or ConfigError. Handles the types that this module's fields use."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is Literal:
        require(value in typing.get_args(hint), f"{where}: {value!r} is not one of {typing.get_args(hint)}")
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{where}: a list is expected, not {value!r}")
        kinds = typing.get_args(hint)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        require(len(kinds) == len(value), f"{where}: {len(kinds)} entries are expected, not {len(value)}")
        return tuple(
            _convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin in (typing.Union, types.UnionType):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(type(value) is hint, f"{where}: {hint.__name__} is expected, not {value!r}")
    return value


def assignments(texts: Iterable[str]) -> dict[str, Any]:
    """["a.b=1"] -> {"a.b": 1} for `config.override`; values are JSON, or else text.

    Raises ConfigError without an "=".
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        require(bool(equals), f"--set {text}: write it as name=value, e.g. image.optimisation.steps=100")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
