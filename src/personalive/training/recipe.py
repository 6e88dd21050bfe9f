"""Every number of the training stages, as frozen dataclasses. Defaults: the built-in "mini" model's recipe.

The shape is the paper's (docs/model.md, section 7): image-level motion training, fewer-step distillation on the
model's own roll-outs, then the streaming window, temporal modules only. Before them come what the published system
takes ready made: the autoencoder and the motion networks, here supervised by the renderer's ground truth.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from personalive.errors import ConfigError
from personalive.plain_data import build


@dataclass(frozen=True)
class Optimisation:
    """One rate with a linear warm-up and a linear decay from `decay_from` on; an average (EMA) of the weights.

    A step sees `batch * accumulate` references: `accumulate` is how many batches of one step are worked off one after
    another, or side by side when several processes share them. `optimiser`: "muon" (matrices by Muon, the rest AdamW),
    "adamw" as in the paper, "adamw8bit" (bitsandbytes). `precision` "bfloat16": autocast, weights stay float32; for
    GPUs (a CPU without such instructions is hundreds of times slower with it).
    `checkpointing`: forget the activations of each UNet layer and compute them again in the backward pass.
    `weights` "bfloat16": matrices and kernels are held in bfloat16 where they compute, with their gradients; the
    optimiser works on float32 copies. Autocast would round them anyway; what it changes is that the gradients of a
    step's batches are added up in bfloat16. `offload`: those copies, the optimiser's states and the average are kept in
    main memory, and the CPU takes the optimiser's step.
    """

    steps: int
    batch: int
    rate: float
    accumulate: int = 1
    optimiser: Literal["muon", "adamw", "adamw8bit"] = "muon"
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    weights: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False
    warmup: int = 50
    decay_from: float = 0.6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.998

    def __post_init__(self) -> None:
        if self.weights == "bfloat16" and self.precision != "bfloat16":
            raise ConfigError('optimisation.weights "bfloat16" needs optimisation.precision "bfloat16"')
        if self.offload and self.optimiser == "adamw8bit":
            raise ConfigError(
                "adamw8bit works on a GPU only, and optimisation.offload keeps its states off it: use adamw"
            )

    def rate_at(self, step: int) -> float:
        """Learning rate at a step: warm-up, constant, then linear to a hundredth at `steps`."""
        progress = min(1.0, step / self.steps)
        decay = min(1.0, (1.0 - progress) / (1.0 - self.decay_from)) if self.decay_from < 1 else 1.0
        return self.rate * min(1.0, (step + 1) / self.warmup) * max(0.01, decay)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """Image -> latents -> image. Joint at first, then the decoder alone on frozen latents."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(steps=2600, batch=4, rate=2e-3, optimiser="adamw")
    )
    joint: float = 0.4  # share of the steps in which the encoder learns too
    latent_noise: float = 0.08  # standard deviation added to unit-variance latents
    face_weight: float = 4.0  # extra weight of eyes and mouth


@dataclass(frozen=True)
class MotionRecipe:
    """Motion extractor and motion encoder, supervised by the renderer's ground truth, heavily augmented."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(steps=3600, batch=32, rate=1.5e-3, optimiser="adamw")
    )
    extractor: bool = True  # off: only the encoder learns
    frames: int = 4  # of one person in a batch
    expression_weight: float = 2.0
    change_weight: float = 4.0  # of the expression's change between frames of one person
    signal_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # of mouth, blink, smile and brow, in both
    keypoint_weight: float = 20.0


@dataclass(frozen=True)
class LandmarkRecipe:
    """The reference warp's landmark network, on random crops of rendered faces that other cameras might have taken.

    A crop is turned by `turn` (radians, deviation) and shifted by `shift` (of half its side, deviation), and the face
    spans between the two shares `span` of it. `near` of the crops show an eye or the mouth, in a face that would span
    between the two shares `near_span`. Distances count over the face's span.
    """

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=6000,
            batch=32,
            rate=2e-3,
            optimiser="adamw",
            warmup=100,
            decay_from=0.5,
            weight_decay=1e-3,
            betas=(0.9, 0.999),
            clip=2.0,
            ema=0.997,
        )
    )
    span: tuple[float, float] = (0.33, 0.85)
    near: float = 0.35
    near_span: tuple[float, float] = (1.4, 2.6)
    turn: float = 0.3
    shift: float = 0.12
    distance_weight: float = 30.0
    spread_weight: float = 0.1  # of the likelihood of the distances (Laplace) by the spreads that are told


@dataclass(frozen=True)
class ExpressionRecipe:
    """The reference warp's expression reader, on the motion encoder's tokens: a linear map in closed form (ridge
    regression), which stays, then a hidden layer beside it, of which the share counts that is best for people held out.
    """

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=1500, batch=256, rate=2e-3, optimiser="adamw", decay_from=0.0, weight_decay=0.05, betas=(0.9, 0.999)
        )
    )
    ridge: float = 30.0  # penalty of squared weights, tokens in deviations from their mean
    token_noise: float = 0.3  # deviation added to tokens of deviation 1
    emphasis: float = 3.0  # weight of blink, jaw, smile, gaze and brows over that of the other coefficients


@dataclass(frozen=True)
class Regions:
    """Loss weights by place: `rest` everywhere, `face` more on the face, `detail` more at brows, eyes and mouth."""

    rest: float = 0.9
    face: float = 0.7
    detail: float = 2.5


@dataclass(frozen=True)
class ImageRecipe:
    """Stage 1: the denoiser on single frames, each at one noise level of the schedule, true latents noised."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(steps=3000, batch=7, rate=1.3e-3, accumulate=2)
    )
    frames: int = 4  # driving frames that share a reference
    level_odds: tuple[float, ...] = (0.05, 0.3, 0.25, 0.4)  # cleanest level first; the last ones where there are fewer
    same_pose: float = 0.6  # share of references whose driving frames differ in expression only
    regions: Regions = field(default_factory=Regions)
    motion_encoder: bool = False  # learn it too, from augmented face crops; else its tokens are computed once


@dataclass(frozen=True)
class Judgement:
    """What is wrong with clean estimates, as a weighted sum: in latents (Charbonnier), each frame by itself and its
    difference from the other frames of one reference (`change`: what the motion must do, however well the reference is
    met); in some decoded pictures squared error, a perceptual and an adversarial term; and in others `motion`: what the
    motion encoder reads from them (`motion_reader.py`). The paper: 1 squared, 2 perceptual (LPIPS), 0.05 adversarial.
    """

    regions: Regions = field(default_factory=Regions)
    latent: float = 1.0
    change: float = 1.0
    squared: float = 0.0
    perceptual: float = 0.2
    adversarial: float = 0.0
    adversarial_from: int = 3000  # step
    discriminator_width: int = 32
    perceptual_kind: Literal["auto", "lpips", "gradients"] = "gradients"  # auto: LPIPS where it is installed
    decoded_frames: int = 2  # how many of a batch's frames are decoded
    decoded_share: float = 0.5  # side of the decoded square around the face, over the picture's; 1: all of it
    motion: float = 0.0
    motion_frames: int = 4  # how many of a batch's frames are read
    motion_signals: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # weights of mouth, blink, smile and brow


@dataclass(frozen=True)
class RolloutRecipe:
    """Stage 2: 1..N steps of the short schedule from noise, gradient through the last."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(steps=3000, batch=7, rate=1.3e-3, accumulate=2, decay_from=0.45, ema=0.995)
    )
    frames: int = 4
    same_pose: float = 0.5
    step_odds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # of 1, 2, ... N steps
    judgement: Judgement = field(default_factory=Judgement)


@dataclass(frozen=True)
class SurfaceRecipe:
    """The surface network: what in a portrait is the person, how deep it lies, how rigidly it follows the head."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=2000, batch=12, rate=2e-3, optimiser="adamw", warmup=100, decay_from=0.5, weight_decay=1e-3, ema=0.995
        )
    )
    figure: float = 3.0  # weight of the figure's cross entropy
    flow: float = 0.3  # weight of the flow's error in pixels
    flow_limit: float = 8.0  # pixels: larger errors count as this


@dataclass(frozen=True)
class ComposeRecipe:
    """The compositor, on the composed picture. `paint`: weight of generating what the portrait shows."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=1500, batch=4, rate=1e-3, optimiser="adamw", warmup=50, decay_from=0.4, weight_decay=1e-3
        )
    )
    frames: int = 4
    same_pose: float = 0.3
    regions: Regions = field(default_factory=Regions)
    paint: float = 0.1


@dataclass(frozen=True)
class StreamRecipe:
    """Stage 3: the streaming step over the model's own outputs; only the temporal modules learn."""

    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=400, batch=2, rate=5e-4, warmup=20, decay_from=0.3, ema=0.99, accumulate=2
        )
    )
    windows: int = 7
    gradient_every: int = 3  # windows 0, 3, 6 as in the paper (N - 1), an update each
    keyframes_from_step: int = 3  # so that keyframes are in play in so short a clip
    sliding: bool = True  # off (ablation): every window starts from true latents, noised to their levels
    true_start: float = 0.5  # share of clips whose first window is true frames; the others lead in from the reference
    judgement: Judgement = field(default_factory=Judgement)


@dataclass(frozen=True)
class Recipe:
    """All stages, in their order."""

    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    motion: MotionRecipe = field(default_factory=MotionRecipe)
    landmarks: LandmarkRecipe = field(default_factory=LandmarkRecipe)
    expression: ExpressionRecipe = field(default_factory=ExpressionRecipe)
    surface: SurfaceRecipe = field(default_factory=SurfaceRecipe)
    image: ImageRecipe = field(default_factory=ImageRecipe)
    rollout: RolloutRecipe = field(default_factory=RolloutRecipe)
    stream: StreamRecipe = field(default_factory=StreamRecipe)
    compose: ComposeRecipe = field(default_factory=ComposeRecipe)


STAGES = tuple(stage.name for stage in dataclasses.fields(Recipe))


RECIPES = Path(__file__).with_name("recipes")
"""The recipes that come with the product: NAME.toml."""


def load_recipe(path: Path | None, overrides: dict[str, Any] | None = None) -> Recipe:
    """The default recipe, changed by a TOML file's tables and by dotted overrides. Raises ConfigError, strictly.

    `path`: a file, or the name of one that comes with the product ("mini", the default's own numbers, or "paper").
    """
    data = dataclasses.asdict(Recipe())
    if path is not None:
        built_in = RECIPES / f"{path}.toml"
        path = built_in if path.name == str(path) and built_in.exists() else path
        _merge(data, _read_toml(path), str(path))
    for dotted, value in (overrides or {}).items():
        nested: Any = value
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        _merge(data, nested, "override")
    return build(Recipe, data, "recipe")


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return data


def _merge(into: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    for key, value in changes.items():
        if key not in into:
            raise ConfigError(f"{where}: unknown key {key!r} (known here: {', '.join(sorted(into))})")
        if isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, f"{where}.{key}")
        else:
            into[key] = value
