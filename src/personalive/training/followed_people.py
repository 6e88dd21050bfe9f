"""People of the training data as drivers, followed as the product follows them (`warp.driver`)."""

from __future__ import annotations

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.signals import Observation
from personalive.streaming.state import map_tensors
from personalive.training.clips import Corpus
from personalive.warp.driver import SeenDriver, face_landmarks, follow_driver, meet_driver


@torch.no_grad()
def follow_people(config: ModelConfig, warp: ReferenceWarp, corpus: Corpus, seen: Observation) -> Observation:
    """What each person does in all frames, having been met in the first; seen: by the motion networks. (P, F, ...)."""
    followed = []
    for person, images in enumerate(corpus.images):
        own = map_tensors(lambda part, person=person: part[person], seen)
        followed.append(_follow_person(config, warp, images, own))
    return map_tensors(lambda *parts: torch.stack(parts), *followed)


def _follow_person(config: ModelConfig, warp: ReferenceWarp, images: Tensor, seen: Observation) -> Observation:
    unit = images.float() / 255
    frames = SeenDriver(seen, *face_landmarks(config, warp, unit, seen.head))
    return follow_driver(warp, meet_driver(warp, frames[0:1]), frames)


def expression_of(followed: Observation) -> Tensor:
    """The expression coefficients (..., E) of what was followed."""
    assert followed.expression is not None
    return followed.expression
