"""What happens to a driving picture before the motion networks see it in training (docs/model.md, section 7).

Rendered faces are clean and look alike; cameras are not. Colour, blur, noise, compression, occlusion and an affine move
make the motion networks look at shape alone. The affine move changes the ground truth too, exactly; `warp` changes a
face's proportions and goes where no ground truth is needed.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

from personalive.contracts import HeadMotion
from personalive.media.frames import to_uint8, to_unit
from personalive.motion.keypoints import pose_keypoints


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.rand(count) * (high - low) + low


def colour(images: Tensor) -> Tensor:
    """Random gain, gamma, contrast, saturation and tint per image; (N, 3, H, W) in [0, 1]."""
    n = len(images)
    grey = images.mean(1, keepdim=True)
    keep = _uniform(n, -0.1, 1.3).clamp(min=0.0)[:, None, None, None]
    images = grey + (images - grey) * keep
    tint = 1 + 0.1 * torch.randn(n, 3, 1, 1)
    images = (images * tint * _uniform(n, 0.7, 1.25)[:, None, None, None]).clamp(1e-3, 1)
    images = images ** torch.exp(0.25 * torch.randn(n))[:, None, None, None]
    pivot = images.mean((1, 2, 3), keepdim=True)
    return ((images - pivot) * _uniform(n, 0.6, 1.3)[:, None, None, None] + pivot).clamp(0, 1)


def degrade(images: Tensor) -> Tensor:
    """What light, lens, sensor and network do to a picture, in their order; (N, 3, H, W) in [0, 1].

    A gradient of light, something in front of some, blur of some, lost resolution, noise, compression of some.
    """
    images = blur(occlude(light(images)))
    images = lose_resolution(images)
    images = images + torch.randn_like(images) * (0.035 * torch.rand(len(images), 1, 1, 1))
    return compress(images.clamp(0, 1))


def light(images: Tensor) -> Tensor:
    """Brighter towards a random side: (N, 3, H, W)."""
    n, _, height, width = images.shape
    ramp = torch.linspace(-1, 1, width)[None, None, None] * torch.randn(n, 1, 1, 1)
    ramp = ramp + torch.linspace(-1, 1, height)[None, None, :, None] * torch.randn(n, 1, 1, 1)
    return images * (1 + 0.15 * ramp)


def occlude(images: Tensor, share: float = 0.15) -> Tensor:
    """A patch of one colour somewhere on a share of the pictures, as a hand or a cup would be: (N, 3, H, W)."""
    images = images.clone()
    _, _, height, width = images.shape
    for image in images:
        if torch.rand(()) < share:
            h, w = int(height * _uniform(1, 0.08, 0.3)), int(width * _uniform(1, 0.08, 0.3))
            y, x = int(torch.randint(height - h, (1,))), int(torch.randint(width - w, (1,)))
            image[:, y : y + h, x : x + w] = torch.rand(3, 1, 1)
    return images


def blur(images: Tensor, share: float = 0.3, reach: float = 0.03) -> Tensor:
    """A share of the pictures out of focus or shaken, along one direction, up to `reach` of the side: (N, 3, H, W).

    The kernel is a Gaussian, as wide across the direction as along it (focus) or much narrower (motion).
    """
    n, _, height, _ = images.shape
    radius = max(1, math.ceil(2 * reach * height))
    places = torch.arange(-radius, radius + 1.0)
    along = (reach * height * _uniform(n, 0.2, 1.0)).clamp(min=0.3)[:, None, None]
    across = torch.where(torch.rand(n, 1, 1) < 0.5, along, torch.full_like(along, 0.3))
    turn = _uniform(n, 0, math.pi)[:, None, None]
    down, right = places[None, :, None], places[None, None, :]
    u, v = right * torch.cos(turn) + down * torch.sin(turn), down * torch.cos(turn) - right * torch.sin(turn)
    kernels = torch.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)  # (N, K, K)
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    padded = functional.pad(images, (radius,) * 4, mode="replicate").transpose(0, 1)  # (3, N, H + 2r, W + 2r)
    soft = functional.conv2d(padded, kernels[:, None], groups=n).transpose(0, 1)
    return torch.where(torch.rand(n, 1, 1, 1) < share, soft, images)


def lose_resolution(images: Tensor) -> Tensor:
    """Half of the time some pictures are shrunk and blown up again: (N, 3, H, W)."""
    if torch.rand(()) >= 0.5:
        return images
    factor = float(_uniform(1, 0.4, 0.9))
    small = functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
    soft = functional.interpolate(small, size=images.shape[-2:], mode="bilinear")
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.6, soft, images)


def compress(images: Tensor, share: float = 0.4, quality: tuple[int, int] = (12, 70)) -> Tensor:
    """A share of the pictures through JPEG of a random quality: blocks and smeared colours as of a video call.

    (N, 3, H, W) in [0, 1]; on the CPU and without a gradient.
    """
    images = images.clone()
    for i in range(len(images)):
        if torch.rand(()) < share:
            file = io.BytesIO()
            level = int(torch.randint(quality[0], quality[1] + 1, (1,)))
            Image.fromarray(to_uint8(images[i : i + 1])[0]).save(file, "JPEG", quality=level)
            images[i] = to_unit(np.asarray(Image.open(file)))[0]
    return images


def paint_flat(images: Tensor, share: float = 0.15, radius: float = 0.02) -> Tensor:
    """A share of the pictures as a painter lays them down: even areas with firm edges (Kuwahara filter): (N, 3, H, W).

    Every pixel takes the mean of the most even of its four quadrants, up to `radius` of the side wide.
    """
    reach = max(1, round(float(_uniform(1, 0.4, 1.0)) * radius * images.shape[-1]))
    size = reach + 1
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    mean = functional.avg_pool2d(
        padded, size, stride=1
    )  # (N, 3, H + reach, W + reach) of the square to the lower right
    spread = (functional.avg_pool2d(padded.square(), size, stride=1) - mean.square()).sum(1, keepdim=True)
    height, width = images.shape[-2:]
    corners = [(y, x) for y in (0, reach) for x in (0, reach)]
    means = torch.stack([mean[..., y : y + height, x : x + width] for y, x in corners])
    spreads = torch.stack([spread[..., y : y + height, x : x + width] for y, x in corners])
    best = spreads.argmin(0, keepdim=True).expand(-1, -1, 3, -1, -1)
    strength = _uniform(len(images), 0.5, 1.0)[:, None, None, None]
    flat = torch.lerp(images, means.gather(0, best)[0], strength)
    return torch.where(torch.rand(len(images), 1, 1, 1) < share, flat, images)


def camera_look(images: Tensor, share: float = 0.5) -> Tensor:
    """A share of the pictures as other cameras give them: (N, 3, H, W) in [0, 1].

    White balance along the line from warm to cool, darker corners, and the outline that phones sharpen with.
    """
    n, _, height, width = images.shape
    warmth = 0.12 * torch.randn(n, 1, 1, 1) * torch.tensor([1.0, 0.1, -1.0])[None, :, None, None]
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    corners = 1 - _uniform(n, 0.0, 0.35)[:, None, None, None] * (down.square() + across.square()) / 2
    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sharpened = images + _uniform(n, 0.0, 1.5)[:, None, None, None] * (images - soft)
    looks = (sharpened * torch.exp(warmth) * corners).clamp(0, 1)
    return torch.where(torch.rand(n, 1, 1, 1) < share, looks, images)


def warp(images: Tensor, bend: float = 0.03, stretch: float = 0.1) -> Tensor:
    """Other proportions, the same expression: aspect and a smooth bend, piecewise bilinear; (N, 3, H, W) in [0, 1].

    For the motion encoder's face crops (the paper's piecewise affine moves and aspect resizes), so that tokens say
    nothing of a face's shape. `bend`: deviation of a 5 x 5 grid's corners, in sides; `stretch`: deviation of the log
    aspect.
    """
    n, _, height, width = images.shape
    moves = functional.interpolate(
        2 * bend * torch.randn(n, 2, 5, 5), size=(height, width), mode="bilinear", align_corners=True
    )
    aspect = torch.exp(stretch * torch.randn(n) / 2)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = aspect, 1 / aspect
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False) + moves.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def driving_crop(crops: Tensor) -> Tensor:
    """Everything that makes face crops (N, 3, H, W) in [0, 1] carry motion and not identity: for the motion encoder."""
    return degrade(colour(warp(crops)))


def affine(images: Tensor, head: HeadMotion) -> tuple[Tensor, HeadMotion]:
    """A random in-plane rotation, zoom and shift of (N, 3, H, W) images and of their ground truth."""
    n = len(images)
    turn, zoom = _uniform(n, -25, 25), torch.exp(0.18 * torch.randn(n)).clamp(0.6, 1.6)
    shift = 0.16 * torch.randn(n, 2)
    cos, sin = torch.cos(turn * math.pi / 180), torch.sin(turn * math.pi / 180)
    forward = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (N, 2, 2) on columns
    inverse = forward.transpose(1, 2) / zoom[:, None, None]
    theta = torch.cat([inverse, -(inverse @ shift[:, :, None])], -1)  # output position -> input position
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    plane = (forward @ head.translation[:, :2, None])[..., 0] * zoom[:, None] + shift
    return moved, replace(
        head,
        angles=head.angles + torch.stack([torch.zeros(n), torch.zeros(n), turn], -1),
        translation=torch.cat([plane, head.translation[:, 2:]], -1),
        scale=head.scale * zoom[:, None],
    )


def posed(head: HeadMotion) -> Tensor:
    """Keypoints of a head in the picture plane: (N, K, 2)."""
    return pose_keypoints(head)[..., :2]
