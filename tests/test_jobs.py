"""Jobs on processes. The jobs are functions of this module, which the fresh processes import."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from personalive.data.jobs import run_jobs
from personalive.errors import InputError


def double(number: int) -> tuple[int, str | None]:
    return 2 * number, os.environ.get("OMP_NUM_THREADS")


def wait_or_report(folder: Path, number: int) -> int:
    """Job 0 ends when another one has begun; the others wait for ever, and tidy up when they are stopped."""
    if number == 0:
        while not list(folder.glob("begun-*")):
            threading.Event().wait(0.02)
        return 0
    (folder / f"begun-{number}").touch()
    try:
        threading.Event().wait()
    finally:
        (folder / f"tidied-{number}").touch()
    return number


def refuse(number: int) -> int:
    raise InputError(f"job {number} cannot be done")


def test_every_job_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found: list[tuple[int, str | None]] = []
    run_jobs(double, [(i,) for i in range(5)], 2, found.append)
    assert sorted(found) == [(2 * i, "1") for i in range(5)]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    run_jobs(double, [], 2, found.append)
    assert len(found) == 5


def test_a_stop_ends_what_runs_and_calls_off_the_rest(tmp_path: Path) -> None:
    def stop(_result: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(wait_or_report, [(tmp_path, i) for i in range(9)], 2, stop)
    assert multiprocessing.active_children() == []
    begun = {path.name.removeprefix("begun-") for path in tmp_path.glob("begun-*")}
    tidied = {path.name.removeprefix("tidied-") for path in tmp_path.glob("tidied-*")}
    assert tidied
    assert tidied <= begun
    assert len(begun) <= 2


def test_an_error_of_a_job_is_the_error() -> None:
    with pytest.raises(InputError, match="job 3 cannot be done"):
        run_jobs(refuse, [(3,)], 2, print)
    assert multiprocessing.active_children() == []
