"""The shape of the house: imports go one way, everything is reached, files stay small (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import personalive

ROOT = Path(personalive.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# From the ground up. A part may import what stands on a lower floor, and what stands before it on its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "plain_data", "config", "choices", "contracts", "gallery", "device"),
    ("media",),
    ("models",),
    ("weights", "motion", "warp", "streaming"),
    ("acceleration", "stream", "animate", "pipeline"),
    ("data", "rendering", "server", "training", "evaluation", "diagnosis"),
    ("reporting", "commands", "cli", "__main__"),
)
# The public names, from wherever they come, lazily; and the version.
EVERYWHERE = "__init__"
ENTRANCES = ("__init__", "__main__", "cli")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
MAX_LINES = 500

PLACES = {part: (floor, place) for floor, parts in enumerate(FLOORS) for place, part in enumerate(parts)}


def module_name(path: Path) -> str:
    """E.g. "media.video"; a package is its folder's name, the product itself "__init__"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements that can run, at any depth: what stands under `if TYPE_CHECKING:` cannot."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from statements(child)


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of the product that a file imports, lazily or not; with a module comes its package."""
    names: set[str] = set()
    for statement in statements(tree):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "relative imports hide where a name comes from"
            names.add(str(statement.module))
            names |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    own = {name.removeprefix("personalive.") for name in names if name.startswith("personalive.")}
    found = own & known
    if "personalive" in names and not own & known:
        found.add("__init__")  # `from personalive import __version__`
    return found | {name.split(".")[0] for name in found if "." in name}


IMPORTS = {name: imported(ast.parse(path.read_text("utf-8")), set(MODULES)) for name, path in MODULES.items()}


def part_of(module: str) -> str:
    return module.split(".")[0]


def test_every_part_has_its_floor() -> None:
    assert {part_of(module) for module in MODULES} - {EVERYWHERE} <= set(PLACES)


def test_imports_go_one_way() -> None:
    back = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in targets
        if EVERYWHERE not in (module, target)
        and part_of(module) != part_of(target)
        and PLACES[part_of(target)] >= PLACES[part_of(module)]
    ]
    assert back == []


def test_only_the_command_line_asks_the_top() -> None:
    asking = {module for module, targets in IMPORTS.items() if EVERYWHERE in targets}
    assert asking <= {"cli"}  # for the version


def test_no_cycles() -> None:
    """Not between files either, lazy imports counted."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in IMPORTS[module] - {EVERYWHERE}:
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def reached(entrances: set[str]) -> set[str]:
    """The modules that are imported from these, directly or not."""
    found: set[str] = set()
    waiting = list(entrances)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += IMPORTS[module]
    return found


def test_every_module_is_reached() -> None:
    """From the package or the command line; what only measures, from the benchmarks, too."""
    scripts = [imported(ast.parse(path.read_text("utf-8")), set(MODULES)) for path in BENCHMARKS.glob("*.py")]
    measuring = {module for script in scripts for module in script if part_of(module) == "evaluation"}
    assert set(MODULES) - reached({*ENTRANCES, *measuring}) == set()


def test_names_say_what_is_inside() -> None:
    words = {word for module in MODULES for word in module.split(".")}
    assert words & FORBIDDEN_NAMES == set()
    assert max(module.count(".") for module in MODULES) <= 1, "folders are one deep"


def test_files_stay_small() -> None:
    long = {
        module: lines
        for module, path in MODULES.items()
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_the_way_in_is_short() -> None:
    assert len(MODULES["pipeline"].read_text("utf-8").splitlines()) < 200


# The walker itself


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from personalive.media.video import probe", {"media", "media.video"}),
        ("from personalive.media import video", {"media", "media.video"}),
        ("import personalive.media.video", {"media", "media.video"}),
        ("def f():\n    if x:\n        from personalive import cli", {"cli"}),
        ("if TYPE_CHECKING:\n    from personalive import cli", set()),
        ("try:\n    import torch\nexcept E:\n    from personalive.errors import X", {"errors"}),
        ("from personalive import __version__", {"__init__"}),
        ("import os, torch", set()),
    ],
)
def test_the_walker_sees_imports(source: str, found: set[str]) -> None:
    assert imported(ast.parse(source), set(MODULES)) == found
