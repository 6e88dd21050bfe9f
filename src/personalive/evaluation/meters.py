"""Meters: each takes a case's frames block by block and has its measures at the end. One for each thing it needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch

from personalive.evaluation import metrics
from personalive.evaluation.animator import Reader
from personalive.evaluation.cases import Case
from personalive.evaluation.exact import Exact, exact_figures
from personalive.evaluation.expression import MOVES
from personalive.evaluation.identity import CaseEmbeddings, cosines, joined, spread
from personalive.evaluation.long_stream import drift
from personalive.evaluation.measures import RENDERED
from personalive.evaluation.mesh import MESH_SIGNALS, Flags, MeshTracker, Tracked, mesh_figures
from personalive.evaluation.networks import CLIP_FRAMES, FaceNetwork, VideoNetwork
from personalive.evaluation.recogniser import FaceRecogniser
from personalive.evaluation.statistics import correlation
from personalive.evaluation.temporal import Distance, TemporalMeter
from personalive.evaluation.yardstick import IDENTITY_SIZE, SIGNALS, Array, identity_distance
from personalive.media.frames import Pixels, resize_to, to_unit

STEADY = 2.0
"""Least standard deviation of an angle that the yardstick reads in a driver, degrees, some three times its own noise
on real drivers: below it there is no turning to follow. Of expression: `expression.MOVES`."""

DRIVER_STEP = 5
"""Every so many frames of a driver a face recogniser looks at it: only for what its person's own frames differ by."""

MOST_PSNR = 100.0  # of a frame, dB: equal frames would make every mean infinite

Course: TypeAlias = dict[str, tuple[float, ...]]
"""Measures by frame; NaN where there was nothing to measure."""


@dataclass(frozen=True)
class Block:
    """The same moments (F, H, W, 3): driver and truth are of one size, the output's or a smaller one; truth None: there
    is none. whole: the driver at its own size, if that is another one."""

    generated: Pixels
    driving: Pixels
    truth: Pixels | None
    whole: Pixels | None = None

    @property
    def model(self) -> Pixels:
        """What the output's change over time is held against: the truth, else the driver."""
        return self.driving if self.truth is None else self.truth

    @property
    def compared(self) -> Pixels:
        """The output at the size of `model`, for what is compared pixel by pixel."""
        height, width = self.model.shape[1:3]
        if self.generated.shape[1:3] == (height, width):
            return self.generated
        return np.stack([resize_to(frame, height, width) for frame in self.generated])

    @property
    def driver(self) -> Pixels:
        """As large as there is."""
        return self.driving if self.whole is None else self.whole


class Meter(Protocol):
    """Figures by name of measures.BETTER; NaN: could not be measured."""

    def add(self, block: Block) -> None:
        """The next frames."""
        ...

    def figures(self) -> dict[str, float]:
        """Of all frames so far."""
        ...

    def course(self) -> Course:
        """What is worth a plot over time."""
        ...


class PixelMeter:
    """L1, PSNR, SSIM, MS-SSIM, and LPIPS where there is one, to the truth; nothing for blocks without."""

    def __init__(self, lpips: Distance | None = None) -> None:
        self._lpips = lpips
        self._values: dict[str, list[float]] = defaultdict(list)

    @torch.inference_mode()
    def add(self, block: Block) -> None:
        """The next frames."""
        if block.truth is None:
            return
        output, truth = to_unit(block.compared), to_unit(block.truth)
        self._values["L1"] += metrics.l1(output, truth).tolist()
        self._values["PSNR"] += metrics.psnr(output, truth).clamp(max=MOST_PSNR).tolist()
        self._values["SSIM"] += metrics.ssim(output, truth).tolist()
        self._values["MS-SSIM"] += metrics.ms_ssim(output, truth).tolist()
        if self._lpips is not None:
            self._values["LPIPS"] += self._lpips(output, truth).tolist()

    def figures(self) -> dict[str, float]:
        """Means over frames."""
        return {name: float(np.mean(values)) for name, values in self._values.items()}

    def course(self) -> Course:
        """L1, SSIM and LPIPS."""
        return {name: tuple(self._values[name]) for name in ("L1", "SSIM", "LPIPS") if name in self._values}


class ChangeMeter:
    """Temporal error, change ratio and flicker ratio; tLP in thousandths where there is an LPIPS."""

    def __init__(self, lpips: Distance | None = None) -> None:
        self._plain = TemporalMeter()
        self._lpips = None if lpips is None else TemporalMeter(lpips)

    def add(self, block: Block) -> None:
        """The next frames."""
        for pair in zip(block.compared, block.model, strict=True):
            self._plain.add(*pair)
            if self._lpips is not None:
                self._lpips.add(*pair)

    def figures(self) -> dict[str, float]:
        """Of all frames so far."""
        plain = asdict(self._plain.figures())
        found = {"temporal error": plain["error"], "change ratio": plain["change_ratio"]}
        found["flicker ratio"] = plain["flicker_ratio"]
        return found if self._lpips is None else {"tLP": 1000 * self._lpips.figures().error} | found

    def course(self) -> Course:
        """From frame to frame, of the output and of what it is held against (which shares a plot as "driver")."""
        made, true = zip(*self._plain.moved, strict=True) if self._plain.moved else ((), ())
        return {"change from frame to frame, output": made, "change from frame to frame, driver": true}


class SharpnessMeter:
    """The output's sharpness; of videos of minutes (long_stream.BLOCK * 3 frames or more), how much of it is lost."""

    def __init__(self) -> None:
        self._values: list[float] = []

    @torch.inference_mode()
    def add(self, block: Block) -> None:
        """The next frames."""
        self._values += metrics.sharpness(to_unit(block.generated)).tolist()

    def figures(self) -> dict[str, float]:
        """Nothing for a short video."""
        loss = -drift(np.array(self._values))
        return {} if np.isnan(loss) else {"sharpness loss": loss}

    def course(self) -> Course:
        """By frame."""
        return {"sharpness": tuple(self._values)}


class TrackerMeter:
    """What the yardstick (or another reader) sees: whether a face follows the driver's; of rendered people, who it is.

    With `exact`, of rendered people, also how far that is from what is known (`exact.exact_figures`).
    """

    def __init__(self, reader: Reader, portrait: Pixels, case: Case, exact: Exact | None = None) -> None:
        read = reader.read(portrait[None])
        self._own = None if read is None else read.identity[0]
        self._case, self._exact = case, exact
        self._made, self._drove = _Seen(reader), _Seen(reader)

    def add(self, block: Block) -> None:
        """The next frames."""
        self._made.add(block.generated)
        self._drove.add(block.driving)

    def figures(self) -> dict[str, float]:
        """Of all frames so far."""
        figures = {} if self._case.portrait_person is None else self._identity_figures()
        if self._exact is not None:
            drove = None if self._case.cross else self._drove.identity()
            parts = self._made.signals(), self._drove.signals(), self._made.identity(), drove
            figures |= exact_figures(self._exact, *parts)
        return figures | {f"follows {name}": self._made.follows(self._drove, name) for name in SIGNALS}

    def _identity_figures(self) -> dict[str, float]:
        gaps = self._made.distances(self._own)
        figures = {f"identity distance{RENDERED}": mean(gaps)}
        away = drift(gaps)
        if not np.isnan(away):
            figures[f"identity drift{RENDERED}"] = away
        if self._case.cross and self._case.driver_person is not None:
            foreign = self._made.distances(self._drove.first_identity())
            figures[f"nearer to the portrait{RENDERED}"] = share(gaps < foreign, gaps + foreign)
        return figures

    def course(self) -> Course:
        """The signals that a viewer sees best, of driver and output; of rendered people the identity distance, too."""
        signals = {
            f"{name} by the yardstick, {whose}": tuple(seen.signal(name).tolist())
            for name in ("mouth", "blink", "yaw")
            for whose, seen in (("driver", self._drove), ("output", self._made))
        }
        if self._case.portrait_person is None:
            return signals
        return {f"identity distance{RENDERED}": tuple(self._made.distances(self._own).tolist())} | signals


class MeshMeter:
    """Whether the face follows the driver's, by a mesh that sees the driver at its own size."""

    def __init__(self, mesh: MeshTracker) -> None:
        self._mesh = mesh
        self._seen: dict[str, list[Tracked]] = {"driver": [], "output": []}

    def add(self, block: Block) -> None:
        """The next frames."""
        for whose, frames in (("driver", block.driver), ("output", block.generated)):
            self._seen[whose].append(Tracked.of(np.stack([self._mesh.points(frame) for frame in frames])))

    def figures(self) -> dict[str, float]:
        """Of all frames so far."""
        return mesh_figures(*(Tracked.joined(self._seen[whose]) for whose in ("driver", "output")))

    def course(self) -> Course:
        """The signals that a viewer sees best, of driver and output."""
        return {
            f"{name} by the mesh, {whose}": tuple(Tracked.joined(parts).signals[:, MESH_SIGNALS.index(name)].tolist())
            for name in ("yaw", "mouth", "blink", "gaze sideways")
            for whose, parts in self._seen.items()
        }


class IdentityMeter:
    """Mean cosine of a face recogniser between output and portrait; crossed, whether the driver is further away.

    Of videos of minutes also the drift: by how much the distance, 1 - cosine, grows.
    """

    def __init__(self, recogniser: FaceRecogniser, portrait: Pixels, cross: bool = False) -> None:
        self._recogniser, self._cross = recogniser, cross
        self._own = recogniser.embed(portrait[None])[0]
        self._made: list[Array] = []
        self._drove: list[Array] = []

    def add(self, block: Block) -> None:
        """The next frames."""
        self._made.append(self._recogniser.embed(block.generated))
        self._drove.append(self._recogniser.embed(block.driver[::DRIVER_STEP]))

    def figures(self) -> dict[str, float]:
        """Means over frames with a face."""
        near = self._cosines()
        figures = {self._recogniser.measure: mean(near)}
        away = drift(1 - near)
        if not np.isnan(away):
            figures["identity drift"] = away
        if self._cross:
            foreign = cosines(joined(self._made), joined(self._drove)[0])
            figures["nearer to the portrait"] = share(near > foreign, near + foreign)
        return figures

    def course(self) -> Course:
        """The cosine."""
        return {self._recogniser.measure: tuple(self._cosines().tolist())}

    def embeddings(self) -> CaseEmbeddings:
        """Return what the scale of the figure is made of, see identity.py."""
        made, drove = spread(joined(self._made)), spread(joined(self._drove))
        return CaseEmbeddings(self._recogniser.measure, self._own, made, drove)

    def _cosines(self) -> Array:
        return cosines(joined(self._made), self._own)


class ParameterMeter:
    """AED and APD: mean absolute difference of expression and pose parameters between output and driver."""

    def __init__(self, network: FaceNetwork) -> None:
        self._network = network
        self._gaps: list[list[float]] = [[], []]

    def add(self, block: Block) -> None:
        """The next frames."""
        made, drove = self._network.parameters(block.generated), self._network.parameters(block.driving)
        for place, gaps in enumerate(self._gaps):
            if made is None or drove is None:
                gaps += [float("nan")] * len(block.generated)
            else:
                gaps += np.abs(made[place] - drove[place]).mean(-1).tolist()

    def figures(self) -> dict[str, float]:
        """Means over frames in whose block both show a face."""
        expression, pose = (mean(np.array(gaps, np.float64)) for gaps in self._gaps)
        return {"AED": expression, "APD": pose}

    def course(self) -> Course:
        """Both."""
        return {"AED": tuple(self._gaps[0]), "APD": tuple(self._gaps[1])}


class ClipFeatures:
    """Features of consecutive clips of CLIP_FRAMES frames, of the output and of what it is held against, for FVD.

    Frames that do not fill a clip at the end are left out. FVD is a figure of many videos, not of one: `measures` of a
    report take all features together.
    """

    def __init__(self, network: VideoNetwork) -> None:
        self._network = network
        self._waiting: list[tuple[Pixels, Pixels]] = []
        self._found: tuple[list[Array], list[Array]] = ([], [])

    def add(self, block: Block) -> None:
        """The next frames."""
        self._waiting += zip(block.compared, block.model, strict=True)
        while len(self._waiting) >= CLIP_FRAMES:
            clip, self._waiting = self._waiting[:CLIP_FRAMES], self._waiting[CLIP_FRAMES:]
            for frames, features in zip(zip(*clip, strict=True), self._found, strict=True):
                features.append(self._network.features(np.stack(frames)))

    def figures(self) -> dict[str, float]:
        """Nothing: see the class."""
        return {}

    def course(self) -> Course:
        """Nothing."""
        return {}

    def features(self) -> tuple[Array, Array]:
        """(N, D) of the output and of what it is held against."""
        made, true = (np.concatenate(found) if found else np.empty((0, 1)) for found in self._found)
        return made, true


@dataclass(frozen=True)
class Instruments:
    """What to measure with. Only the reader is always there."""

    reader: Reader
    lpips: Distance | None = None
    identity: FaceRecogniser | None = None
    face: FaceNetwork | None = None
    video: VideoNetwork | None = None
    mesh: MeshTracker | None = None

    def meters(self, portrait: Pixels, case: Case, exact: Exact | None = None) -> list[Meter]:
        """Return fresh meters for one case."""
        chosen: list[Meter] = [PixelMeter(self.lpips), ChangeMeter(self.lpips), SharpnessMeter()]
        if self.identity is not None:
            chosen.append(IdentityMeter(self.identity, portrait, case.cross))
        if self.face is not None:
            chosen.append(ParameterMeter(self.face))
        if self.video is not None:
            chosen.append(ClipFeatures(self.video))
        if self.mesh is not None:
            chosen.append(MeshMeter(self.mesh))
        return [*chosen, TrackerMeter(self.reader, portrait, case, exact)]


def mean(values: Array) -> float:
    """Of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def share(wanted: Flags, known: Array) -> float:
    """Return the share of `wanted` (F,) where `known` (F,) is not NaN; NaN where it always is."""
    return mean(np.where(np.isnan(known), np.nan, wanted))


class _Seen:
    """What the tracker sees in a video that comes in blocks; NaN where there is no face in a whole block."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._signals: list[Array] = []
        self._identity: list[Array] = []

    def add(self, frames: Pixels) -> None:
        """The next frames."""
        read = self._reader.read(frames)
        nothing = np.full((len(frames), len(SIGNALS)), np.nan), np.full((len(frames), IDENTITY_SIZE), np.nan)
        signals, identity = nothing if read is None else (read.signals, read.identity)
        self._signals.append(signals)
        self._identity.append(identity)

    def first_identity(self) -> Array:
        """Who is in the first frame; NaN for nobody."""
        return np.asarray(self._identity[0][0])

    def distances(self, identity: Array | None) -> Array:
        """Of every frame to somebody, (F,)."""
        own = self.identity()
        return np.full(len(own), np.nan) if identity is None else identity_distance(own, identity)

    def identity(self) -> Array:
        """Of every frame, (F, E)."""
        return np.concatenate(self._identity)

    def signals(self) -> Array:
        """All of SIGNALS, (F, 7)."""
        return np.concatenate(self._signals)

    def signal(self, name: str) -> Array:
        """One of SIGNALS, (F,)."""
        return np.asarray(self.signals()[:, SIGNALS.index(name)])

    def follows(self, driver: _Seen, name: str) -> float:
        """Correlation of a signal with the driver's, in frames in which both show a face; NaN: it hardly moves."""
        mine, theirs = self.signal(name), driver.signal(name)
        known = ~np.isnan(mine) & ~np.isnan(theirs)
        if not known.any() or theirs[known].std() < MOVES.get(name, STEADY):
            return float("nan")
        return correlation(mine[known], theirs[known])
