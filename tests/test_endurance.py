"""`personalive bench live` at toy sizes: its runs end by themselves and say what they found; SIGTERM ends them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the live server's extra is missing: pip install 'personalive[server]'")
pytest.importorskip("websockets", reason="the live server's extra is missing: pip install 'personalive[server]'")

from command import Command, save_toy
from fake_live import FakeModel
from personalive import gallery
from personalive.server import endurance
from personalive.server.endurance import Left
from personalive.server.worker import Worker

pytestmark = pytest.mark.skipif(not gallery.portraits(), reason="the built-in portraits are not in this installation")


@pytest.mark.slow
def test_nothing_is_left_of_those_who_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endurance, "AT_ONCE", 4)
    left = asyncio.run(endurance.disconnects(FakeModel(), 8))
    assert left == Left(0, 0, 0, 0, 0, left.megabytes, left.late_megabytes)


def test_what_stays_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALIVE_LINGER_SECONDS", "0.2")
    monkeypatch.setattr(endurance, "FREED_SECONDS", 3.0)
    monkeypatch.setattr(endurance, "AT_ONCE", 3)
    monkeypatch.setattr(Worker, "remove", lambda self, session: None)
    left = asyncio.run(endurance.disconnects(FakeModel(), 3))
    assert (left.sessions, left.worker_sessions) == (0, 3)


def test_overload_is_measured() -> None:
    found = asyncio.run(endurance.overload(FakeModel(), 6.0))
    assert (found.sent, found.sustained) == (60, 30)
    assert found.first > 400, "a window of 16 frames at 30 a second"
    assert found.last > 400


def test_the_other_runs_say_what_they_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = ("bench", "live", "--device", "cpu", "--runtime", "eager", "--model", save_toy(tmp_path))
    done = Command(capsys)(*live, "--overload", "0.02", "--memory", "0.02")
    assert done.code == 0, done.err
    overload, memory, change = done.out.splitlines()
    found = re.fullmatch(
        r"overload, 0.02 min of (\d+) frames/s \(([\d.]+) are sustained\): "
        r"median delay (?:\d+|nan) ms at first, (?:\d+|nan) ms at the end; \d+ dropped late", overload,
    )  # fmt: skip
    assert found, overload
    assert int(found[1]) >= 2 * float(found[2])
    assert re.fullmatch(r"memory, 0.02 min, MB after each tenth: \d+(, \d+){9}", memory)
    assert re.fullmatch(r"from the first tenth to the end: [+-][\d.]+ %", change)


OTHERS = [("--overload", "60"), ("--memory", "60"), ()]


@pytest.mark.parametrize(
    "run", [("--disconnects", "99999"), *(pytest.param(o, marks=pytest.mark.slow) for o in OTHERS)]
)
def test_a_signal_ends_it(run: tuple[str, ...], tmp_path: Path) -> None:
    toy = str(save_toy(tmp_path))
    given = [
        sys.executable,
        "-c",
        STARTED,
        "bench",
        "live",
        "--device",
        "cpu",
        "--runtime",
        "eager",
        "--model",
        toy,
        "--seconds",
        "99",
        *run,
    ]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        assert process.stderr is not None
        while "streaming" not in (line := process.stderr.readline()):
            assert line, "it has ended by itself"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.strip().endswith("stopped; nothing was written")


STARTED = """
import sys
from personalive.cli import main
from personalive.server.intake import Intake

def offer(self, raw, real=Intake.offer):
    print("streaming", file=sys.stderr, flush=True)
    real(self, raw)

Intake.offer = offer
main(sys.argv[1:])
"""
"""The command, which says when driving frames come in."""
