"""What stands beside a cosine of identity: the same person and strangers, measured on the evaluated videos."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Command
from personalive.evaluation.cases import Case
from personalive.evaluation.identity import (
    MOST_KEPT,
    CaseEmbeddings,
    joined,
    pair_cosine,
    people,
    scale_figures,
    spread,
)
from personalive.evaluation.measures import not_measured
from personalive.evaluation.yardstick import Array, unit
from personalive.gallery import find_portrait
from personalive.media.frames import Pixels, load_picture, resize_picture
from toy_networks import embedding_file
from toy_video import make_video

X, Y, Z = np.eye(3)


def case(
    name: str, portrait: str, driver: str, cross: bool = True, shards: tuple[str | None, str | None] = (None, None)
) -> Case:
    own, drives = (None if shard is None else Path(shard) for shard in shards)
    return Case(name, Path("out"), Path(driver), Path(portrait), cross, portrait_person=own, driver_person=drives)


def known(path: Path) -> str:
    """Of a copy, what it is a copy of."""
    return path.name.removeprefix("copy of ")


def faces(portrait: Array, output: list[Array], driver: list[Array]) -> CaseEmbeddings:
    return CaseEmbeddings("ID-SIM", portrait, unit(np.stack(output)), unit(np.stack(driver)))


class TestPeople:
    def test_strangers_unless_something_says_otherwise(self) -> None:
        cases = [case("1", "a.png", "b.mp4"), case("2", "copy of a.png", "c.mp4"), case("3", "c.png", "c.mp4", False)]
        found = people(cases, known)
        assert len({found[name] for name in ("a.png", "b.mp4", "c.mp4")}) == 3
        assert found["c.png"] == found["c.mp4"]

    def test_a_shard_is_one_person(self) -> None:
        cases = [
            case("1", "a.png", "b.mp4", shards=("a.tar", "b.tar")),
            case("2", "b.png", "a.mp4", shards=("b.tar", "a.tar")),
        ]
        found = people(cases, known)
        assert found["a.png"] == found["a.mp4"] != found["b.png"] == found["b.mp4"]


class TestScale:
    def test_known_cosines(self) -> None:
        """Two portraits at right angles; the first one's output is its own, the other one's half that of the first."""
        cases = [case("1", "x.png", "z.mp4"), case("2", "y.png", "z.mp4")]
        wobble = [unit((Z + 0.75 * X)[None])[0], Z]
        seen = [faces(X, [X, X], wobble), faces(Y, [Y, X], wobble)]
        first, second = scale_figures(cases, seen, known)
        assert first["ID-SIM, same person"] == pytest.approx(0.8)
        assert first["ID-SIM, strangers"] == pytest.approx((0 + 0) / 2)  # to y, and to the driver's middle frame
        assert first["own portrait nearest"] == 1
        assert second["own portrait nearest"] == 0.5

    def test_without_others_there_are_no_strangers(self) -> None:
        (alone,) = scale_figures([case("1", "x.png", "x.mp4", cross=False)], [faces(X, [X], [X, X])], known)
        assert alone["ID-SIM, same person"] == pytest.approx(1)
        assert math.isnan(alone["ID-SIM, strangers"])
        assert math.isnan(alone["own portrait nearest"])

    def test_nobody_and_no_recogniser(self) -> None:
        nobody = CaseEmbeddings("ID-SIM", np.full(1, np.nan), np.full((2, 1), np.nan), np.full((2, 1), np.nan))
        cases = [case("1", "n.png", "n.mp4"), case("2", "x.png", "y.mp4"), case("3", "z.png", "y.mp4")]
        lost, seen, none = scale_figures(cases, [nobody, faces(X, [X], [Y]), None], known)
        assert all(math.isnan(value) for value in lost.values())
        assert seen["ID-SIM, strangers"] == pytest.approx(0)
        assert math.isnan(seen["own portrait nearest"])  # nobody else has a face
        assert none == {}


def test_parts_of_a_video() -> None:
    whole = joined([np.full((2, 1), np.nan), np.stack([X, Y])])
    assert whole.shape == (4, 3)
    assert pair_cosine(whole) == pytest.approx(0)
    assert math.isnan(pair_cosine(whole[:3]))
    many = np.arange(500.0)[:, None]
    assert len(spread(many)) == MOST_KEPT
    assert (spread(many)[0], spread(many)[-1]) == (0, 499)


def test_a_report_says_that_nobody_was_recognised() -> None:
    missing = not_measured({"L1"})
    assert "no face recogniser was named" in missing["identity of real people"]
    assert "identity of real people" not in not_measured({"identity cosine"})


def clip(path: Path, picture: Pixels) -> Path:
    """A face that moves a little."""
    path.parent.mkdir(exist_ok=True)

    def draw(index: int) -> Pixels:
        return np.roll(picture, index % 3, axis=1)

    return make_video(path, 6, size=picture.shape[1::-1], draw=draw, codec="ffv1", pixel_format="bgr0")


@pytest.fixture
def crossings(tmp_path: Path) -> list[str | Path]:
    """Two portraits, each driven by a third person; the outputs show the portraits."""
    third = resize_picture(load_picture(find_portrait("dev")), 128)
    (tmp_path / "reference").mkdir()
    for name in ("ada", "femi"):
        picture = resize_picture(load_picture(find_portrait(name)), 128)
        Image.fromarray(picture).save(tmp_path / "reference" / f"{name}.png")
        clip(tmp_path / "generated" / f"{name}.mkv", picture)
        clip(tmp_path / "driving" / f"{name}.mkv", third)
    parts = [part for kind in ("generated", "driving", "reference") for part in (f"--{kind}", tmp_path / kind)]
    return ["evaluate", *parts, "--cross", "-o", tmp_path / "report"]


def test_the_scale_stands_beside_every_figure(
    crossings: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, command = embedding_file(tmp_path / "net.onnx", 112), Command(capsys)
    ended = command(*crossings, "--identity", network)
    assert ended.code == 0, ended.err
    assert "| same person | strangers |" in ended.out
    (line,) = (line for line in ended.out.splitlines() if "| identity cosine |" in line)
    mean, same, strangers = (float(line.split("|")[column]) for column in (3, 6, 7))
    assert mean > 0.98
    assert same > 0.98
    assert strangers < mean
    assert "identity of real people" not in ended.out
    assert "(rendered people)" not in ended.out  # nothing says that they are rendered
    content = json.loads((tmp_path / "report" / "scores.json").read_text("utf-8"))
    assert content["source"]["face recogniser"].startswith("net.onnx (sha256 ")
    measures = {row["measure"] for row in content["rows"]}
    assert {"identity cosine, same person", "identity cosine, strangers", "own portrait nearest"} <= measures
    for video in content["cases"]["videos"]:
        assert video["figures"]["own portrait nearest"] == 1
        assert video["figures"]["nearer to the portrait"] == 1
    lines = list(csv.DictReader((tmp_path / "report" / "scores.csv").open(encoding="utf-8")))
    assert all(float(row["identity cosine, strangers"]) < float(row["identity cosine"]) for row in lines)
    html = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "<th>same person</th><th>strangers</th>" in html
    assert "identity cosine, another person (same person " in html
    again = command(*crossings, "--identity", network)
    assert "2 kept from before" in again.out
    assert next(row for row in again.out.splitlines() if "| identity cosine |" in row) == line


def test_without_a_recogniser_identity_is_not_measured(
    crossings: list[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = Command(capsys)(*crossings)
    assert ended.code == 0
    (line,) = (line for line in ended.out.splitlines() if "identity" in line)
    assert line.startswith("not measured: identity of real people (no face recogniser was named; ")
    assert "--identity" in line
