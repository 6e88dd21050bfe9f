"""Training the reference warp's landmark network on rendered faces, from which it carries over to photographs.

Crops are cut around the face, turned, shifted and zoomed at random out of pictures that are larger than they are, and
then made to look as if other cameras had taken them (Wood et al. 2022: dense landmarks from synthetic faces alone).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.errors import InputError
from personalive.models.face_mesh import FaceMesh
from personalive.models.landmark_network import LandmarkNetwork
from personalive.training.clips import Corpus
from personalive.training.landmark_crops import crop_faces, draw_points, look_different
from personalive.training.recipe import LandmarkRecipe
from personalive.training.sheet import strip
from personalive.warp.landmarks import CLOSE_UP_SHARE, CLOSE_UPS, FACE_SHARE, face_square

REGIONS = {"jaw": slice(0, 17), "brows": slice(17, 27), "eyes": slice(36, 48), "mouth": slice(48, 68)}
"""Of the usual 68, with which the landmarks begin."""
OUTER_CORNERS = (36, 45)
IN_CROP = 1.05
"""Landmarks farther out than this are not asked for; the crop ends at 1."""
HELD_OUT_FRAMES = 8
"""Frames of each person held out that the validation looks at, at most."""


class LandmarkStage:
    """See the module's text. Learns `landmarks`; keeps the `mesh` whose landmarks they are beside it."""

    name = "landmarks"

    def __init__(
        self,
        config: ModelConfig,
        recipe: LandmarkRecipe,
        mesh: FaceMesh,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        """Raises InputError where the corpora have no dense landmarks, or others than the network's."""
        self.device = device or torch.device("cpu")
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        self.mesh, self.count = mesh, config.warp.landmarks.landmarks
        self.train, self.points = self._known(train)
        self.held_out, self.held_out_points = self._known(held_out)
        self.network = LandmarkNetwork(config.warp.landmarks).train().to(self.device)
        for parameter in self.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)  # quicker on CPUs

    def _known(self, corpus: Corpus) -> tuple[Corpus, Tensor]:
        """The people whose landmarks are known, and these (P, F, K, 2)."""
        corpus = corpus.with_truth()
        if corpus.dense is None or corpus.dense.shape[2] != self.count or bool(corpus.dense.isnan().any()):
            raise InputError(
                f"the shards do not hold {self.count} landmarks of every person's head mesh: render the people again "
                "with `personalive data render`, into a new folder"
            )
        return corpus, corpus.dense

    def modules(self) -> Mapping[str, nn.Module]:
        """The landmark network, and the head mesh, which does not learn."""
        return {"landmarks": self.network, "mesh": self.mesh}

    def learns(self, name: str) -> bool:
        """The network. The mesh has nothing that could."""
        return name.startswith("landmarks.")

    def losses(self, rng: random.Random, _step: int, /) -> Iterator[dict[str, Tensor]]:
        """One batch of crops: mean distance from the truth over the face's span, and how well the spreads tell it."""
        recipe, count = self.recipe, self.optimisation.batch
        person = torch.tensor([rng.randrange(self.train.people) for _ in range(count)])
        frame = torch.tensor([rng.randrange(self.train.frames) for _ in range(count)])
        turn, shift = recipe.turn * torch.randn(count), recipe.shift * torch.randn(count, 2)
        near = torch.rand(count) < recipe.near
        span = torch.where(near, _between(recipe.near_span, count), _between(recipe.span, count))
        with torch.autocast(self.device.type, enabled=False):
            pictures = self.train.images[person, frame].to(self.device).float() / 255
            points = self.points[person, frame].to(self.device)
            shift = torch.where(near[:, None], shift + _off_centre(points.cpu(), span, rng), shift)
            side, beyond = self.config.warp.landmarks.image_size, rng.choice(("reflection", "border"))
            crops, points = crop_faces(pictures, points, side, span, turn, shift, beyond)
            crops = look_different(crops, rng)
        found, spread = self._find(crops)
        inside = (points.abs().amax(-1) < IN_CROP).float()
        span = span.to(self.device)[:, None]
        distance, spread = (found - points).norm(dim=-1) / span, spread / span
        asked = inside.sum().clamp(min=1)
        error = (distance * inside).sum() / asked
        likelihood = ((distance.detach() / spread + spread.log()) * inside).sum() / asked
        yield {
            "loss": recipe.distance_weight * error + recipe.spread_weight * likelihood,
            "distance": error,
            "spread": likelihood,
        }

    def _find(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The network's points (N, K, 2) and spreads (N, K) in crops (N, 3, S, S) in [0, 1]."""
        found, spread = self.network((crops * 2 - 1).contiguous(memory_format=torch.channels_last))
        return found.float(), spread.float()

    def validate(self) -> dict[str, float]:
        """On people held out, crops as in use: the median distance from the truth over that of the outer corners of
        the eyes, of all landmarks and by region, and of the eyes and the mouth seen from near; and the truth's median
        distance in spreads that were told.
        """
        self.network.eval()
        errors, spreads, nearer = [], [], []
        step = -(-self.held_out.frames // HELD_OUT_FRAMES)
        for person in range(self.held_out.people):
            crops, points = self._crops_in_use(person, slice(0, None, step))
            found, spread = self._find(crops)
            apart = _eyes_apart(points)
            distance = (found - points).norm(dim=-1)
            errors.append((distance / apart[:, None]).cpu())
            spreads.append((distance / spread).cpu())
            nearer.append(torch.stack([self._error_near(person, slice(0, None, step), part) for part in CLOSE_UPS]))
        self.network.train()
        error = torch.cat(errors)  # (N, K)
        figures = {"all": float(error.median())}
        figures |= {name: float(error[:, part].median()) for name, part in REGIONS.items()}
        near = torch.stack(nearer)  # (P, 3)
        figures |= {"eyes_near": float(near[:, :2].median()), "mouth_near": float(near[:, 2].median())}
        return figures | {"in_spreads": float(torch.cat(spreads).median())}

    def _error_near(self, person: int, frames: slice, part: slice) -> Tensor:
        """Median distance of a part's landmarks in crops of it alone, over that of the outer corners of the eyes."""
        crops, points = self._crops_in_use(person, frames, part)
        found, _ = self._find(crops)
        apart = _eyes_apart(points)
        error: Tensor = (found - points).norm(dim=-1)[:, part] / apart[:, None]
        return error.median().cpu()

    def _crops_in_use(self, person: int, frames: slice, part: slice | None = None) -> tuple[Tensor, Tensor]:
        """Upright crops (N, 3, S, S) of a person held out, as `find_landmarks` cuts them, and their true points."""
        pictures = self.held_out.images[person, frames].to(self.device).float() / 255
        points, count = self.held_out_points[person, frames].to(self.device), len(pictures)
        span = torch.full((count,), FACE_SHARE if part is None else CLOSE_UP_SHARE)
        shift = torch.zeros(count, 2) if part is None else part_shift(points.cpu(), span, part)
        with torch.autocast(self.device.type, enabled=False):
            return crop_faces(
                pictures,
                points,
                self.config.warp.landmarks.image_size,
                span,
                torch.zeros(count),
                shift,
            )

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows of people held out with the landmarks that are found in white, the true ones in green."""
        self.network.eval()
        rows = []
        for person in range(min(4, self.held_out.people)):
            crops, points = self._crops_in_use(person, slice(0, 4))
            rows.append(draw_points(draw_points(crops, points, (0.0, 0.8, 0.2)), self._find(crops)[0]).cpu())
        self.network.train()
        return strip(rows)


def _eyes_apart(points: Tensor) -> Tensor:
    """How far the outer corners of the eyes are apart, (N,), in the units of the points (N, K, 2)."""
    apart: Tensor = (points[:, OUTER_CORNERS[0]] - points[:, OUTER_CORNERS[1]]).norm(dim=-1).clamp(min=0.02)
    return apart


def _between(shares: tuple[float, float], count: int) -> Tensor:
    """Shares (N,) between the two, as many in each octave."""
    return torch.exp(torch.empty(count).uniform_(*(math.log(share) for share in shares)))


def _off_centre(points: Tensor, span: Tensor, rng: random.Random) -> Tensor:
    """How far the crops (N,) have to be shifted for an eye or the mouth to be in the middle: (N, 2)."""
    each = torch.stack([part_shift(points, span, part) for part in CLOSE_UPS])  # (3, N, 2)
    chosen = torch.tensor([rng.randrange(len(CLOSE_UPS)) for _ in points])
    return each[chosen, torch.arange(len(points))]


def part_shift(points: Tensor, span: Tensor, part: slice) -> Tensor:
    """`landmark_crops.crop_faces`'s shift (N, 2) onto a part of the landmarks (N, K, 2), where the face spans (N,)."""
    middle, reach = face_square(points)
    return (points[:, part].mean(1) - middle) / (reach / span)[:, None]
