"""Motion by an independent tracker: mediapipe's face mesh, where the user has one; head, mouth, lids, brows and gaze.

Nothing of it comes with the product. It runs in a process of its own (`mesh_worker.py`) under the Python that is named.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeAlias

import numpy as np

from personalive.errors import ConfigError, WeightsError
from personalive.evaluation import mesh_worker
from personalive.evaluation.mesh_worker import POINTS, READY, SIZE
from personalive.evaluation.statistics import correlation
from personalive.evaluation.yardstick import Array
from personalive.media.frames import Pixels

HERE = "here"
"""Instead of a Python's path: the one that runs this program."""

HOW = (
    "make an environment for it (python3.11 -m venv mesh; mesh/bin/pip install mediapipe==0.10.21), name its Python: "
    "--face-mesh mesh/bin/python"
)

MESH_SIGNALS = ("yaw", "pitch", "roll", "mouth", "blink", "smile", "brow", "gaze sideways", "gaze up")
"""Angles in degrees; distances over the face's size (data.landmarks.truth_signals); gaze in widths of an eye."""

STILL = {
    "yaw": 1.0, "pitch": 1.0, "roll": 1.0, "mouth": 0.02, "blink": 0.005, "smile": 0.012, "brow": 0.005,
    "gaze sideways": 0.03, "gaze up": 0.02,
}  # fmt: skip
"""Least standard deviation of a signal in the driver, some two to four times the mesh's own noise (its second
differences on two real drivers and a rendered one): below it a correlation would be one with noise."""

OPEN = 0.6  # of the eye's usual opening: below, in driver or output, the mesh guesses the iris and gaze does not count

_ACROSS = ((33, 263), (127, 356), (234, 454))  # the person's right to left: eye corners, temples, cheeks
_DOWN = ((10, 2), (67, 98), (297, 327))  # hairline to under the nose: no jaw in it
_LIDS = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
_EYES = ((33, 133, 468, 105), (362, 263, 473, 334))  # corners, left in the picture first; iris; brow


Flags: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class MeshTracker(Protocol):
    """What finds the mesh's points."""

    def points(self, frame: Pixels) -> Array:
        """(POINTS, 3) in pixels of a frame (H, W, 3); NaN: no face."""
        ...


class FaceMesh:
    """mediapipe's face mesh, by a Python that has it. Raises ConfigError where it cannot be started."""

    def __init__(self, python: str) -> None:
        self._name = python
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        command = [sys.executable if python == HERE else python, str(Path(mesh_worker.__file__))]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
        except OSError as error:
            raise ConfigError(f"{python} is no Python that can be run ({error.strerror}); {HOW}") from error
        if self._answers().readline(1000) != READY:
            self._process.kill()
            self._process.wait()
            raise ConfigError(f"--face-mesh {python}: {self._last_line()}; {HOW}")

    def points(self, frame: Pixels) -> Array:
        """(POINTS, 3); NaN: no face. Raises WeightsError where the process has ended."""
        assert self._process.stdin is not None
        wanted = POINTS * 3 * 4
        try:
            self._process.stdin.write(SIZE.pack(*frame.shape[:2]) + np.ascontiguousarray(frame).tobytes())
            self._process.stdin.flush()
            answer = self._answers().read(wanted)
        except BrokenPipeError:
            answer = b""
        if len(answer) < wanted:
            raise WeightsError(f"the face mesh of {self._name} ended: {self._last_line()}")
        return np.frombuffer(answer, "<f4").astype(np.float64).reshape(POINTS, 3)

    def close(self) -> None:
        """Ends the process; it ends by itself when this one does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answers(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _last_line(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def mesh_signals(points: Array) -> Array:
    """(F, 9) in the order of MESH_SIGNALS from points (F, POINTS, 3); NaN where there is no face."""
    right = sum((_unit(points[:, b] - points[:, a]) for a, b in _ACROSS), np.zeros(3))
    down = sum((_unit(points[:, b] - points[:, a]) for a, b in _DOWN), np.zeros(3))
    right = _unit(right)
    down = _unit(down - (down * right).sum(-1, keepdims=True) * right)
    into = np.cross(right, down)  # (F, 3): the head's axes in the picture's x, y, z
    size = _apart(points, 33, 263) + _apart(points, 168, 2)
    pitch, yaw, roll = (
        np.degrees(np.arctan2(down[:, 2], into[:, 2])),
        np.degrees(np.arcsin(np.clip(-right[:, 2], -1, 1))),
        np.degrees(np.arctan2(right[:, 1], right[:, 0])),
    )
    lids = np.mean([_apart(points, a, b) for a, b in _LIDS], axis=0)
    brows = [np.linalg.norm(points[:, brow] - (points[:, a] + points[:, b]) / 2, axis=-1) for a, b, _, brow in _EYES]
    faces = np.stack([_apart(points, 13, 14), -lids, _apart(points, 61, 291), np.mean(brows, axis=0)]) / size
    return np.stack([yaw, pitch, roll, *faces, *np.mean([_gaze(points, *eye[:3]) for eye in _EYES], axis=0)], axis=-1)


def eye_opening(points: Array) -> Array:
    """(F,) mean distance of the lids, in widths of an eye, from points (F, POINTS, 3)."""
    width = (_apart(points, 33, 133) + _apart(points, 362, 263)) / 2
    return np.asarray(np.mean([_apart(points, a, b) for a, b in _LIDS], axis=0) / width)


@dataclass(frozen=True)
class Tracked:
    """A video as the mesh sees it: signals (F, 9) of MESH_SIGNALS and eye_opening (F,); NaN where there is no face."""

    signals: Array
    opening: Array

    @classmethod
    def of(cls, points: Array) -> Tracked:
        """From points (F, POINTS, 3)."""
        return cls(mesh_signals(points), eye_opening(points))

    @classmethod
    def joined(cls, parts: Sequence[Tracked]) -> Tracked:
        """One after the other."""
        return cls(np.concatenate([p.signals for p in parts]), np.concatenate([p.opening for p in parts]))

    @property
    def found(self) -> Flags:
        """(F,) whether there is a face."""
        return np.asarray(~np.isnan(self.opening))

    @property
    def looking(self) -> Flags:
        """(F,) whether there is a face with its eyes open."""
        if not self.found.any():
            return self.found
        return np.asarray(self.found & (self.opening >= OPEN * np.nanmedian(self.opening)))


def mesh_figures(driver: Tracked, output: Tracked) -> dict[str, float]:
    """How well an output follows its driver, frame by frame; names of measures.py.

    Correlations over the frames in which both show a face (of gaze: with open eyes); NaN for a signal that the driver
    hardly moves (STILL). "face found": the share of those frames among the ones in which the driver shows a face.
    """
    both, looking = driver.found & output.found, driver.looking & output.looking
    figures = {"face found, mesh": float(both.sum() / driver.found.sum()) if driver.found.any() else math.nan}
    for column, name in enumerate(MESH_SIGNALS):
        chosen = looking if name.startswith("gaze") else both
        wanted, made = driver.signals[chosen, column], output.signals[chosen, column]
        moves = len(wanted) >= 3 and wanted.std() >= STILL[name]
        figures[f"follows {name}, mesh"] = correlation(wanted, made) if moves else math.nan
    return figures


def _gaze(points: Array, left: int, right: int, iris: int) -> Array:
    """(2, F): the iris from the middle of the eye's corners, to the right and up, in widths of the eye."""
    across = points[:, right, :2] - points[:, left, :2]
    offset = points[:, iris, :2] - (points[:, right, :2] + points[:, left, :2]) / 2
    square = np.maximum((across**2).sum(-1), 1e-12)
    sideways = (offset * across).sum(-1) / square
    up = (offset[:, 0] * across[:, 1] - offset[:, 1] * across[:, 0]) / square
    return np.stack([sideways, up])


def _apart(points: Array, first: int, second: int) -> Array:
    return np.asarray(np.linalg.norm(points[:, first] - points[:, second], axis=-1))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
