"""The log of a run: CSV files, sample strips, log lines, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


class Log:
    """Of one stage in a run folder: STAGE.csv, STAGE.validation.csv, STAGE.png, tensorboard/STAGE/."""

    def __init__(self, folder: Path, name: str, fresh: bool) -> None:
        self._folder, self._name = folder, name
        self._sums: dict[str, float] = {}
        self._count = 0
        if fresh:
            for kind in ("csv", "validation.csv"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard" / name))

    def add(self, figures: Mapping[str, float]) -> None:
        """One step's figures, for the running mean."""
        for key, value in figures.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1

    def write(self, step: int, rate: float, seconds: float) -> None:
        """One row with the means since the last: step, seconds of this session, learning rate, losses."""
        means = {key: round(value / self._count, 5) for key, value in self._sums.items()}
        row = {"step": float(step), "seconds": round(seconds, 1), "rate": rate} | means
        _append(self._folder / f"{self._name}.csv", row)
        logger.info(" ".join(f"{key} {value:g}" for key, value in row.items()))
        self._scalars("train", means | {"rate": rate}, step)
        self._sums, self._count = {}, 0

    def validated(self, step: int, figures: Mapping[str, float], sheet: np.ndarray[Any, Any] | None) -> None:
        """The figures on held-out people, and the sample strip (H, W, 3) uint8."""
        logger.info("validation at step %d: %s", step, " ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        _append(self._folder / f"{self._name}.validation.csv", {"step": float(step), **figures})
        self._scalars("held out", figures, step)
        if sheet is not None:
            Image.fromarray(sheet).save(self._folder / f"{self._name}.png")
            if self._board is not None:
                self._board.add_image("samples", sheet, step, dataformats="HWC")

    def _scalars(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for key, value in figures.items():
                self._board.add_scalar(f"{group}/{key}", value, step)
            self._board.flush()

    def close(self) -> None:
        """Everything is on disk."""
        if self._board is not None:
            self._board.close()


def _append(path: Path, row: Mapping[str, float]) -> None:
    """One row; the header first where the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow([f"{value:.6g}" for value in row.values()])
