"""Training the motion networks on the renderer's ground truth.

The extractor learns head angles, canonical keypoints, translation and scale; the encoder learns tokens from which a
linear map (thrown away afterwards) reads the expression: the renderer's coefficients and how far mouth and eyes are
open. The published system takes its extractor from LivePortrait and trains the encoder with the denoiser; a small
model on a CPU has no time for that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.motion.keypoints import crop_faces, face_box
from personalive.streaming.state import map_tensors
from personalive.training import augment
from personalive.training.clips import Corpus
from personalive.training.recipe import MotionRecipe

# Pairs of the 68 landmarks whose distance says what the face does, and the pair that gives the face's size.
APERTURES = ((62, 66), (37, 41), (38, 40), (43, 47), (44, 46), (48, 54), (19, 37), (24, 44))
FACE_SIZE = (27, 8)


def apertures(landmarks: Tensor) -> Tensor:
    """Openings of mouth and eyes, mouth width, brow heights over the face's height: (N, 68, 2) -> (N, 8)."""
    size = (landmarks[:, FACE_SIZE[0]] - landmarks[:, FACE_SIZE[1]]).norm(dim=-1).clamp(min=1e-3)
    return torch.stack([(landmarks[:, a] - landmarks[:, b]).norm(dim=-1) / size for a, b in APERTURES], -1)


class MotionStage:
    """See the module's text. Learns `motion_extractor`, `motion_encoder` and the throw-away `expression_head`."""

    name = "motion"

    def __init__(
        self,
        config: ModelConfig,
        recipe: MotionRecipe,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        self.train, self.held_out = train.with_truth(), held_out.with_truth()
        self.extractor = MotionExtractor(config.motion_extractor).train()
        self.encoder = MotionEncoder(config.motion_encoder).train()
        width = config.motion_encoder.tokens * config.motion_encoder.token_dim
        targets = self._targets(self.train, *self._every(self.train, 7))
        self.expression_head = nn.Linear(width, targets.shape[1])
        self.mean, self.deviation = targets.mean(0).to(self.device), targets.std(0).clamp(min=0.02).to(self.device)
        for module in self.modules().values():
            module.to(self.device)

    def modules(self) -> Mapping[str, nn.Module]:
        """Both motion networks and the reader of the tokens."""
        return {
            "motion_extractor": self.extractor,
            "motion_encoder": self.encoder,
            "expression_head": self.expression_head,
        }

    def learns(self, name: str) -> bool:
        """Everything but the extractor's expression head, which the system does not use."""
        return "fc_exp" not in name

    @staticmethod
    def _every(corpus: Corpus, stride: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(0, corpus.people * corpus.frames, stride)
        return index // corpus.frames, index % corpus.frames

    @staticmethod
    def _targets(corpus: Corpus, person: Tensor, frame: Tensor) -> Tensor:
        """What the tokens must tell: coefficients and apertures, (N, 53 + 8)."""
        return torch.cat([corpus.expression[person, frame], apertures(corpus.landmarks[person, frame])], -1)

    def losses(self, rng: random.Random, _step: int, /) -> Iterator[dict[str, Tensor]]:
        """One batch of moved, recoloured, degraded pictures."""
        n = self.optimisation.batch
        person = torch.tensor([rng.randrange(self.train.people) for _ in range(n)])
        frame = torch.tensor([rng.randrange(self.train.frames) for _ in range(n)])
        images, head = augment.affine(self.train.images[person, frame].float() / 255, self.train.head(person, frame))
        images = augment.degrade(augment.colour(images)).to(self.device)
        head = map_tensors(lambda tensor: tensor.to(self.device), head)
        found = self.extractor(images)
        posed, truth = augment.posed(found), augment.posed(head)
        losses = {
            "keypoints": (posed - truth).abs().mean(),
            "canonical": (found.keypoints - head.keypoints).abs().mean(),
            "angles": functional.smooth_l1_loss(found.angles, head.angles) / 10,
            "place": (found.translation - head.translation).abs().mean() + (found.scale - head.scale).abs().mean(),
        }
        faces = self._faces(images, truth, jitter=0.06)
        read = self.expression_head(self.encoder(faces).flatten(1))
        wanted = (self._targets(self.train, person, frame).to(self.device) - self.mean) / self.deviation
        losses["expression"] = functional.smooth_l1_loss(read, wanted)
        weight = self.recipe.keypoint_weight
        total = weight * (losses["keypoints"] + losses["canonical"] + 0.5 * losses["place"]) + losses["angles"]
        yield {"loss": total + self.recipe.expression_weight * losses["expression"], **losses}

    def _faces(self, images: Tensor, posed: Tensor, jitter: float) -> Tensor:
        """Face crops in [-1, 1] at the encoder's size, boxes by the product's rule, shaken by `jitter` of the side."""
        size = self.config.image_size
        boxes = face_box(posed, size, self.config.keypoints)
        side = (boxes[:, 2] - boxes[:, 0])[:, None]
        outward = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=boxes.device)
        shaken = boxes + side * jitter * torch.randn(len(boxes), 2, device=boxes.device).repeat(1, 2)
        shaken = shaken + side * jitter * torch.randn(len(boxes), 1, device=boxes.device) * outward
        shaken = shaken.clamp(0, size - 1).round()
        small = (shaken[:, 2:] - shaken[:, :2]).amin(1, keepdim=True) < size / 8
        shaken = torch.where(small, boxes.to(shaken.dtype), shaken)
        return crop_faces(images * 2 - 1, shaken.to(boxes.dtype), self.config.motion_encoder.image_size)

    def validate(self) -> dict[str, float]:
        """On people held out, clean pictures: mean error in degrees, correlations of the main expression signals."""
        self.extractor.eval(), self.encoder.eval()
        person, frame = self._every(self.held_out, 4)
        heads, reads = [], []
        for chunk in torch.split(torch.arange(len(person)), 64):
            images = self.held_out.images[person[chunk], frame[chunk]].to(self.device).float() / 255
            found = self.extractor(images)
            heads.append(found)
            reads.append(self.expression_head(self.encoder(self._faces(images, augment.posed(found), 0.0)).flatten(1)))
        self.extractor.train(), self.encoder.train()
        head = self.held_out.head(person, frame)
        heads = [map_tensors(Tensor.cpu, found) for found in heads]
        angles = torch.cat([h.angles for h in heads])
        read = (torch.cat(reads) * self.deviation + self.mean).cpu()
        wanted = self._targets(self.held_out, person, frame)
        figures = {
            f"{name}_deg": float((angles[:, i] - head.angles[:, i]).abs().mean())
            for i, name in enumerate(("pitch", "yaw", "roll"))
        }
        figures["keypoints"] = float(
            (torch.cat([augment.posed(h) for h in heads]) - augment.posed(head)).norm(dim=-1).mean()
        )
        count = self.held_out.expression.shape[-1]
        for name, column in (("mouth", count), ("eye", count + 1), ("width", count + 5), ("brow", count + 6)):
            figures[name] = float(torch.corrcoef(torch.stack([read[:, column], wanted[:, column]]))[0, 1])
        return figures

    def samples(self) -> np.ndarray[Any, Any] | None:
        """Nothing to look at: numbers only."""
        return None
