"""Which published files there are, whose they are, and where the published layout keeps them. Data only (model.md 10).

Sizes and hashes are not written down here: a download takes them from the hub's own listing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Repository:
    """A repository on the hub. What lies under `root` there lies under `folder` in the published layout."""

    name: str
    folder: str
    licence: str
    root: str = ""

    def place(self, file: str) -> str:
        """Where a file (a path under `root`) lies in the published layout."""
        return f"{self.folder}/{file}"


@dataclass(frozen=True)
class Part:
    """One file that a model needs: the first of `files` that there is (they hold the same), paths under the root."""

    repository: Repository
    files: tuple[str, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Where the files lie in the published layout, in order of preference."""
        return tuple(self.repository.place(file) for file in self.files)


PERSONALIVE = Repository(
    name="huaichang/PersonaLive",
    folder="personalive",
    licence="research only, no commercial use (the authors' terms for the weights)",
    root="pretrained_weights/personalive/",
)
IMAGE_VARIATIONS = Repository(
    name="lambdalabs/sd-image-variations-diffusers",
    folder="sd-image-variations-diffusers",
    licence="CreativeML Open RAIL-M: no harmful use, see its terms",
)
AUTOENCODER = Repository(name="stabilityai/sd-vae-ft-mse", folder="sd-vae-ft-mse", licence="MIT")

NETWORKS = {
    **{
        name: Part(PERSONALIVE, (f"{name}.pth",))
        for name in ("reference_unet", "motion_extractor", "motion_encoder", "pose_guider")
    },
    "autoencoder": Part(AUTOENCODER, ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
    "image_encoder": Part(IMAGE_VARIATIONS, ("image_encoder/model.safetensors", "image_encoder/pytorch_model.bin")),
}
"""The file of each network but the denoising UNet."""

DENOISING = Part(PERSONALIVE, ("denoising_unet.pth",))
TEMPORAL = Part(PERSONALIVE, ("temporal_module.pth",))
"""The denoising UNet's two files; where both hold an entry, the temporal file's counts."""

BASE_UNET = Part(IMAGE_VARIATIONS, ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"))
"""What the published code fills the denoising UNet with first: needed only where the two files leave entries open."""

TAESD = Repository(name="madebyollin/taesd", folder="taesd", licence="MIT")
TINY_DECODER = Part(TAESD, ("taesd_decoder.safetensors", "diffusion_pytorch_model.safetensors"))
"""The tiny decoder alone, or with its encoder: the same tensors under two layouts' names."""

BUNDLES: dict[str, tuple[Part, ...]] = {
    "official": (DENOISING, TEMPORAL, *NETWORKS.values()),
    "base-unet": (BASE_UNET,),
    "taesd": (TINY_DECODER,),
}
"""What `personalive download` fetches, by name. The base UNet comes by itself where it is needed."""
