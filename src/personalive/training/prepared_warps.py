"""What the stages after `surface` read of the reference warp: warped portraits, computed once by networks at rest.

Of each person two frames are portraits, and some others are driven frames; half of these are driven by the signals of
another person who does the same (`data render` gives neighbours one plan), as a user's driver is another person.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.keypoints import retarget
from personalive.motion.signals import Observation
from personalive.streaming.state import map_tensors
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.expression_choice import load_expression
from personalive.training.followed_people import expression_of
from personalive.warp.compose import portrait_layers
from personalive.warp.drive import move_surface
from personalive.warp.portrait import build_surface, fit_portrait

REFERENCES = (0, 1)
"""Frames of a person that serve as portraits."""
TARGETS = 14
"""Frames of a person that are driven, at most."""
OTHER_SHARE = 0.5
"""Share of the driven frames whose signals are another person's, in training."""


@dataclass(frozen=True)
class PreparedWarps:
    """Of P people R portraits with T driven frames each; s is the grid's side, pictures and masks are levels 0..255.

    warped (P, R, T, 3, s, s), masks (P, R, T, 4, s, s): figure, seen, eye and gap (`warp.drive.Warp`); plate
    (P, R, 3, s, s); own_figure (P, R, 1, s, s); frame (P, R, T): which frames; driver (P, R, T): whose signals, a
    person's number; head (P, R, T, ...): retargeted.
    """

    warped: Tensor
    masks: Tensor
    plate: Tensor
    own_figure: Tensor
    frame: Tensor
    driver: Tensor
    head: HeadMotion


@torch.no_grad()
def prepare_warps(
    config: ModelConfig, warp: ReferenceWarp, corpus: Corpus, seen: Observation, followed: Observation, crossed: bool
) -> PreparedWarps:
    """Warps every person's portraits; of all frames, (P, F, ...), what was seen and what is followed as a driver.

    crossed: some frames are driven by another person.
    """
    people = [_warp_person(config, warp, corpus, seen, followed, person, crossed) for person in range(corpus.people)]
    return map_tensors(lambda *parts: torch.stack(parts), *people)


def _warp_person(
    config: ModelConfig,
    warp: ReferenceWarp,
    corpus: Corpus,
    seen: Observation,
    followed: Observation,
    person: int,
    crossed: bool,
) -> PreparedWarps:
    rng = random.Random(f"warps of {corpus.names[person] if corpus.names else person}")
    partner = partner_of(corpus, person) if crossed else None
    portraits = []
    for reference in REFERENCES:
        candidates = [frame for frame in range(corpus.frames) if frame not in REFERENCES]
        frames = torch.tensor(sorted(rng.sample(candidates, min(TARGETS, len(candidates)))))
        other = [partner is not None and rng.random() < OTHER_SHARE for _ in frames]
        driver = torch.tensor([partner if taken and partner is not None else person for taken in other])
        portraits.append(_warp_portrait(config, warp, corpus, seen, followed, person, reference, frames, driver))
    return map_tensors(lambda *parts: torch.stack(parts), *portraits)


def _warp_portrait(
    config: ModelConfig,
    warp: ReferenceWarp,
    corpus: Corpus,
    seen: Observation,
    followed: Observation,
    person: int,
    reference: int,
    frames: Tensor,
    driver: Tensor,
) -> PreparedWarps:
    picture = corpus.images[person, reference][None].float() / 255
    own = seen.head.map(lambda part: part[person, reference][None])
    surface = build_surface(warp, picture, fit_portrait(warp, picture, own, seen.motion[person, reference][None]), own)
    layers = portrait_layers(picture, surface)
    target = retarget_followed(config, followed, own, driver, reference, frames)
    moved = move_surface(surface, target, expression_of(followed)[driver, frames])
    return PreparedWarps(
        warped=_levels(layers.small_warped(moved)),
        masks=_levels(moved.masks),
        plate=_levels(layers.small_plate[0]),
        own_figure=_levels(surface.figure[None]),
        frame=frames,
        driver=driver,
        head=target.map(lambda part: part.expand(len(frames), *part.shape[1:]).clone()),
    )


def retarget_followed(
    config: ModelConfig, followed: Observation, own: HeadMotion, driver: Tensor, reference: int, frames: Tensor
) -> HeadMotion:
    """A portrait's own head motion (1, ...), moved as drivers (T,) move in frames (T,) since the reference frame."""
    first = followed.head.map(lambda part: part[driver, reference])
    driving = followed.head.map(lambda part: part[driver, frames])
    return retarget(own, first, driving, config.stream.translation_gain, config.stream.scale_gain, relative=True)


def partner_of(corpus: Corpus, person: int) -> int | None:
    """The neighbour who does the same as this person, if there is one."""
    other = person ^ 1
    if other >= corpus.people or not torch.equal(corpus.expression[person], corpus.expression[other]):
        return None
    return other


def _levels(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255).round().byte()


def save_warps(warps: PreparedWarps) -> dict[str, Tensor]:
    """The tensors by name, for a file."""
    parts = {name: getattr(warps, name) for name in _FIELDS}
    return parts | {f"head.{name}": getattr(warps.head, name).contiguous() for name in _HEAD}


def load_warps(parts: dict[str, Tensor]) -> PreparedWarps:
    """The inverse of `save_warps`."""
    return PreparedWarps(
        **{name: parts[name] for name in _FIELDS}, head=HeadMotion(*(parts[f"head.{name}"] for name in _HEAD))
    )


_FIELDS = ("warped", "masks", "plate", "own_figure", "frame", "driver")
_HEAD = ("keypoints", "angles", "translation", "scale")


def load_reference_warp(
    config: ModelConfig, folder: Path | None, without: tuple[str, ...] = ()
) -> ReferenceWarp | None:
    """The run folder's parts of the reference warp, at rest; fresh ones without a folder, None where it is off.

    Of `landmarks`, `expression` and `surface`; the guider and the compositor are those of `rollout` and `compose`,
    fresh where these stages have not run. `without`: parts that stay fresh.
    """
    if not config.warp.enabled:
        return None
    encoder = config.motion_encoder
    warp = ReferenceWarp(config.warp, encoder.tokens * encoder.token_dim, config.unet.channels[0])
    if folder is not None:
        if "expression" not in without:
            load_expression(warp.expression, folder / "expression.safetensors")
        for part in ("landmarks", "surface"):
            if part not in without:
                load_modules({part: getattr(warp, part)}, folder / f"{part}.safetensors")
        load_modules({"mesh": warp.mesh}, folder / "landmarks.safetensors")
        if (folder / "compose.safetensors").exists():
            load_modules({"compositor": warp.compositor}, folder / "compose.safetensors")
    return warp.eval().requires_grad_(False)
