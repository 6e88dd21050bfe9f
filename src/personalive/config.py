"""Every size and constant of the system, once, as validated frozen dataclasses. Imports no torch.

The official model, the parity goldens' small model and the built-in model are three values of one `ModelConfig`
(docs/model.md). A checkpoint carries its config as JSON (`plain_data.to_json`, `from_json`), strict about
unknown keys and wrong types. A field whose default is the published value says what the published system does.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from personalive.errors import ConfigError
from personalive.plain_data import build, require


@dataclass(frozen=True)
class UNetConfig:
    """The reference and the denoising UNet (docs/model.md, section 5). Defaults: Stable Diffusion 1.5 image variations.

    `attention_levels`, `motion_levels` and `temporal_levels` say, for each resolution level, whether its layers have
    a spatial transformer, a motion module and a temporal module; the middle block always has the first two, and the
    third with `temporal_middle`.
    `motion_in_time` adds a projection of the motion tokens to the time embedding, and `reference_pose` adds the
    reference's own pose features after the reference UNet's conv_in: both departures for small models, off in the
    published system.
    """

    latent_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    motion_levels: tuple[bool, ...] = (True, True, True, True)
    temporal_levels: tuple[bool, ...] = (True, True, True, True)
    temporal_middle: bool = True
    image_token_dim: int = 768
    motion_tokens: int = 32
    motion_dim: int = 16
    heads: int = 8
    norm_groups: int = 32
    feed_forward: int = 4
    max_frames: int = 32
    motion_in_time: bool = False
    reference_pose: bool = False

    def __post_init__(self) -> None:
        levels = len(self.channels)
        for name in ("attention_levels", "motion_levels", "temporal_levels"):
            require(len(getattr(self, name)) == levels, f"unet.{name} needs one entry for each of {levels} levels")
        for width in self.channels:
            require(
                width % self.heads == 0 and width % self.norm_groups == 0,
                f"unet.channels: {width} is no multiple of heads ({self.heads}) and norm_groups ({self.norm_groups})",
            )


@dataclass(frozen=True)
class AutoencoderConfig:
    """diffusers' AutoencoderKL. `patch` folds patch x patch pixels into channels first (1 in the published system).

    `linear_path` adds one linear map each way between 8x8 pixels and a latent cell, beside the network: it starts as
    the principal components of the pictures, so that a small network need not learn colour first. Off as published.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    middle_attention: bool = True
    patch: int = 1
    scaling_factor: float = 0.18215
    linear_path: bool = False

    @property
    def downscale(self) -> int:
        """Image side divided by latent side."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class ImageEncoderConfig:
    """transformers' CLIPVisionModelWithProjection. Defaults: ViT-L/14."""

    hidden: int = 1024
    intermediate: int = 4096
    layers: int = 24
    heads: int = 16
    patch: int = 14
    image_size: int = 224
    projection: int = 768
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class MotionExtractorConfig:
    """ConvNeXtV2 with LivePortrait's heads: keypoints, angles, translation, scale (docs/model.md, section 2.2)."""

    image_size: int = 256
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    keypoints: int = 21
    angle_bins: int = 66
    angle_step: float = 3.0
    angle_offset: float = 97.5


@dataclass(frozen=True)
class MotionEncoderConfig:
    """A face-alignment network trunk with three patch-attention blocks: face crop -> motion tokens (model.md 2.7).

    `readouts`: maps that reach the last linear layer, through a ReLU; 1 as published, which a fresh network easily
    starts (and stays) dead on.
    """

    image_size: int = 224
    stem: int = 64
    channels: tuple[int, int, int] = (128, 128, 256)
    hourglass_depth: int = 4
    attention_dim: int = 1024
    attention_heads: int = 8
    attention_head_dim: int = 128
    attention_patches: tuple[int, int, int] = (4, 2, 2)
    feed_forward: int = 4
    norm_groups: int = 32
    heatmaps: int = 68
    readouts: int = 1
    tokens: int = 32
    token_dim: int = 16


@dataclass(frozen=True)
class PoseGuiderConfig:
    """Convolutions from the keypoint drawing to pose features at 1/8 of its side (docs/model.md, section 2.5).

    `position`: side of a learned map of places added to the features, so that a small model need not learn from the
    borders where things are; 0 (none) as published.
    """

    channels: tuple[int, int, int, int] = (16, 32, 96, 256)
    out_channels: int = 320
    position: int = 0
    in_channels: int = 3

    def __post_init__(self) -> None:
        require(self.position == 0 or self.out_channels % 4 == 0, "pose_guider.position needs channels in fours")


@dataclass(frozen=True)
class KeypointConfig:
    """The keypoint drawing and the face box (docs/model.md, sections 2.5 and 2.6).

    `soft` False: filled discs of `radius` pixels around truncated centres, as published. True: Gaussian blobs of
    standard deviation `radius` at exact, subpixel centres (for small models: one latent cell is many keypoint steps).
    """

    drawn: tuple[int, ...] = (1, 2, 3, 4, 12, 15, 20)
    radius: float = 4.0
    soft: bool = False
    box_scale: float = 1.7
    box_before: float = 0.475
    box_after: float = 0.525


@dataclass(frozen=True)
class FaceMeshConfig:
    """How large the head mesh of the reference warp is (`models/face_mesh.py`)."""

    vertices: int = 14830
    triangles: int = 28668
    identities: int = 24
    expressions: int = 53
    landmarks: int = 256


@dataclass(frozen=True)
class LandmarkConfig:
    """The landmark network of the reference warp (`models/landmark_network.py`). `image_size`: side of a face crop."""

    image_size: int = 128
    channels: tuple[int, ...] = (24, 48, 96, 160, 192)
    landmarks: int = 256


@dataclass(frozen=True)
class WarpConfig:
    """The reference warp (`personalive.warp`): the portrait's own pixels, carried to where each frame shows them.

    Off in the published system. `grid`: side of the flow field. `output_size`: side of the pictures that come out,
    whatever `image_size` is; the networks compute at `image_size`, the portrait is warped at this size.
    `relative_rotation`: the head turns from where the portrait holds it as the driver's turns from its first frame;
    without it the portrait takes on the driver's angles.
    """

    enabled: bool = False
    grid: int = 128
    output_size: int = 256
    relative_rotation: bool = True
    mesh: FaceMeshConfig = field(default_factory=FaceMeshConfig)
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)
    expression_hidden: int = 128
    surface_channels: tuple[int, ...] = (32, 48, 64, 96)
    guider: PoseGuiderConfig = field(default_factory=lambda: PoseGuiderConfig((16, 24, 32, 64), 64, 0, 6))
    compositor_channels: tuple[int, ...] = (32, 48, 64)

    def __post_init__(self) -> None:
        require(self.output_size % 8 == 0 and self.output_size > 0, f"warp.output_size: {self.output_size} is odd")
        require(self.mesh.landmarks == self.landmarks.landmarks, "warp: mesh and landmark network differ in landmarks")


@dataclass(frozen=True)
class StreamConfig:
    """The micro-chunk denoiser (docs/model.md, section 3): schedule, window, keyframes, motion gains.

    `common_noise`: share of the noise's variance that all frames of a stream have in common (0: none, as published; the
    mixed noise of "Preserve Your Own Correlation", Ge et al. 2023): a driver that holds still gives a stiller picture.
    """

    chunk_frames: int = 4
    levels: int = 4
    train_timesteps: int = 1000
    step_size: int = 333
    beta_start: float = 0.00085
    beta_end: float = 0.02
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    keyframes: int = 3
    tau: float = 17.0
    keyframes_from_step: int = 9
    motion_interpolated_start: bool = True
    common_noise: float = 0.0
    chunk_attention: bool = False
    translation_gain: float = 0.5
    scale_gain: float = 0.0

    def __post_init__(self) -> None:
        require(self.prediction in ("epsilon", "v_prediction"), f"stream.prediction: unknown kind {self.prediction!r}")
        require(1 <= self.chunk_frames <= 16, f"stream.chunk_frames: {self.chunk_frames} is not in 1..16")
        require(1 <= self.levels <= 8, f"stream.levels: {self.levels} is not in 1..8")
        require(0 <= self.keyframes <= 8, f"stream.keyframes: {self.keyframes} is not in 0..8")
        require(
            (self.levels - 1) * self.step_size < self.train_timesteps,
            "stream.levels * step_size goes beyond train_timesteps",
        )
        require(self.tau >= 0, f"stream.tau: {self.tau} is negative")
        require(0 <= self.common_noise <= 1, f"stream.common_noise: {self.common_noise} is not in 0..1")

    @property
    def timesteps(self) -> tuple[int, ...]:
        """One timestep per level, cleanest first: (0, 333, 666, 999) as published."""
        return tuple(level * self.step_size for level in range(self.levels))

    @property
    def window_frames(self) -> int:
        """Frames in the window: chunk_frames * levels."""
        return self.chunk_frames * self.levels

    @property
    def lead_in_frames(self) -> int:
        """Frames of the motion-interpolated start, dropped from the output: all chunks but the newest."""
        return self.chunk_frames * (self.levels - 1)


@dataclass(frozen=True)
class ModelConfig:
    """One size of the whole system. `image_size`: side of the square picture in pixels."""

    name: str = "official"
    image_size: int = 512
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    motion_extractor: MotionExtractorConfig = field(default_factory=MotionExtractorConfig)
    motion_encoder: MotionEncoderConfig = field(default_factory=MotionEncoderConfig)
    pose_guider: PoseGuiderConfig = field(default_factory=PoseGuiderConfig)
    keypoints: KeypointConfig = field(default_factory=KeypointConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)

    def __post_init__(self) -> None:
        unet = self.unet
        require(
            (unet.motion_tokens, unet.motion_dim) == (self.motion_encoder.tokens, self.motion_encoder.token_dim),
            "the motion encoder's tokens must be what the UNet's motion modules read",
        )
        require(unet.latent_channels == self.autoencoder.latent_channels, "UNet and autoencoder differ in latents")
        require(unet.image_token_dim == self.image_encoder.projection, "UNet and image encoder differ in the token")
        require(self.pose_guider.out_channels == unet.channels[0], "the pose guider must end in unet.channels[0]")
        require(self.pose_guider.position in (0, self.latent_size), "pose_guider.position must be the latent side")
        require(self.image_size % (8 * 2 ** (len(unet.channels) - 1)) == 0, f"image_size {self.image_size} is odd")
        require(self.autoencoder.downscale == 8, "latents must be 1/8 of the image side")
        require(self.stream.window_frames <= unet.max_frames, "the window is longer than unet.max_frames")

    @property
    def driver_size(self) -> int:
        """Side of the driving frames that are looked at: the landmark network's crops of them want more pixels."""
        return max(self.image_size, 2 * self.warp.landmarks.image_size) if self.warp.enabled else self.image_size

    @property
    def output_size(self) -> int:
        """Side of the pictures that come out: `image_size`, or the reference warp's own size."""
        return self.warp.output_size if self.warp.enabled else self.image_size

    @property
    def latent_size(self) -> int:
        """Side of the latents: image_size / 8."""
        return self.image_size // 8


OFFICIAL = ModelConfig()

SMALL = ModelConfig(
    # The parity goldens' small networks (with the production motion extractor and encoder).
    name="small",
    unet=UNetConfig(channels=(32, 64, 96, 96), image_token_dim=48),
    autoencoder=AutoencoderConfig(channels=(32, 32, 64, 64), layers=1),
    image_encoder=ImageEncoderConfig(
        hidden=64, intermediate=128, layers=2, heads=4, patch=32, image_size=224, projection=48
    ),
    pose_guider=PoseGuiderConfig(channels=(8, 16, 24, 32), out_channels=32),
)

MINI = ModelConfig(
    # The built-in model: 128 px, trained by this project on rendered people.
    name="mini",
    image_size=128,
    unet=UNetConfig(
        latent_channels=8,
        channels=(64, 80),
        layers=1,
        attention_levels=(True, True),
        motion_levels=(True, True),
        temporal_levels=(False, True),
        temporal_middle=False,
        image_token_dim=64,
        motion_tokens=8,
        motion_dim=32,
        heads=4,
        norm_groups=8,
        feed_forward=2,
        motion_in_time=True,
        reference_pose=True,
    ),
    autoencoder=AutoencoderConfig(
        channels=(32, 48, 96),
        layers=1,
        latent_channels=8,
        norm_groups=8,
        middle_attention=False,
        patch=2,
        scaling_factor=1.0,
        linear_path=True,
    ),
    image_encoder=ImageEncoderConfig(
        hidden=64, intermediate=128, layers=2, heads=4, patch=16, image_size=128, projection=64
    ),
    motion_extractor=MotionExtractorConfig(image_size=128, depths=(1, 1, 3, 1), dims=(24, 64, 96, 144)),
    motion_encoder=MotionEncoderConfig(
        image_size=64,
        stem=16,
        channels=(24, 32, 64),
        hourglass_depth=2,
        attention_dim=96,
        attention_heads=4,
        attention_head_dim=24,
        attention_patches=(4, 2, 2),
        feed_forward=2,
        norm_groups=8,
        heatmaps=32,
        readouts=8,
        tokens=8,
        token_dim=32,
    ),
    pose_guider=PoseGuiderConfig(channels=(8, 16, 32, 64), out_channels=64, position=16),
    keypoints=KeypointConfig(radius=4.0, soft=True),
    stream=StreamConfig(
        levels=2,
        step_size=999,
        prediction="v_prediction",
        translation_gain=1.0,
        scale_gain=1.0,
        tau=4.0,
        common_noise=0.9,
    ),
    warp=WarpConfig(enabled=True),
)

BASE = dataclasses.replace(
    # Four times mini's pixels and weights, for GPUs: 71 MB in half precision. Not trained yet.
    MINI,
    name="base",
    image_size=256,
    unet=dataclasses.replace(
        MINI.unet,
        channels=(80, 128, 176),
        attention_levels=(True, True, True),
        motion_levels=(True, True, True),
        temporal_levels=(False, True, True),
        image_token_dim=128,
        motion_tokens=16,
    ),
    autoencoder=dataclasses.replace(MINI.autoencoder, channels=(48, 96, 160)),
    image_encoder=dataclasses.replace(MINI.image_encoder, hidden=128, intermediate=256, image_size=256, projection=128),
    motion_encoder=dataclasses.replace(MINI.motion_encoder, image_size=128, tokens=16),
    pose_guider=dataclasses.replace(MINI.pose_guider, channels=(16, 32, 64, 96), out_channels=80, position=32),
    keypoints=dataclasses.replace(MINI.keypoints, radius=8.0),
    warp=WarpConfig(enabled=True, output_size=512, guider=PoseGuiderConfig((16, 24, 32, 64), 80, 0, 6)),
)

TOY = ModelConfig(
    # The smallest value of every size: for tests of behaviour, not of pictures.
    name="toy",
    image_size=32,
    unet=UNetConfig(
        latent_channels=4,
        channels=(8, 16),
        layers=1,
        attention_levels=(True, False),
        motion_levels=(True, True),
        temporal_levels=(True, True),
        image_token_dim=8,
        motion_tokens=4,
        motion_dim=8,
        heads=2,
        norm_groups=4,
        feed_forward=2,
    ),
    autoencoder=AutoencoderConfig(
        channels=(8, 8, 8), layers=1, latent_channels=4, norm_groups=4, middle_attention=False, patch=2
    ),
    image_encoder=ImageEncoderConfig(
        hidden=16, intermediate=32, layers=1, heads=2, patch=16, image_size=32, projection=8
    ),
    motion_extractor=MotionExtractorConfig(image_size=32, depths=(1, 1), dims=(8, 16)),
    motion_encoder=MotionEncoderConfig(
        image_size=32,
        stem=8,
        channels=(8, 8, 16),
        hourglass_depth=1,
        attention_dim=16,
        attention_heads=2,
        attention_head_dim=8,
        attention_patches=(4, 2, 2),
        feed_forward=2,
        norm_groups=4,
        heatmaps=4,
        tokens=4,
        token_dim=8,
    ),
    pose_guider=PoseGuiderConfig(channels=(4, 4, 8, 8), out_channels=8),
    keypoints=KeypointConfig(radius=2.0),
    stream=StreamConfig(tau=0.5),
)


CONFIGS = {config.name: config for config in (OFFICIAL, BASE, MINI, SMALL, TOY)}
"""All sizes by name."""


def from_json(text: str) -> ModelConfig:
    """The inverse of `to_json` for a ModelConfig. Raises ConfigError on unknown or missing keys and wrong types."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the configuration is not JSON: {error}") from error
    if isinstance(data, dict):
        missing = [part.name for part in dataclasses.fields(ModelConfig) if part.name not in data]
        require(not missing, f"config: no {', '.join(missing)}: it was made by another version")
    return build(ModelConfig, data, "config")


def override(config: ModelConfig, assignments: dict[str, Any]) -> ModelConfig:
    """A copy with dotted fields replaced, e.g. {"stream.tau": 15.0}. Raises ConfigError for an unknown field."""
    data = dataclasses.asdict(config)
    for path, value in assignments.items():
        table = data
        *parents, leaf = path.split(".")
        for parent in parents:
            require(isinstance(table.get(parent), dict), f"{path}: there is no table {parent!r}")
            table = table[parent]
        require(leaf in table, f"{path}: unknown field (known here: {', '.join(sorted(table))})")
        table[leaf] = value
    return build(ModelConfig, data, "config")
