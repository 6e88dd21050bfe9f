"""The doctor: each problem is found, told from what is merely absent, and comes with a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Command
from personalive import diagnosis
from personalive.diagnosis import DriverFacts, Finding, TorchFacts, judge_codecs, judge_gpu
from personalive.errors import ConfigError
from personalive.weights import find
from personalive.weights.manifest import BASE_UNET, BUNDLES, TINY_DECODER, Part
from personalive.weights.record import Entry, sha256_of, write_record

CPU_BUILD = TorchFacts("2.13.0+cpu", None, False)
UPGRADE = "pip install --upgrade --force-reinstall torch"
KERNELS = ("sm_80", "sm_90", "sm_120")
SEEN = TorchFacts("2.13.0", "12.8", True, KERNELS, "NVIDIA H200", (9, 0))


@pytest.mark.parametrize(
    ("torch", "driver", "state", "says", "mend"),
    [
        (SEEN, DriverFacts("570.1", "12.8"), "ok", "NVIDIA H200 (sm_90), torch 2.13.0 for CUDA 12.8", ""),
        (SEEN, None, "ok", "NVIDIA H200", ""),  # no nvidia-smi in a container: torch sees the GPU all the same
        (CPU_BUILD, None, "note", "the built-in model runs", ""),
        (CPU_BUILD, DriverFacts("570.1", "12.8"), "problem", "for CPUs only", UPGRADE),
        (TorchFacts("2.13.0", "13.0", False), None, "note", "there is no NVIDIA driver", ""),
        (
            TorchFacts("2.13.0", "13.0", False), DriverFacts("535.1", "12.2"),
            "problem", "knows CUDA 12.2, which is too old", "sudo ubuntu-drivers install",
        ),
        (
            TorchFacts("2.13.0", "12.8", False), DriverFacts("570.1", "12.8"),
            "problem", "does not answer torch", "nvidia-smi",
        ),
        (
            TorchFacts("2.1.0", "12.1", True, ("sm_80", "sm_90"), "RTX 5090", (12, 0)), DriverFacts("570.1", "12.8"),
            "problem", "RTX 5090 needs sm_120", UPGRADE,
        ),
    ],
)  # fmt: skip
def test_torch_against_the_driver(
    torch: TorchFacts, driver: DriverFacts | None, state: str, says: str, mend: str
) -> None:
    finding = judge_gpu(torch, driver)
    assert (finding.state, finding.mend) == (state, mend)
    assert says in finding.says


@pytest.mark.parametrize(
    ("capability", "kernels", "covered"),
    [
        ((8, 9), ("sm_80",), True),  # the same major version, older
        ((8, 0), ("sm_86",), False),
        ((12, 0), ("sm_90",), False),
        ((12, 0), ("compute_90",), True),  # intermediate code is compiled by the driver
        ((9, 0), ("sm_90a",), True),
        ((7, 5), KERNELS, False),
    ],
)
def test_which_kernels_run_where(capability: tuple[int, int], kernels: tuple[str, ...], covered: bool) -> None:
    assert diagnosis._covered(capability, kernels) is covered


def test_codecs() -> None:
    assert [finding.state for finding in diagnosis.codecs()] == ["ok"]  # here, with the wheel's own ffmpeg
    (finding,) = judge_codecs({"gif", "aac", "h264", "hevc"})
    assert finding == Finding(
        "problem", "video", "PyAV lacks libx264 (to write MP4), vp9 (to read)", "pip install --force-reinstall av"
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(find.HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path


def official(root: Path) -> list[Path]:
    paths = [root / part.places[-1] for part in BUNDLES["official"]]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return paths


def findings() -> dict[str, Finding]:
    return {finding.about: finding for finding in diagnosis.weights()}


def test_official_weights_that_are_absent_are_no_problem(here: Path) -> None:
    found = findings()
    assert found["model mini"].state == "ok"
    assert found["model official"] == Finding(
        "note", "model official", "not on this machine", "personalive download official"
    )


def test_official_weights_in_every_condition(here: Path) -> None:
    root = here / "home" / "pretrained_weights"
    paths = official(root)
    assert "8 files were never compared" in findings()["model official"].says
    record = {p.relative_to(root).as_posix(): Entry(p.stat().st_size, sha256_of(p)) for p in paths}
    write_record(root, record)
    assert findings()["model official"].state == "ok"
    paths[0].write_bytes(b"x" * paths[0].stat().st_size)
    found = findings()["weights personalive/denoising_unet.pth"]
    assert (found.state, found.mend) == ("problem", "personalive download official --repair")
    paths[1].unlink()
    assert findings()["model official"].says.startswith("incomplete in")


@pytest.mark.parametrize(("bundle", "part"), [("taesd", TINY_DECODER), ("base-unet", BASE_UNET)])
def test_each_damaged_file_is_mended_by_what_brought_it(bundle: str, part: Part, here: Path) -> None:
    """Also where the official weights are not complete."""
    root = here / "home" / "pretrained_weights"
    path = root / part.places[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"right")
    write_record(root, {part.places[0]: Entry(5, sha256_of(path))})
    assert f"weights {part.places[0]}" not in findings()
    path.write_bytes(b"wrong")
    found = findings()
    assert found[f"weights {part.places[0]}"].mend == f"personalive download {bundle} --repair"
    assert found["model official"].says == "not on this machine"


def test_a_local_folder_is_named_in_the_command(here: Path) -> None:
    official(here / "pretrained_weights")
    assert findings()["model official"].mend == "personalive download official --repair --to pretrained_weights"


def test_a_check_that_fails_is_a_finding() -> None:
    def fail(error: Exception) -> Iterator[Finding]:
        raise error

    def broken_thing() -> Iterator[Finding]:
        yield from fail(ConfigError("no such thing"))

    def worse() -> Iterator[Finding]:
        yield from fail(KeyError("x"))

    assert list(diagnosis.examine([broken_thing, worse])) == [
        Finding("problem", "broken thing", "no such thing"),
        Finding("problem", "worse", "KeyError: 'x'"),
    ]


def test_the_command_ends_with_the_number_of_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine() -> Iterator[Finding]:
        yield Finding("ok", "a", "good")

    def ill() -> Iterator[Finding]:
        yield Finding("problem", "b", "bad", "mend it")

    monkeypatch.setattr(diagnosis, "CHECKS", (fine,))
    assert Command(capsys)("doctor").out == "ok       a: good\nnothing is wrong\n"
    monkeypatch.setattr(diagnosis, "CHECKS", (fine, ill))
    ended = Command(capsys)("doctor")
    assert ended.code == 1
    assert "problem  b: bad\n           -> mend it\n1 problem found" in ended.out


def test_everything_is_examined_here(here: Path) -> None:
    about = {finding.about for finding in diagnosis.examine([diagnosis.machine, diagnosis.packages, diagnosis.browser])}
    assert about == {"Python", "disk", "packages", "browser"}
