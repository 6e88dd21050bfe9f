"""The surface network: what of a portrait is the person, how deep it lies, and how rigidly it follows the head.

Learned from exact flow: a cell of the portrait, moved as the driver's signals say, must arrive where the renderer says
that it went. Heads are fitted and signals predicted from pixels, as in use.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion
from personalive.errors import ConfigError, InputError
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.signals import Observation
from personalive.rendering.layers import Part
from personalive.training import augment
from personalive.training.clips import Corpus, Flows
from personalive.training.followed_people import expression_of, follow_people
from personalive.training.prepared import load_frozen, prepare
from personalive.training.prepared_warps import load_reference_warp, partner_of, retarget_followed
from personalive.training.recipe import SurfaceRecipe
from personalive.training.sheet import strip
from personalive.warp.drive import forward_motion
from personalive.warp.fit import FittedHead
from personalive.warp.flow import identity_grid, sample
from personalive.warp.portrait import (
    HeadDrawing,
    PortraitSurface,
    draw_head,
    fit_portrait,
    shape_surface,
    surface_inputs,
)

OTHER_SHARE = 0.4
"""Share of the targets that are driven by the signals of the neighbour who does the same."""


@dataclass(frozen=True)
class _Portrait:
    """A reference frame: its drawn head, whose `motion` (1, 3, s / 2, s / 2) is what its own expression adds, and, for
    each of T targets, what theirs adds, (T, 3, s / 2, s / 2), and their retargeted heads (T, ...).
    """

    person: int
    row: int
    drawing: HeadDrawing
    head: FittedHead
    own: HeadMotion
    moved: Tensor
    target: HeadMotion


class SurfaceStage:
    """See the module's text. Learns `surface` of the reference warp."""

    name = "surface"

    def __init__(
        self,
        config: ModelConfig,
        recipe: SurfaceRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        self.device = device or torch.device("cpu")
        warp = load_reference_warp(config, folder, without=("surface",))
        if warp is None:
            raise ConfigError(f"the model {config.name} has no reference warp: it needs no surface network")
        self.surface = warp.surface.requires_grad_(True).to(self.device)
        self.train, self.train_portraits = train, _portraits(config, warp, folder, train, crossed=True)
        self.held_out, self.held_portraits = held_out, _portraits(config, warp, folder, held_out, crossed=False)
        self.glances = warp.mesh.glances.long()

    def modules(self) -> Mapping[str, nn.Module]:
        """The surface network."""
        return {"surface": self.surface}

    def learns(self, name: str) -> bool:
        """All of it."""
        del name
        return True

    def losses(self, rng: random.Random, step: int, /) -> Iterator[dict[str, Tensor]]:
        """The figure's cross entropy and the flow's error in pixels, of some targets of as many portraits."""
        del step
        chosen = [rng.choice(self.train_portraits) for _ in range(self.optimisation.batch)]
        slots = [rng.randrange(len(portrait.moved)) for portrait in chosen]
        figure, error, valid = self._compared(self.train, chosen, slots, augmented=True)
        flow = (error.clamp(max=self.recipe.flow_limit) * valid).sum() / valid.sum().clamp(min=1)
        yield {"loss": self.recipe.flow * flow + self.recipe.figure * figure, "flow": flow, "figure": figure}

    def _compared(
        self, corpus: Corpus, portraits: list[_Portrait], slots: list[int], augmented: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy of the figures, error (N, s / 2, s / 2) of the flow in pixels, and where it counts."""
        flows = _flows_of(corpus)
        pictures = torch.stack([corpus.images[p.person, int(flows.references[p.person, p.row])] for p in portraits])
        parts = torch.stack([flows.reference_part[p.person, p.row] for p in portraits])
        small = pictures.float() / 255
        small = other_looks(small, parts == Part.BACKGROUND) if augmented else small
        given = torch.cat([surface_inputs(x[None], p.drawing) for x, p in zip(small, portraits, strict=True)])
        told = self.surface(given.to(self.device)).float().cpu()
        errors, valids = [], []
        for portrait, slot, one in zip(portraits, slots, told, strict=True):
            errors.append(self._flow_error(flows, portrait, slot, one))
            valids.append(_counts(flows, portrait, slot))
        figure = F.binary_cross_entropy_with_logits(4 * told[:, 0], (parts != Part.BACKGROUND).float())
        return figure, torch.stack(errors), torch.stack(valids)

    def _flow_error(self, flows: Flows, portrait: _Portrait, slot: int, told: Tensor) -> Tensor:
        """How far, in pixels, each target cell's place in the portrait misses that cell when moved: (s / 2, s / 2)."""
        surface = _moved_surface(portrait, slot, told, self.glances)
        target = portrait.target.map(lambda part: part[slot : slot + 1])
        moved, _ = forward_motion(surface, target, torch.ones(1, 1))
        place = flows.flow[portrait.person, portrait.row, slot].float()[None]
        arrived = sample(moved.movedim(-1, 1), place).movedim(1, -1)
        side = moved.shape[1]
        return (arrived[0] - identity_grid(place.shape[1], place)).abs().sum(-1) * side / 2

    def validate(self) -> dict[str, float]:
        """Held-out people: mean error of the flow in pixels |dx| + |dy| where visible, on the mesh and off it."""
        self.surface.eval()
        rows = []
        for portrait in [p for p in self.held_portraits if p.row == 0][:24]:
            slots = list(range(0, len(portrait.moved), 2))
            figure, error, valid = self._compared(self.held_out, [portrait] * len(slots), slots, augmented=False)
            flows = _flows_of(self.held_out)
            places = flows.flow[portrait.person, portrait.row][slots].float()
            on_mesh = sample(portrait.drawing.face[None, None].expand(len(slots), -1, -1, -1), places)[:, 0] > 0.5
            means = [
                float((error * m).sum() / m.sum().clamp(min=1)) for m in (valid, valid & on_mesh, valid & ~on_mesh)
            ]
            rows.append([*means, float(figure)])
        self.surface.train()
        names = ("flow", "flow_mesh", "flow_loose", "figure")
        return {name: float(np.mean(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)}

    def samples(self) -> np.ndarray[Any, Any]:
        """Rows: portrait, figure, weight."""
        self.surface.eval()
        rows = []
        for portrait in self.held_portraits[:8]:
            reference = int(_flows_of(self.held_out).references[portrait.person, portrait.row])
            picture = self.held_out.images[portrait.person, reference][None].float() / 255
            told = self.surface(surface_inputs(picture, portrait.drawing).to(self.device))[0].float().cpu()
            surface = _moved_surface(portrait, 0, told, self.glances)
            rows.append(
                torch.stack([picture[0], *(m[None].expand(3, -1, -1) for m in (surface.figure, surface.weight))])
            )
        self.surface.train()
        return strip(rows)


def other_looks(pictures: Tensor, background: Tensor) -> Tensor:
    """Portraits (N, 3, s, s) in [0, 1] before other backgrounds and as other cameras see them; background (N, s, s)."""
    count, _, side, _ = pictures.shape
    cells = int(2 ** torch.randint(1, 8, ()))
    noise = torch.rand(count, 3, 1, 1) + 0.25 * torch.randn(count, 3, min(cells, side), min(cells, side))
    noise = F.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)
    others = torch.roll(pictures[torch.randperm(count)], tuple(torch.randint(side, (2,)).tolist()), (2, 3))
    kind = torch.rand(count, 1, 1, 1)
    behind = torch.where(kind < 0.3, noise, torch.where(kind < 0.5, others, pictures))
    replaced = background[:, None].float()
    return augment.camera_look(augment.colour((pictures * (1 - replaced) + behind * replaced).clamp(0, 1)))


def _moved_surface(portrait: _Portrait, slot: int, told: Tensor, glances: Tensor) -> PortraitSurface:
    """The portrait's surface whose one coefficient, at 1, is what the target's expression adds."""
    side = portrait.drawing.depth.shape[-1]
    own, moved = (_wide(t, side) for t in (portrait.drawing.motion.float(), portrait.moved[slot : slot + 1].float()))
    drawing = HeadDrawing(**{**vars(portrait.drawing), "motion": own})
    surface = shape_surface(drawing, told, portrait.head, portrait.own, glances)
    return PortraitSurface(**{**vars(surface), "motion": moved})


def _wide(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def _counts(flows: Flows, portrait: _Portrait, slot: int) -> Tensor:
    """The target's cells (s / 2, s / 2) that the portrait shows, wholly of one part, not background, nor mouth."""
    part = flows.part[portrait.person, portrait.row, slot][None, None].float()
    pure = F.max_pool2d(part, 2) == -F.max_pool2d(-part, 2)
    visible = F.avg_pool2d(flows.visible[portrait.person, portrait.row, slot][None, None].float(), 2) > 0.9
    shown = part[:, :, ::2, ::2]
    inside = flows.flow[portrait.person, portrait.row, slot].abs().amax(-1) < 1
    counted = pure & visible & (shown != Part.BACKGROUND) & (shown != Part.MOUTH)
    return counted[0, 0] & inside


def _flows_of(corpus: Corpus) -> Flows:
    if corpus.flows is None:
        raise InputError("the shards hold no flow: render people anew with `personalive data render`")
    return corpus.flows


@torch.no_grad()
def _portraits(
    config: ModelConfig, warp: ReferenceWarp, folder: Path | None, corpus: Corpus, crossed: bool
) -> list[_Portrait]:
    """Every person's reference frames with fitted heads, and their targets' signals as the networks see them."""
    flows = _flows_of(corpus)
    seen = prepare(config, load_frozen(config, folder), corpus, None)
    followed = follow_people(config, warp, corpus, Observation(seen.head, seen.tokens))
    found = []
    for person in range(corpus.people):
        rng = random.Random(f"drivers of {corpus.names[person] if corpus.names else person}")
        partner = partner_of(corpus, person) if crossed else None
        for row, reference in enumerate(flows.references[person].tolist()):
            frames = flows.targets[person, row].long()
            other = [partner is not None and rng.random() < OTHER_SHARE for _ in frames]
            driver = torch.tensor([partner if taken and partner is not None else person for taken in other])
            own = _of_frame(seen.head, person, reference)
            picture = corpus.images[person, reference][None].float() / 255
            head = fit_portrait(warp, picture, own, seen.tokens[person, reference][None])
            drawing = draw_head(warp.mesh, head, config.warp.grid)
            target = retarget_followed(config, followed, own, driver, reference, frames)
            coefficients = expression_of(followed)[driver, frames]
            shapes = F.avg_pool2d(drawing.motion, 2)
            moved = torch.einsum("te,echw->tchw", coefficients, shapes).half()
            kept = torch.einsum("e,echw->chw", head.expression, shapes)[None].half()
            small = HeadDrawing(**{**vars(drawing), "motion": kept, "gaze": drawing.gaze[:0]})
            one = FittedHead(**{**vars(head), "expression": torch.ones(1), "expressions": head.expressions[:1]})
            found.append(_Portrait(person, row, small, one, own, moved, target))
    return found


def _of_frame(head: HeadMotion, person: int, frame: int) -> HeadMotion:
    """The head motion (1, ...) of one frame out of (P, F, ...)."""
    return head.map(lambda part: part[person, frame][None])
