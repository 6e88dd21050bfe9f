"""Variants: parsed, timed by a clock set by hand, kept, and put into a table beside the paper's rows."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from command import Command, save_toy
from people import made_up
from personalive.data.shards import read_shards, write_shard
from personalive.errors import ConfigError, InputError
from personalive.evaluation import variants
from personalive.evaluation.ablations import CrossedFigures
from personalive.evaluation.comparison import page
from personalive.evaluation.stopwatch import Stopwatch
from personalive.evaluation.variants import Variant, VariantFigures, model_identity, opened, parse, table
from personalive.evaluation.yardstick import Yardstick
from personalive.media.frames import Pixels
from personalive.pipeline import PersonaLive


def test_parse() -> None:
    assert parse("full=mini") == Variant("full", "mini")
    wanted = Variant("no keys", "a/b.safetensors", {"stream.keyframes": 0, "stream.motion_interpolated_start": False})
    assert parse("no keys=a/b.safetensors,stream.keyframes=0,stream.motion_interpolated_start=false") == wanted
    for text, said in (
        ("mini", "is no variant"),
        ("=mini", "is no variant"),
        ("a=mini,unet.levels=2", "'unet.levels' cannot be changed"),
        ("a=mini,stream.tau=x", "stream.tau=x is no number"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(text)


def test_settings_change_the_stream_and_nothing_else(tmp_path: Path) -> None:
    model = str(save_toy(tmp_path))
    plain, changed = opened(Variant("a", model)), opened(Variant("b", model, {"stream.keyframes": 0}))
    assert changed.config.stream == dataclasses.replace(plain.config.stream, keyframes=0)
    assert dataclasses.replace(changed.config, stream=plain.config.stream) == plain.config
    with pytest.raises(ConfigError, match=r"stream\.nothing: unknown field"):
        opened(Variant("c", model, {"stream.nothing": 1}))


def test_the_stopwatch_stands_still_while_others_work() -> None:
    now = [0.0]

    def animate(portrait: Pixels, driving: Iterable[Pixels]) -> Iterator[Pixels]:
        for number, frame in enumerate(driving):
            now[0] += 100.0 if number < 4 else 0.25  # the first chunk waits for the window
            yield frame

    clock = Stopwatch(animate, lambda: now[0])
    assert math.isnan(clock.frames_per_second)
    for _ in clock(np.zeros((8, 8, 3), np.uint8), np.zeros((12, 8, 8, 3), np.uint8)):
        now[0] += 7.0
    assert clock.frames_per_second == 4.0


def figures(name: str, identity: float, speed: float = 2.0) -> VariantFigures:
    cases = [CrossedFigures("a", "b", identity, 0.5, 2.0, 0.01), CrossedFigures("b", "a", math.nan, 0.7, 4.0, 0.03)]
    return VariantFigures(name, tuple(cases), speed)


def test_the_table_has_the_papers_rows_where_there_are_some() -> None:
    lines = table([figures("full", 0.9), figures("tau 15", 0.8), figures("mine", math.nan)]).splitlines()
    assert lines[2].startswith("| full | 0.9000 (0.698) | 0.6000")
    assert lines[2].endswith("(12.83) | 2.00 |")
    assert "(0.6924)" in lines[3]
    assert lines[4].startswith("| mine | not measured |")


def test_the_page() -> None:
    html = page([figures("full", 0.9), figures("<x>", 0.8, speed=4.0)], {"model": "m"})
    assert "Speed against quality" in html
    assert "&lt;x&gt;" in html
    assert "<x>" not in html
    assert "paper: ID-SIM" in html


def test_models_are_told_apart_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = model_identity(str(tmp_path / "a"))
    (tmp_path / "a").write_text("2")
    assert model_identity(str(tmp_path / "a")) != first
    assert model_identity("mini") != "mini"
    assert model_identity("someone/model") == "someone/model"
    folder = model_identity(str(tmp_path))
    (tmp_path / "b").write_text("3")
    assert model_identity(str(tmp_path)) != folder


def test_the_command_keeps_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    some = [
        dataclasses.replace(made_up(f"p{i}", 6), images=rng.integers(0, 255, (6, 32, 32, 3), np.uint8)) for i in (1, 2)
    ]
    write_shard(tmp_path / "clip-00000.tar", some)
    command, model = Command(capsys), save_toy(tmp_path)
    start: list[str | Path] = ["compare", tmp_path / "clip-00000.tar", "-o", tmp_path / "out", "--frames", "12"]
    ended = command(*start, "--variant", f"full={model}")
    assert ended.code == 0
    assert "| full | not measured (0.698)" in ended.out  # noise is nobody
    opening: list[Variant] = []
    real = variants.opened

    def heard(variant: Variant) -> PersonaLive:
        opening.append(variant)
        return real(variant)

    monkeypatch.setattr(variants, "opened", heard)
    ended = command(*start, "--variant", f"full={model}", "--variant", f"tau 15={model},stream.tau=15")
    assert ended.code == 0
    assert [variant.name for variant in opening] == ["tau 15"]
    lines = list(csv.DictReader((tmp_path / "out" / "variants.csv").open(encoding="utf-8")))
    assert [(line["variant"], line["portrait"], line["driver"]) for line in lines[1:3]] == [
        ("full", "p2", "p1"), ("tau 15", "p1", "p2"),
    ]  # fmt: skip
    assert float(lines[0]["temporal"]) > 0
    assert lines[0]["identity (rendered people)"] == ""
    assert (tmp_path / "out" / "variants.html").exists()
    assert "two variants are called" in command(*start, "--variant", "a=mini", "--variant", "a=mini").err
    (kept,) = (path for path in (tmp_path / "out" / "kept").iterdir() if '"full"' in path.read_text())
    kept.write_text("{}")
    people = list(read_shards([tmp_path / "clip-00000.tar"]))
    with pytest.raises(InputError, match="delete it"):
        variants.measure(parse(f"full={model}"), people, Yardstick.load(), 12, kept.parent)
