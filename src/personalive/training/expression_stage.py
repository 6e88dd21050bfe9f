"""Training the reference warp's expression reader: motion tokens -> the head mesh's expression coefficients.

The motion networks are at rest, so tokens are computed once. The linear map is ridge regression in closed form, done
when the stage begins; the hidden layer beside it learns in steps, on tokens with noise, and counts as much as is best
for people held out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.data.expressions import EXPRESSIONS
from personalive.errors import ConfigError
from personalive.models.reference_warp import ExpressionReader
from personalive.training.clips import Corpus
from personalive.training.expression_choice import HiddenShare
from personalive.training.prepared_tokens import prepare_tokens
from personalive.training.recipe import ExpressionRecipe

EMPHASISED = ("eyeBlink", "jawOpen", "mouthSmile", "eyeLook", "brow")
"""Beginnings of the names of the coefficients that matter most to who looks at a face."""
SIGNALS: dict[str, dict[str, float]] = {
    "jaw_open": {"jawOpen": 1.0},
    "blink": {"eyeBlink_L": 0.5, "eyeBlink_R": 0.5},
    "smile": {"mouthSmile_L": 0.5, "mouthSmile_R": 0.5},
    "brow_inner_up": {"browInnerUp_L": 0.5, "browInnerUp_R": 0.5},
    "brow_down": {"browDown_L": 0.5, "browDown_R": 0.5},
    "pucker": {"mouthPucker": 1.0},
    "gaze_across": {"eyeLookOut_L": 0.5, "eyeLookIn_L": -0.5, "eyeLookIn_R": 0.5, "eyeLookOut_R": -0.5},
    "gaze_up": {"eyeLookUp_L": 0.5, "eyeLookDown_L": -0.5, "eyeLookUp_R": 0.5, "eyeLookDown_R": -0.5},
}
"""What the validation looks at: sums of coefficients."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the hidden layer's output: what may be decided on."""


class ExpressionStage:
    """See the module's text. Learns `expression`."""

    name = "expression"

    def __init__(
        self,
        config: ModelConfig,
        recipe: ExpressionRecipe,
        folder: Path | None,
        train: Corpus,
        held_out: Corpus,
        device: torch.device | None = None,
    ) -> None:
        """Raises ConfigError where the head mesh has other expressions than the renderer."""
        self.device = device or torch.device("cpu")
        self.config, self.recipe, self.optimisation = config, recipe, recipe.optimisation
        if config.warp.mesh.expressions != len(EXPRESSIONS):
            raise ConfigError(
                f"warp.mesh.expressions is {config.warp.mesh.expressions}; rendered people have {len(EXPRESSIONS)}"
            )
        self.motion, self.wanted = self._prepared(train.with_truth(), folder, "train")
        self.held_out_motion, self.held_out_wanted = self._prepared(held_out.with_truth(), folder, "test")
        tokens = config.motion_encoder.tokens * config.motion_encoder.token_dim
        self.reader = ExpressionReader(tokens, config.warp.expression_hidden, len(EXPRESSIONS)).to(self.device)
        self.hidden = HiddenShare().to(self.device)
        fit_linear(self.reader, self.motion, self.wanted, recipe.ridge)
        weights = [recipe.emphasis if name.startswith(EMPHASISED) else 1.0 for name in EXPRESSIONS]
        self.weights = torch.tensor(weights, device=self.device)
        self.weights /= self.weights.mean()

    def _prepared(self, corpus: Corpus, folder: Path | None, split: str) -> tuple[Tensor, Tensor]:
        """Of all frames together, on the device: tokens (N, T, D) and coefficients (N, E)."""
        cache = folder and folder / f"tokens.{split}.safetensors"
        tokens = prepare_tokens(self.config, folder, corpus, cache, self.device)
        return tokens.flatten(0, 1).to(self.device), corpus.expression.flatten(0, 1).to(self.device)

    def modules(self) -> Mapping[str, nn.Module]:
        """The reader, and how much its hidden layer counts."""
        return {"expression": self.reader, "hidden": self.hidden}

    def learns(self, name: str) -> bool:
        """The hidden layer; the linear map is the best one already."""
        return ".linear." not in name

    def losses(self, rng: random.Random, _step: int, /) -> Iterator[dict[str, Tensor]]:
        """One batch of frames, their tokens with noise."""
        chosen = torch.tensor([rng.randrange(len(self.motion)) for _ in range(self.optimisation.batch)])
        chosen = chosen.to(self.device)
        tokens = self.reader.standardise(self.motion[chosen])
        noise = torch.randn(tokens.shape).to(self.device)
        linear, hidden = self.reader.parts(tokens + self.recipe.token_noise * noise)
        error = functional.smooth_l1_loss(linear + hidden, self.wanted[chosen], reduction="none", beta=0.1)
        yield {"loss": (error * self.weights).mean()}

    def validate(self) -> dict[str, float]:
        """On people held out, how what is read follows the truth over all frames: correlation by signal, and in the
        mean for the linear map alone and with all of the hidden layer. Decides on the latter's share, the best of
        SHARES.
        """
        linear, hidden = self.reader.parts(self.reader.standardise(self.held_out_motion))
        found = [follows((linear + share * hidden).float(), self.held_out_wanted) for share in SHARES]
        means = [float(signals.mean()) for signals in found]
        best = means.index(max(means))
        self.hidden.share.fill_(SHARES[best])
        figures = dict(zip(SIGNALS, found[best].tolist(), strict=True))
        return figures | {"linear": means[0], "with_hidden": means[-1], "share": SHARES[best]}

    def samples(self) -> np.ndarray[Any, Any] | None:
        """Nothing to look at: numbers only."""
        return None


@torch.no_grad()
def fit_linear(reader: ExpressionReader, motion: Tensor, wanted: Tensor, penalty: float) -> None:
    """Set the reader's mean, deviation and linear map from tokens (N, T, D) and coefficients (N, E): ridge regression.

    penalty: of the map's squared weights, with tokens in deviations; the constant term is free.
    """
    flat = motion.flatten(1).double()
    reader.mean.copy_(flat.mean(0))
    reader.deviation.copy_(flat.std(0).clamp(min=1e-3))
    tokens = (flat - reader.mean.double()) / reader.deviation.double()
    offset = wanted.double().mean(0)
    square = tokens.T @ tokens + penalty * torch.eye(tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
    weights = torch.linalg.solve(square, tokens.T @ (wanted.double() - offset))  # (T * D, E)
    reader.linear.weight.copy_(weights.T)
    reader.linear.bias.copy_(offset - tokens.mean(0) @ weights)


def follows(read: Tensor, true: Tensor) -> Tensor:
    """Correlation over frames of the sums of SIGNALS between coefficients (N, E) and (N, E): (signals,)."""
    sums = read.new_zeros(len(EXPRESSIONS), len(SIGNALS))
    for column, parts in enumerate(SIGNALS.values()):
        for name, share in parts.items():
            sums[EXPRESSIONS.index(name), column] = share
    ours, theirs = (values @ sums - (values @ sums).mean(0) for values in (read, true))
    return torch.cosine_similarity(ours, theirs, dim=0)
