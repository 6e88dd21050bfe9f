"""The `personalive` command called in this process, and a toy checkpoint for it: fixtures of tests, no tests here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from personalive.cli import main
from personalive.weights.load import save_networks
from toy import picture, toy_networks


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Command:
    """Runs the command; `capture` is pytest's capsys."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Outcome:
        """What `personalive ARGUMENTS` does."""
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = self.capture.readouterr()
        return Outcome(int(ended.value.code or 0), said.out, said.err)


def save_toy(folder: Path, **assignments: Any) -> Path:
    """A toy model's checkpoint; keywords as for `toy_networks`."""
    path = folder / "toy.safetensors"
    save_networks(toy_networks(**assignments), path, description="random weights")
    return path


def save_portrait(folder: Path) -> Path:
    """A square picture of nobody, for `--crop none`."""
    path = folder / "portrait.png"
    Image.fromarray(picture(1, 64)).save(path)
    return path
