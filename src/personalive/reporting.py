"""What a command tells the user: one line for an error, log lines, a progress bar. All of it goes to stderr."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import typer

from personalive.errors import PersonaLiveError

if TYPE_CHECKING:
    from personalive.animate import Progress

P = ParamSpec("P")

FAILED, FAULT, STOPPED = 1, 70, 130
"""Exit codes: an error that the user can mend, a fault of the program, Ctrl-C or SIGTERM."""

DEBUG_VARIABLE = "PERSONALIVE_DEBUG"
"""Set in the environment: errors come with their traceback."""

# What is not always installed, and the extra that brings it.
_SERVER = ("fastapi", "uvicorn", "websockets", "aiortc", "pydantic", "pydantic_settings", "prometheus_client")
_EXTRAS = {
    **dict.fromkeys(_SERVER, "server"),
    **dict.fromkeys(("moderngl", "scipy"), "render"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "pyvirtualcam": "virtualcam",
}


class _StderrLog(logging.Handler):
    """Log lines on whatever stderr is at the time: a live progress bar takes them in."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        typer.echo(self.format(record), err=True)


def start_log(level: int, form: str) -> None:
    """Log lines of `level` and above go to stderr in the form of `logging.Formatter`."""
    handler = _StderrLog()
    handler.setFormatter(logging.Formatter(form, datefmt="%H:%M:%S"))
    logger = logging.getLogger("personalive")  # not the root: what libraries have to say is not for our users
    logger.handlers = [handler]
    logger.setLevel(level)


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """The command with every exception turned into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):  # a reader that has gone, e.g. `| head`, is no error
            raise
        except KeyboardInterrupt:
            give_up("stopped; nothing was written", STOPPED)
        except PersonaLiveError as error:
            give_up(f"error: {error}", FAILED)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            give_up(f"error: {where}{error.strerror or error}; check the path, its permissions and the disk", FAILED)
        except ModuleNotFoundError as error:
            if error.name not in _EXTRAS:
                _give_up_unexpectedly(error)
            extra = f"pip install 'personalive[{_EXTRAS[error.name]}]'"
            give_up(f"error: this needs {error.name}, which is not installed: {extra}", FAILED)
        except Exception as error:
            _give_up_unexpectedly(error)

    return run


def give_up(message: str, code: int) -> NoReturn:
    """Ends the command from inside an `except`; the traceback only for those who asked."""
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        typer.echo(traceback.format_exc(), err=True)
    typer.echo(" ".join(message.splitlines()), err=True)
    raise typer.Exit(code)


def _give_up_unexpectedly(error: Exception) -> NoReturn:
    what = f"{type(error).__name__}: {error}"
    give_up(f"error: a fault of the program, {what} (personalive --debug ... shows where; please report it)", FAULT)


@contextmanager
def progress_bar(what: str, unit: str = "frames") -> Iterator[Progress]:
    """A bar with frames (or another unit) per second and the time left, on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second of the last half minute."""

        def render(self, task: Task) -> Text:
            """E.g. "12.3 frames/s"."""
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else "")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("left"), console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield show


@contextmanager
def transfer_bars(done: dict[str, int], totals: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
    """A bar for each file, with bytes per second and the time left, on a terminal; nothing elsewhere.

    done, totals: bytes by file. The function hears how many bytes more of a file are there.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=totals[name], completed=done[name]) for name in totals}

        def show(name: str, count: int) -> None:
            bar.advance(tasks[name], count)

        yield show
