"""The bench: with a clock of its own it is plain arithmetic; its session is a stream, its counts are known ones."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from command import Command
from personalive.config import OFFICIAL
from personalive.evaluation.bench import PER_CHUNK, bench, count_tflop, matrix_tflops
from personalive.pipeline import PersonaLive
from toy import toy_networks

PLAIN = [stage for stage in PER_CHUNK if stage not in ("warp", "compose")]
"""Of a model without a reference warp; with one: test_warp_stream.py."""


def ticking() -> float:
    """Every look at it is a second later."""
    return float(next(_ticks))


_ticks = itertools.count()


def test_medians_rates_and_shares_by_a_known_clock() -> None:
    report = bench(toy_networks(), keyframes=2, chunks=3, burn_in=1, clock=ticking)
    assert report.stages == dict.fromkeys(PLAIN, 1000.0)  # one tick from begin to end of every piece
    assert (report.chunk_ms, report.first_chunk_ms) == (1000.0, 1000.0)
    assert report.frames_per_second == 4.0
    assert report.matrix_tflops == 2 * 1024**3 / 1e12
    assert report.share == pytest.approx(report.tflop["window"] / report.matrix_tflops)
    assert (report.model, report.dtype, report.keyframes, report.peak_gb) == ("toy", "float32", 2, None)
    assert report.window == "4 levels of 4 frames"


def test_keyframes_cost_operations() -> None:
    config = toy_networks().config
    none, three = count_tflop(config, 0), count_tflop(config, 3)
    assert none["window"] < three["window"]
    assert none["decode"] == three["decode"]


def test_the_official_window_has_the_counted_operations() -> None:
    """As benchmarks/flops.py counts it (docs/parity.md): 23.232 TFLOP without, and the given 10.06 of the decoder."""
    counts = count_tflop(OFFICIAL, 0)
    assert counts["window"] == pytest.approx(23.232, abs=0.001)
    assert counts["decode"] == pytest.approx(10.06, abs=0.01)


def test_the_report_reads_both_ways() -> None:
    report = bench(toy_networks(), chunks=1, burn_in=0, clock=ticking, note="random weights")
    data = json.loads(report.to_json())
    assert set(data["stages"]) == set(PLAIN)
    table = report.to_table()
    assert "| window | 1000.00 |" in table
    assert "4.00 frames/s" in table
    assert "random weights" in table


def test_the_matrix_rate_is_of_this_device() -> None:
    class Steady:
        def time(self, piece: object) -> float:
            return 2.0

    rate = matrix_tflops(torch.device("cpu"), torch.float32, Steady(), side=8)  # type: ignore[arg-type]
    assert rate == pytest.approx(2 * 8**3 / 2e-3 / 1e12)


def test_the_command(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys)
    done = command("bench", "speed", "--random", "toy", "--chunks", "1", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    assert json.loads(done.out)["note"] == "random weights"
    done = command("bench", "speed", "--random", "toy", "--chunks", "1", "--json", "--device", "cpu", "--window", "2x3")
    assert json.loads(done.out)["window"] == "2 levels of 3 frames"
    assert "'2' is not LEVELSxFRAMES" in command("bench", "speed", "--random", "toy", "--window", "2").err
    assert "no size 'giant'" in command("bench", "speed", "--random", "giant").err
    assert "--keyframes is from 0 to 8" in command("bench", "speed", "--keyframes", "9").err


def test_a_benched_model_still_streams() -> None:
    networks = toy_networks()
    bench(networks, chunks=1, burn_in=0, clock=ticking)
    frames = PersonaLive(networks).start(np.zeros((32, 32, 3), np.uint8)).push(np.zeros((16, 32, 32, 3), np.uint8))
    assert frames.shape == (4, 32, 32, 3)
