"""Manifests: what they give, and one clear line for each thing that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from personalive.errors import InputError
from personalive.evaluation.manifest import read_manifest

CASE = {
    "name": "anna by ben",
    "category": "cross",
    "reference": "faces/anna.png",
    "driving": "videos/ben.mp4",
    "generated": "out/x.mp4",
}


def written(folder: Path, content: Any, name: str = "cases.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    touched(tmp_path, "faces/anna.png", "videos/ben.mp4", "out/x.mp4", "truth.mp4")
    return tmp_path


def test_json_and_toml_say_the_same(place: Path) -> None:
    lines = "".join(f'{key} = "{value}"\n' for key, value in {**CASE, "truth": "truth.mp4"}.items())
    toml = written(place, f'format = 1\nname = "some"\n[[case]]\n{lines}', "cases.toml")
    other = written(place, {"format": 1, "case": [{**CASE, "truth": "truth.mp4"}]})
    ((case,), problems) = read_manifest(toml)
    assert read_manifest(other) == ([case], problems) == ([case], [])
    assert (case.name, case.cross, case.reference) == ("anna by ben", True, place / "faces" / "anna.png")
    assert case.truth == place / "truth.mp4"
    ((alone,), _) = read_manifest(written(place, {"format": 1, "case": [{**CASE, "category": "self"}]}))
    assert (alone.cross, alone.truth) == (False, None)


def test_outputs_of_a_folder(place: Path) -> None:
    case = {key: value for key, value in CASE.items() if key != "generated"}
    path = written(place, {"format": 1, "case": [case]})
    touched(place, "system/anna by ben.webm")
    assert read_manifest(path, place / "system")[0][0].generated == place / "system" / "anna by ben.webm"
    (place / "system" / "anna by ben.webm").unlink()
    found, problems = read_manifest(path, place / "system")
    assert (found, len(problems)) == ([], 1)
    assert "anna by ben.*" in problems[0]
    with pytest.raises(InputError, match=r"case 1 \(anna by ben\) names no output"):
        read_manifest(path)


def test_a_missing_file_is_a_problem_of_its_case(place: Path) -> None:
    touched(place, "out/second.mp4")
    other = {**CASE, "name": "second", "generated": "out/second.mp4", "driving": "videos/gone.mp4"}
    found, problems = read_manifest(written(place, {"format": 1, "case": [other, CASE]}))
    assert [case.name for case in found] == ["anna by ben"]
    assert problems == [f"second: {place / 'videos' / 'gone.mp4'} is missing"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ([], "starts with format = 1"),
        ({"format": 2, "case": [CASE]}, "starts with format = 1"),
        ({"format": 1, "cases": [CASE]}, "unknown entry 'cases'"),
        ({"format": 1, "case": []}, "lists no case"),
        ({"format": 1, "case": ["x"]}, "case 1 is no table"),
        ({"format": 1, "case": [CASE, CASE]}, "case 2: there is another case called 'anna by ben'"),
        ({"format": 1, "case": [{**CASE, "name": ""}]}, "name must be text"),
        ({"format": 1, "case": [{"name": "x"}]}, "case 1 has no category"),
        ({"format": 1, "case": [{**CASE, "category": "both"}]}, "category 'both'; it is one of self, cross"),
        ({"format": 1, "case": [{**CASE, "driver": "x"}]}, "unknown entry 'driver'"),
        ({"format": 1, "case": [{**CASE, "driving": 3}]}, "driving must be text, not 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place: Path, content: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_manifest(written(place, content))
    assert "\n" not in str(caught.value)
    assert "cases.json" in str(caught.value)


def test_unreadable(place: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(place / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(place)
    with pytest.raises(InputError, match="is not TOML"):
        read_manifest(written(place, "format = = 1", "cases.toml"))
