"""Many jobs on a few processes, ended cleanly: what does not run yet is called off, what runs is stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

# Mesa's rasteriser, numpy and torch all start threads that only get in each other's way.
_ENVIRONMENT = {"LP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_PATIENCE = 10.0  # seconds for tidying up


def run_jobs(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int, done: Callable[[Result], object]
) -> None:
    """`function(*job)` for every job, each in one of at most `workers` fresh processes; `done` gets every result.

    Whatever ends it early, an error of a job, Ctrl-C, SIGTERM turned into KeyboardInterrupt, stops the jobs under way
    with SystemExit, so that their `finally` runs, or after ten seconds by force, and is raised when all have gone.
    Call it under `if __name__ == "__main__":` in a script, because fresh processes import it.
    """
    if not jobs:
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with _environment(_ENVIRONMENT), ProcessPoolExecutor(min(workers, len(jobs)), context, _make_stoppable) as pool:
        running = [pool.submit(_run, function, job) for job in jobs]
        try:
            for future in as_completed(running):
                done(future.result())
        except BaseException:
            # With its workers gone the pool gives up what waits; to cancel that first trips CPython's pool (3.11).
            workers_of_ours = set(multiprocessing.active_children()) - others
            for process in workers_of_ours:
                process.terminate()
            for process in workers_of_ours:  # a signal just before a blocking call, or in a destructor, can get lost
                process.join(_PATIENCE)
                process.kill()
            raise


_stopped = False  # in a worker: SIGTERM has come


def _make_stoppable() -> None:
    """In a new worker. Ctrl-C reaches the whole group, but it is the parent who decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    global _stopped
    if not _stopped:  # a second signal must not break into the tidying up after the first
        _stopped = True
        raise SystemExit


def _run(function: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    """A job; a worker that was told to stop ends here instead of taking the next one."""
    try:
        return function(*job)
    finally:
        if _stopped:
            os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for child processes and put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
