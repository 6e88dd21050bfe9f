"""The script that a GPU's first minutes belong to: it must not die of a typo, and it goes on where it stopped."""

from __future__ import annotations

import importlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import toy
from personalive.acceleration import export
from personalive.acceleration.swap import own_unet
from personalive.choices import with_window
from personalive.config import TOY
from personalive.weights.folder import save_folder
from toy import reference, toy_networks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def fresh_networks() -> Iterator[None]:
    """The script may move its networks about: no other module gets them."""
    yield
    toy.networks_of.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def gpu_rows(gpu: Any) -> Any:
    """The module of the rows, as the script sees it."""
    return importlib.import_module(gpu.in_precision.__module__)


def noted(function: Callable[..., Any], name: str, used: list[str]) -> Callable[..., Any]:
    """The function, which leaves its name in `used` when it is called."""

    def call(*given: Any, **named: Any) -> Any:
        used.append(name)
        return function(*given, **named)

    return call


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
    names = ["eager fp16, low latency", "fp16, 8GB preset, 3 keyframes"]
    assert keys(tmp_path / "gpu.json") == [*first, *names]
    said = capsys.readouterr().out
    assert "| eager fp16 | 2 levels of 2 frames | 0 |" in said
    assert said.rstrip().endswith("nothing is left")
    gpu.main([*dry, "--rows", *first, "eager bf16", "--minutes", "0"])
    assert "left, call again: eager bf16, 3 keyframes" in capsys.readouterr().out


def test_a_row_that_fails_costs_no_other(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.ROWS, "eager fp16", (gpu_rows(gpu).HALF, lambda networks, given: 1 / 0))
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


# A long stream on a small card, fast paths on the golden, a process's first frame


def test_a_long_stream_has_its_keyframes_and_a_new_portrait(gpu: Any) -> None:
    found = gpu.gpu_checks.small_card(toy_networks(), "cpu", True)
    assert (found["chunks"], found["keyframes"], found["grown_mb"]) == (24, 3, 0.0)  # nothing is on a GPU here
    assert found["host_grown_mb"] < 200


def test_growth_is_what_came_after_the_first_quarter(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is none: 24 chunks, of which each leaves a megabyte behind."""
    networks = toy_networks()
    held = itertools.count(10**8, 10**6)
    given: list[float] = []
    device = SimpleNamespace(
        memory_allocated=lambda: next(held), max_memory_allocated=lambda: 5 * 10**9, empty_cache=lambda: None,
        max_memory_reserved=lambda: 6 * 10**9, mem_get_info=lambda device: (133 * 10**9, 140 * 10**9),
        set_per_process_memory_fraction=given.append, reset_peak_memory_stats=lambda: None,
        get_device_properties=lambda device: SimpleNamespace(total_memory=80e9),
    )  # fmt: skip
    monkeypatch.setattr(gpu.gpu_checks.torch, "cuda", device)
    monkeypatch.setattr(gpu.gpu_checks, "in_precision", lambda base, device, dtype: base)
    monkeypatch.setattr(gpu.gpu_checks.offload, "apply", lambda *given, **named: None)
    moved: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(str(device)))
    found = gpu.gpu_checks.small_card(networks, "cuda", True)
    assert given == [0.1, 1.0]  # 8 GB of 80, and all of them again
    assert moved == ["cpu"] * 7 + ["cuda"] * 7
    assert (found["grown_mb"], found["peak_gb"], found["reserved_gb"], found["device_gb"]) == (17.0, 5.0, 6.0, 7.0)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["merged_attention", "batched_projections"])
def test_other_ways_of_the_unet_compute_the_same(name: str, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gpu_rows(gpu)
    used: list[str] = []
    for place, function in (("partial_softmax", rows.partial_softmax), ("_forward_batched", rows._forward_batched)):
        monkeypatch.setattr(rows, place, noted(function, place, used))
    monkeypatch.setattr(rows, "compiled", lambda: lambda networks, given: networks)
    before = rows.attention.attend, rows.Attention.forward
    networks, given = toy_networks(), rows.Try(2, dry=True)
    torch.manual_seed(3)
    flat = export.example(networks, 2)
    expected = export.FlatWindow(own_unet(networks))(*flat)
    with given.until:
        changed = getattr(rows, name)(rows.in_precision(networks, "cpu", rows.HALF), given)
        got = export.FlatWindow(own_unet(changed))(*flat)
        reference(changed)  # the other UNet is left as it is
    assert set(used) == {"partial_softmax" if name == "merged_attention" else "_forward_batched"}
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (rows.attention.attend, rows.Attention.forward) == before  # other rows are not touched


def test_the_flash_kernel_is_called_as_it_wants(gpu: Any) -> None:
    """On the meta device, which knows the shapes of the GPU's kernel: rows before heads, a sum for each."""
    query, keys = torch.empty(1, 8, 64, 40, device="meta").half(), torch.empty(1, 8, 300, 40, device="meta").half()
    result, log_sum = gpu_rows(gpu).partial_softmax(query, keys, keys, None)
    assert (result.shape, log_sum.shape) == ((1, 64, 8, 40), (1, 64, 8))


def test_a_path_is_held_against_float32(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry, on the toy: the same numbers give no error, other ones do."""
    networks = toy_networks()

    def wrong(changed: Any, given: Any) -> Any:
        with torch.no_grad():
            changed.denoising_unet.conv_out.weight.mul_(1.5)
        return changed

    assert gpu.gpu_checks.golden_error("eager fp16")(networks, "cpu", True) == {"mean": 0.0, "largest": 0.0}
    monkeypatch.setitem(gpu.ROWS, "eager fp16", (gpu_rows(gpu).HALF, wrong))
    assert gpu.gpu_checks.golden_error("eager fp16")(networks, "cpu", True)["mean"] > 0.1


def test_a_first_frame_is_timed_from_the_asking(gpu: Any, tmp_path: Path) -> None:
    save_folder(toy_networks(), tmp_path / "model")
    clock = itertools.count(1)
    warm_start = importlib.import_module("warm_start")
    found = warm_start.first_frame(tmp_path / "model", "eager", "cpu", lambda: float(next(clock)))
    assert found == {"imported": 1, "loaded": 2, "runtime": 3, "portrait": 4, "first_frame": 5}


# What it says


def bench_row(key: str, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "note": key, "window": "4 levels of 4 frames", "keyframes": 3, "frames_per_second": rate,
        "chunk_ms": 4e3 / rate, "delay_ms": 600.0, "stages": {"window": 50.0, "decode": 20.0}, "share": 0.4,
        "tflop": {"window": 25.0}, "peak_gb": 7.0, "planned_gb": 6.5, "error_255": 0.1, "matrix_tflops": 800.0,
        "dtype": "float16", **more,
    }  # fmt: skip


def test_aims_are_met_by_what_was_measured_only(gpu: Any) -> None:
    report = importlib.import_module("gpu_report").report_of
    empty = report([])
    assert empty.count("| not measured |") == 10
    assert "yes" not in empty
    rows = [
        bench_row("fp16, compiled, 3 keyframes", 44.9),
        bench_row("fp16, compiled, 0 keyframes", 70.0, keyframes=0),
        bench_row("fp16, tiny decoder, 3 keyframes", 60.0),
        bench_row("bf16, compiled, 3 keyframes", 40.0, dtype="bfloat16", matrix_tflops=1000.0),
        bench_row("fp16, all compiled, low latency", 30.0, keyframes=0, delay_ms=167.0),
        bench_row("bf16, fp8 linear layers, compiled, 3 keyframes", 99.0),
        {"key": "golden, fp16, compiled", "note": "", "mean": 1.01},
        {"key": "golden, bf16, compiled", "note": "", "mean": 3.0},
        {"key": "warm start, aoti", "note": "", "first_first_frame_s": 90.0, "again_first_frame_s": 20.0},
        {"key": "warm start, eager", "note": "", "again_first_frame_s": 30.0},
        {"key": "8 GB card", "note": "", "device_gb": 7.9, "grown_mb": 16.1},
        {"key": "no race", "note": "no race", "failed": "RuntimeError: x", "keyframes": ""},
    ]
    said = report(rows)
    for line in (
        "| frames/s, SD VAE, 3 keyframes | 45 or more | 44.9 | fp16, compiled, 3 keyframes | **no** |",
        "| frames/s, tiny decoder, 3 keyframes | 60 or more | 60 | fp16, tiny decoder, 3 keyframes | yes |",
        "| UNet, % of the bf16 matrix rate | 50 or more | 50 | fp16, compiled, 3 keyframes | yes |",
        "| first frame, warm start, s | 20 or less | 20 | warm start, aoti | yes |",
        "| GB of the device, fp16, 3 keyframes | 8 or less | 7.9 | 8 GB card | yes |",
        "| growth over that run, MB | 16 or less | 16.1 | 8 GB card | **no** |",
        "| bytes changed by decoding beside | 0 or less | not measured | | |",
        "| largest mean error of fp16 paths on the golden, /255 | 1 or less | 1.01 | golden, fp16, compiled | **no** |",
        "| two levels of two frames: frames/s |  | 30 | fp16, all compiled, low latency |  |",
        "| two levels of two frames: delay, ms |  | 167 | fp16, all compiled, low latency |  |",
    ):
        assert line in said.splitlines()
    assert "| no race | |  | failed: RuntimeError: x |" in said


def test_the_delay_of_a_window(gpu: Any) -> None:
    """15 more frames of a camera of 30 a second and a chunk; a model that is slower gets fewer frames."""
    assert gpu.delay_ms(TOY, 45.0, 90.0) == pytest.approx(15 / 30 * 1e3 + 90)
    assert gpu.delay_ms(with_window(TOY, gpu.LOW_LATENCY), 10.0, 200.0) == pytest.approx(3 / 10 * 1e3 + 200)


def test_every_aim_has_its_rows(gpu: Any) -> None:
    """All that the script can do, and what the aims are about before the rest."""
    given = gpu.options(["--dry-run"])
    found = list(gpu.jobs(toy_networks(), given))
    first, rest = gpu.FIRST_ROWS, [name for name in gpu.ROWS if name not in gpu.FIRST_ROWS]
    assert len(found) == len(gpu.gpu_checks.CHECKS) + len(gpu.ROWS) + len(first) + len(gpu.LOW_ROWS)
    assert set(gpu.gpu_checks.CHECKS) <= set(found)
    last_aim = max(found.index(f"golden, {name}") for name in first if f"golden, {name}" in found)
    assert last_aim < min(found.index(f"{name}, 3 keyframes") for name in rest)


@pytest.mark.slow
def test_every_row_runs_dry(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes: ONNX files stand for the packages and engines, and graphs are traced, not compiled."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gpu.main(["--dry-run", "--output", str(tmp_path / "gpu.json"), "--minutes", "1000"])
    assert keys(tmp_path / "gpu.json") == list(gpu.jobs(toy_networks(), gpu.options(["--dry-run"])))
