"""What the denoiser's stages read instead of pixels: latents, motion tokens and head motion of every frame.

Computed once per run by the frozen autoencoder and motion networks; a denoising step then costs only the denoiser.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.contracts import HeadMotion, MotionSignals, ReferenceFeatures
from personalive.media.frames import CLIP_MEAN, CLIP_STD, resize_tensor
from personalive.models.autoencoder import Autoencoder
from personalive.models.denoising_unet import DenoisingUNet
from personalive.models.image_encoder import ImageEncoder
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.reference_unet import ReferenceUNet
from personalive.models.reference_warp import ReferenceWarp, warp_guider
from personalive.motion.keypoints import draw, pose_keypoints
from personalive.motion.signals import Observation, face_crops
from personalive.streaming.state import map_tensors
from personalive.training.autoencoder_stage import load_autoencoder
from personalive.training.checkpoint import load_modules
from personalive.training.clips import Corpus
from personalive.training.followed_people import expression_of, follow_people
from personalive.training.losses import channel_weights
from personalive.training.prepared_warps import PreparedWarps, load_warps, prepare_warps, save_warps

MODULES = ("reference_unet", "denoising_unet", "pose_guider", "image_encoder")
"""What the denoiser's stages train, by their names in `Networks`; and, where there is one, the warp's guider."""

HEAD = ("keypoints", "angles", "translation", "scale")
"""Fields of HeadMotion, in its order."""


@dataclass(frozen=True)
class Frozen:
    """Networks that no longer learn: the autoencoder and the motion networks."""

    autoencoder: Autoencoder
    motion_extractor: MotionExtractor
    motion_encoder: MotionEncoder

    def to(self, device: torch.device) -> Frozen:
        """The same networks, moved to a device."""
        return Frozen(self.autoencoder.to(device), self.motion_extractor.to(device), self.motion_encoder.to(device))

    def rest(self, learns_motion: bool) -> None:
        """Send to main memory what has nothing left to do once the data is prepared."""
        self.motion_extractor.cpu()
        if not learns_motion:
            self.motion_encoder.cpu()


def load_frozen(config: ModelConfig, folder: Path | None) -> Frozen:
    """From the run folder's `autoencoder.safetensors` and `motion.safetensors`; the motion encoder from
    `image.safetensors` when that stage trained it further. Without a folder: fresh networks.
    """
    extractor, encoder = load_motion_networks(config, folder)
    if folder is None:
        return Frozen(Autoencoder(config.autoencoder).eval().requires_grad_(False), extractor, encoder)
    return Frozen(load_autoencoder(config, folder), extractor, encoder)


def load_motion_networks(config: ModelConfig, folder: Path | None) -> tuple[MotionExtractor, MotionEncoder]:
    """The motion networks of a run folder at rest, as `load_frozen` finds them; fresh ones without a folder."""
    extractor, encoder = MotionExtractor(config.motion_extractor), MotionEncoder(config.motion_encoder)
    if folder is not None:
        load_modules({"motion_extractor": extractor, "motion_encoder": encoder}, folder / "motion.safetensors")
        image = folder / "image.safetensors"
        if image.exists():
            with safe_open(str(image), "pt") as file:
                further = any(key.startswith("motion_encoder.") for key in file.keys())  # noqa: SIM118 (not a mapping)
            if further:
                load_modules({"motion_encoder": encoder}, image)
    return extractor.eval().requires_grad_(False), encoder.eval().requires_grad_(False)


@dataclass(frozen=True)
class Prepared:
    """Of P people with F frames: latents (P, F, C, h, w) float16, tokens (P, F, T, D), head (P, F, ...).

    warps: of a model with a reference warp, the portraits that were warped; followed (P, F, ...): what every person
    does as a driver.
    """

    corpus: Corpus
    latents: Tensor
    tokens: Tensor
    head: HeadMotion
    warps: PreparedWarps | None = None
    followed: Observation | None = None

    def seen(self, person: Tensor, frame: Tensor, device: torch.device) -> Observation:
        """What the motion networks saw in these frames, (N, ...) for indices of N elements in any shape."""
        found = Observation(self.head, self.tokens)
        return map_tensors(lambda tensor: tensor[person.flatten(), frame.flatten()].to(device), found)


def prepare(
    config: ModelConfig,
    frozen: Frozen,
    corpus: Corpus,
    cache: Path | None,
    warp: ReferenceWarp | None = None,
    crossed: bool = True,
) -> Prepared:
    """Run the frozen networks over every frame, as the product would (own-pose face boxes, predicted motion).

    The result is kept in the safetensors file `cache`, if one is named, and read back from it as long as its
    fingerprint (the networks' weights and the pictures) is that of this call. `crossed`: see `prepare_warps`.
    """
    if cache is None:
        return _prepared(corpus, _compute(config, frozen, corpus, warp, crossed))
    fingerprint = _fingerprint(frozen, corpus, warp)
    if cache.exists():
        with safe_open(str(cache), "pt") as file:
            if (file.metadata() or {}).get("fingerprint") == fingerprint:
                parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
                return _prepared(corpus, parts)
    parts = _compute(config, frozen, corpus, warp, crossed)
    part = cache.with_suffix(".part")
    save_file(parts, str(part), metadata={"fingerprint": fingerprint})
    os.replace(part, cache)
    return _prepared(corpus, parts)


def _compute(
    config: ModelConfig, frozen: Frozen, corpus: Corpus, warp: ReferenceWarp | None, crossed: bool
) -> dict[str, Tensor]:
    parts = _observe(config, frozen, corpus)
    if warp is None:
        return parts
    seen = Observation(HeadMotion(*(parts[name] for name in HEAD)), parts["tokens"])
    followed = follow_people(config, warp, corpus, seen)
    warps = save_warps(prepare_warps(config, warp, corpus, seen, followed, crossed))
    parts |= {f"followed.{name}": getattr(followed.head, name).contiguous() for name in HEAD}
    parts |= {"followed.expression": expression_of(followed)}
    return parts | {f"warps.{name}": tensor for name, tensor in warps.items()}


def _prepared(corpus: Corpus, parts: dict[str, Tensor]) -> Prepared:
    own = {key.removeprefix("warps."): tensor for key, tensor in parts.items() if key.startswith("warps.")}
    head = HeadMotion(*(parts[name] for name in HEAD))
    plain = Prepared(corpus, parts["latents"], parts["tokens"], head)
    if not own:
        return plain
    followed = HeadMotion(*(parts[f"followed.{name}"] for name in HEAD))
    return replace(
        plain, warps=load_warps(own), followed=Observation(followed, parts["tokens"], parts["followed.expression"])
    )


def _fingerprint(frozen: Frozen, corpus: Corpus, warp: ReferenceWarp | None) -> str:
    """A checksum of everything that `prepare` depends on."""
    at_rest = [] if warp is None else [warp.mesh, warp.landmarks, warp.expression, warp.surface]
    return checksum((frozen.autoencoder, frozen.motion_extractor, frozen.motion_encoder, *at_rest), corpus)


def checksum(networks: Iterable[nn.Module], corpus: Corpus) -> str:
    """A checksum of networks and of the pictures that they see."""
    digest = hashlib.sha256()
    for module in networks:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(corpus.images.numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _observe(config: ModelConfig, frozen: Frozen, corpus: Corpus) -> dict[str, Tensor]:
    latents, tokens, heads = [], [], []
    device = next(frozen.autoencoder.parameters()).device
    side = config.image_size

    def see(images: Tensor) -> tuple[HeadMotion, Tensor]:
        found = frozen.motion_extractor(resize_tensor(images, config.motion_extractor.image_size))
        return found, frozen.motion_encoder(face_crops(config, images, found))

    for person in range(corpus.people):
        images = corpus.images[person].to(device).float() / 255  # (F, 3, H, W)
        found, seen = zip(*(see(part) for part in _few(images, side)), strict=True)
        heads.append(map_tensors(lambda *parts: torch.cat(parts).cpu(), *found))
        tokens.append(torch.cat(seen).cpu())
        latents.append(piecewise(frozen.autoencoder.encode, images * 2 - 1, side).half().cpu())
    parts = {name: torch.stack([getattr(head, name) for head in heads]).contiguous() for name in HEAD}
    return parts | {"latents": torch.stack(latents), "tokens": torch.stack(tokens)}


def latent_importance(frozen: Frozen, data: Prepared) -> Tensor:
    """Loss weights (C, 1, 1) of the latent channels, measured on the first frames of a dozen people."""
    device = next(frozen.autoencoder.parameters()).device
    some = data.latents[:: max(1, data.corpus.people // 12), 0].to(device).float()
    side = data.corpus.images.shape[-1]
    return channel_weights(lambda latents: piecewise(frozen.autoencoder.decode_signed, latents, side), some)


def _few(pictures: Tensor, side: int) -> tuple[Tensor, ...]:
    """Pictures, or their latents, in parts of about a megapixel; `side` is the picture's, in pixels."""
    return torch.split(pictures, max(1, 2**20 // side**2))


def piecewise(network: Callable[[Tensor], Tensor], pictures: Tensor, side: int) -> Tensor:
    """A network over any number of pictures, or their latents, without needing more memory for more of them."""
    return torch.cat([network(part) for part in _few(pictures, side)])


class Denoiser(nn.Module):
    """The networks that the denoiser's stages train, together, and how one driving frame reaches them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.reference_unet = ReferenceUNet(config.unet)
        self.denoising_unet = DenoisingUNet(config.unet)
        self.pose_guider = PoseGuider(config.pose_guider)
        self.image_encoder = ImageEncoder(config.image_encoder)
        self.warp_guider = warp_guider(config.warp) if config.warp.enabled else None

    def parts(self) -> dict[str, nn.Module]:
        """The networks by the names under which a stage saves them."""
        found: dict[str, nn.Module] = {name: getattr(self, name) for name in MODULES}
        return found if self.warp_guider is None else found | {"warp_guider": self.warp_guider}

    def reference(self, pictures: Tensor, latents: Tensor, head: HeadMotion) -> ReferenceFeatures:
        """Features of N references: pictures (N, 3, H, W) in [0, 1], latents (N, C, h, w), their own head motion."""
        mean, deviation = (
            torch.tensor(values, device=pictures.device)[:, None, None] for values in (CLIP_MEAN, CLIP_STD)
        )
        pixels = resize_tensor(pictures, self.config.image_encoder.image_size)
        token = self.image_encoder((pixels - mean) / deviation)
        pose = self.pose(head) if self.config.unet.reference_pose else None
        features = self.reference_unet(latents, token, pose)
        return ReferenceFeatures(latents, token, self.denoising_unet.project(features))

    def pose(self, head: HeadMotion) -> Tensor:
        """Pose features (N, C0, h, w) of head motions (N, ...)."""
        features: Tensor = self.pose_guider(draw(pose_keypoints(head), self.config.image_size, self.config.keypoints))
        return features

    def checkpointing(self, wanted: bool) -> None:
        """Whether the UNets forget their activations and compute them again in the backward pass."""
        self.reference_unet.checkpointing = self.denoising_unet.checkpointing = wanted

    def predict(
        self, sample: Tensor, timesteps: Tensor, signals: MotionSignals, reference: ReferenceFeatures
    ) -> Tensor:
        """The UNet's prediction for independent frames: sample (B, F, C, h, w), timesteps (B, F)."""
        prediction: Tensor = self.denoising_unet(
            sample, timesteps, reference.image_token, signals, reference.key_values, temporal=False
        )
        return prediction


def self_driving(head: HeadMotion, person: Tensor, reference: Tensor, driving: Tensor) -> HeadMotion:
    """Head motion of driving frames on their own person: (B,), (B,), (B, F) indices -> HeadMotion of (B, F, ...).

    Keypoints from the reference, the rest from the driving frame: what retargeting with gain 1 gives when the first
    driving frame is the reference.
    """
    frames = driving.shape[1]
    rows = person[:, None].expand(-1, frames)
    keypoints = head.keypoints[person, reference][:, None].expand(-1, frames, -1, -1)
    return replace(map_tensors(lambda tensor: tensor[rows, driving], head), keypoints=keypoints)


def with_guider(warp: ReferenceWarp | None, denoiser: Denoiser) -> ReferenceWarp | None:
    """The reference warp with the guider that the denoiser learned with."""
    if warp is not None and denoiser.warp_guider is not None:
        warp.guider = denoiser.warp_guider
    return warp
