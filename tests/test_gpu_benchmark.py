"""The script that a GPU's first minutes belong to: it must not die of a typo, and it goes on where it stopped."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def keys(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["failed"] for row in rows if "failed" in row] == []
    return [row["key"] for row in rows]


def test_a_dry_run_goes_on_where_it_stopped(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["--dry-run", "--output", str(tmp_path / "gpu.json")]
    first, then = ["no race", "no wait"], ["eager fp16, low", "fp16, 8GB preset, 3"]
    gpu.main([*dry, "--rows", *first])
    assert keys(tmp_path / "gpu.json") == first
    race = json.loads((tmp_path / "gpu.json").read_text().splitlines()[0])
    assert (race["frames"], race["different_bytes"]) == (52, 0)
    gpu.main([*dry, "--rows", *first, *then])
    names = ["fp16, 8GB preset, 3 keyframes", "eager fp16, low latency"]
    assert keys(tmp_path / "gpu.json") == [*first, *names]
    said = capsys.readouterr().out
    assert "| eager fp16 | 2 levels of 2 frames | 0 |" in said
    assert said.rstrip().endswith("nothing is left")
    gpu.main([*dry, "--rows", *first, "eager bf16", "--minutes", "0"])
    assert "left, call again: eager bf16, 3 keyframes, eager bf16, 0 keyframes" in capsys.readouterr().out


def test_a_row_that_fails_costs_no_other(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.ROWS, "eager fp16", (gpu.HALF, lambda networks, given: 1 / 0))
    gpu.main(["--dry-run", "--output", str(tmp_path / "gpu.json"), "--rows", "eager fp16, 0", "no wait"])
    checked, failed = (json.loads(line) for line in (tmp_path / "gpu.json").read_text().splitlines())
    assert checked["waits"] == 0
    assert (failed["keyframes"], failed["failed"]) == ("0 keyframes", "ZeroDivisionError: division by zero")


@torch.inference_mode()
def test_eight_bits_compute_what_was_simulated(gpu: Any) -> None:
    import quantisation

    torch.manual_seed(0)
    layer, tokens = torch.nn.Linear(32, 48), torch.randn(2, 5, 32)
    expected = quantisation.Rounded(layer, *quantisation.PATHS["fp8"])(tokens)
    torch.testing.assert_close(quantisation.Fp8(layer)(tokens), expected, rtol=1e-5, atol=1e-5)
    assert 1e-3 < (expected - layer(tokens)).abs().max() < 0.2


@pytest.mark.slow
def test_every_row_runs_dry(gpu: Any, tmp_path: Path) -> None:
    """Two minutes: ONNX files stand for the packages and engines."""
    gpu.main(["--dry-run", "--output", str(tmp_path / "gpu.json"), "--minutes", "1000"])
    assert len(keys(tmp_path / "gpu.json")) == len(gpu.gpu_checks.CHECKS) + 2 * len(gpu.ROWS) + len(gpu.LOW_ROWS)
