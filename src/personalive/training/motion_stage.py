"""Training the motion networks on the renderer's ground truth.

The extractor learns head angles, canonical keypoints, translation and scale; the encoder learns tokens from which a
linear map (thrown away afterwards) reads the expression: the renderer's coefficients and how mouth, eyes and brows
move. The larger part of what is asked is the difference between frames of one person, which no face's shape can tell.
The published system takes its extractor from LivePortrait and trains the encoder with the denoiser; a small model on a
CPU has no time for that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion
from personalive.data.landmarks import EXPRESSION, truth_signals
from personalive.errors import ConfigError
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.motion.keypoints import crop_faces, face_box
from personalive.streaming.state import map_tensors
from personalive.training import augment
from personalive.training.clips import COEFFICIENTS, Corpus
from personalive.training.recipe import MotionRecipe

READ = COEFFICIENTS + len(EXPRESSION)
"""What is read from the tokens: the renderer's coefficients, then the signals of EXPRESSION."""


def expression_targets(corpus: Corpus) -> Tensor:
    """What the tokens must tell of every frame: coefficients, then the signals of EXPRESSION; (P, F, 53 + 4)."""
    signals = [torch.from_numpy(truth_signals(person.numpy())).float() for person in corpus.landmarks]
    return torch.cat([corpus.expression, torch.stack(signals)], -1)


def expression_loss(read: Tensor, wanted: Tensor, signal_weights: Sequence[float]) -> Tensor:
    """Smooth L1 (..., 53 + 4): coefficients and signals count alike, signals by their weights."""
    error = functional.smooth_l1_loss(read, wanted, reduction="none")
    weights = error.new_tensor(signal_weights)
    signals = (error[..., -len(EXPRESSION) :] * weights).mean()
    return (error[..., : -len(EXPRESSION)].mean() + signals) / 2


def centred(values: Tensor) -> Tensor:
    """(P, F, K) less their mean over a person's frames."""
    return values - values.mean(1, keepdim=True)


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
        self.targets, self.held_out_targets = expression_targets(self.train), expression_targets(self.held_out)
        flat = self.targets.flatten(0, 1)
        self.mean, self.deviation = (t.to(self.device) for t in (flat.mean(0), flat.std(0).clamp(min=0.005)))
        width = config.motion_encoder.tokens * config.motion_encoder.token_dim
        self.expression_head = nn.Linear(width, READ)
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
        """Everything but the extractor's expression head, which the system does not use; the extractor if wanted."""
        return "fc_exp" not in name and (self.recipe.extractor or not name.startswith("motion_extractor."))

    def losses(self, rng: random.Random, _step: int, /) -> Iterator[dict[str, Tensor]]:
        """One batch of moved, recoloured, degraded pictures."""
        person, frame = self._draw(rng)
        images, head = augment.affine(self.train.images[person, frame].float() / 255, self.train.head(person, frame))
        images = augment.degrade(augment.colour(images)).to(self.device)
        truth = augment.posed(map_tensors(lambda tensor: tensor.to(self.device), head))
        losses = self._head_losses(images, head, truth) if self.recipe.extractor else {}
        read = self._read(self._faces(images, truth, jitter=0.06))
        wanted = ((self.targets[person, frame] - self.mean.cpu()) / self.deviation.cpu()).to(self.device)
        weights = self.recipe.signal_weights
        losses["expression"] = expression_loss(read, wanted, weights)
        of_each = (-1, self.recipe.frames, read.shape[-1])
        losses["change"] = expression_loss(centred(read.view(of_each)), centred(wanted.view(of_each)), weights)
        total = self.recipe.expression_weight * losses["expression"] + self.recipe.change_weight * losses["change"]
        for name, weight in self._head_weights().items():
            total = total + weight * losses[name]
        yield {"loss": total, **losses}

    def _draw(self, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Indices (N,) of people and frames: some frames of each person, so that their difference can be asked for."""
        each = self.recipe.frames
        if self.optimisation.batch % each:
            raise ConfigError(f"motion.optimisation.batch must be a multiple of motion.frames ({each})")
        people = [rng.randrange(self.train.people) for _ in range(self.optimisation.batch // each)]
        frames = [rng.randrange(self.train.frames) for _ in range(self.optimisation.batch)]
        return torch.tensor(people).repeat_interleave(each), torch.tensor(frames)

    def _head_weights(self) -> dict[str, float]:
        weight = self.recipe.keypoint_weight
        named = {"keypoints": weight, "canonical": weight, "place": weight / 2, "angles": 1.0}
        return named if self.recipe.extractor else {}

    def _head_losses(self, images: Tensor, head: HeadMotion, posed: Tensor) -> dict[str, Tensor]:
        """What the extractor finds in pictures against the true heads and their posed keypoints."""
        found = self.extractor(images)
        head = map_tensors(lambda tensor: tensor.to(self.device), head)
        return {
            "keypoints": (augment.posed(found) - posed).abs().mean(),
            "canonical": (found.keypoints - head.keypoints).abs().mean(),
            "angles": functional.smooth_l1_loss(found.angles, head.angles) / 10,
            "place": (found.translation - head.translation).abs().mean() + (found.scale - head.scale).abs().mean(),
        }

    def _read(self, faces: Tensor) -> Tensor:
        """Face crops -> what the tokens tell of the expression, normalised: (N, 53 + 4)."""
        read: Tensor = self.expression_head(self.encoder(faces).flatten(1))
        return read.float()

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
        """On people held out, clean pictures: mean error in degrees and of keypoints; by signal, how what the tokens
        tell follows the truth over the frames of a person: correlation, mean over people.
        """
        self.extractor.eval(), self.encoder.eval()
        found, reads = [], []
        for person in range(self.held_out.people):
            images = self.held_out.images[person].to(self.device).float() / 255
            heads = self.extractor(images)
            reads.append(self._read(self._faces(images, augment.posed(heads), 0.0)).cpu())
            found.append(map_tensors(Tensor.cpu, heads))
        self.extractor.train(), self.encoder.train()
        every = torch.cartesian_prod(torch.arange(self.held_out.people), torch.arange(self.held_out.frames))
        head = self.held_out.head(*every.unbind(1))
        angles = torch.cat([h.angles for h in found])
        figures = {
            f"{name}_deg": float((angles[:, i] - head.angles[:, i]).abs().mean())
            for i, name in enumerate(("pitch", "yaw", "roll"))
        }
        figures["keypoints"] = float(
            (torch.cat([augment.posed(h) for h in found]) - augment.posed(head)).norm(dim=-1).mean()
        )
        told, true = centred(torch.stack(reads)), centred(self.held_out_targets)
        follows = torch.cosine_similarity(told, true, dim=1).mean(0)  # (P, F, K) -> (K,)
        return figures | dict(zip(EXPRESSION, follows[-len(EXPRESSION) :].tolist(), strict=True))

    def samples(self) -> np.ndarray[Any, Any] | None:
        """Nothing to look at: numbers only."""
        return None
