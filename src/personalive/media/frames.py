"""Pictures, and the only place where uint8 RGB meets [-1, 1] / [0, 1] tensors and where images are resized."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from personalive.errors import InputError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 RGB, (H, W, 3), or (F, H, W, 3) where a function says frames."""

MIN_SIDE = 32
"""Pixels. A smaller picture holds no face that could be animated."""

MAX_PIXELS = 64_000_000
"""Beyond any camera of today; a larger picture is refused before it is decoded."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics that OpenAI's CLIP was trained with, for pixels in [0, 1]."""

# PIL hands EPS to an external interpreter: nothing of that kind runs on a file that somebody sent us.
_REFUSED_FORMATS = {"EPS"}


def load_picture(path: str | Path) -> Pixels:
    """A picture file as (H, W, 3) uint8 RGB: upright (EXIF), transparency on white, first image of an animation.

    Raises InputError when the file is missing, a folder, empty, no picture, damaged, smaller than 32 pixels a side
    or larger than 64 megapixels (read from the header, before decoding).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a picture; name a picture file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path of the picture") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    return decode_picture(data, str(path))


def decode_picture(
    data: bytes, name: str = "the picture", max_pixels: int = MAX_PIXELS, formats: Collection[str] | None = None
) -> Pixels:
    """The bytes of a picture file as (H, W, 3) uint8 RGB, like `load_picture`; `name` is what errors call it.

    `max_pixels` and `formats` (PIL's names, e.g. "JPEG"; None: all that are safe) narrow what is accepted.
    """
    if not data:
        raise InputError(f"{name} is an empty file; choose another picture")
    with _open_header(data, name, formats) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise InputError(f"{name} is {width}x{height} pixels; at least {MIN_SIDE} a side are needed")
        if width * height > max_pixels:
            raise _too_large(name, f"{width}x{height} pixels", max_pixels)
        try:
            image.load()
            # np.array copies: the result is contiguous, writable and outlives the PIL image
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
        except MemoryError:
            raise
        except Exception as error:  # decoders of damaged files raise nearly anything (OSError, SyntaxError, struct...)
            raise InputError(f"{name} is damaged or cut short ({error}); save it again as PNG or JPEG") from error


def _open_header(data: bytes, name: str, wanted: Collection[str] | None) -> Image.Image:
    """Reads the header only. PIL's own limit against decompression bombs speaks first for the very largest."""
    Image.init()
    formats = sorted((set(Image.OPEN) if wanted is None else set(wanted)) - _REFUSED_FORMATS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(name, "too many pixels") from error
        except Exception as error:
            raise InputError(f"{name} is not a picture that can be read; use PNG, JPEG or WebP") from error


def _too_large(name: str, what: str, limit: int = MAX_PIXELS) -> InputError:
    return InputError(f"{name} has {what}; at most {limit / 1_000_000:.3g} megapixels are read: make it smaller")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode as RGB with 8 bits a channel."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        return Image.fromarray(flatten_alpha(np.array(image.convert("RGBA"))))
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating-point grey as 8-bit grey. PIL's own conversion would clip instead of scaling."""
    values = np.nan_to_num(np.array(image, dtype=np.float64))
    peak = float(values.max())
    if image.mode == "F" and peak <= 1.0:
        full = 1.0
    elif not image.mode.startswith("I;16") and peak <= 255.0:
        full = 255.0
    else:
        full = max(65535.0, peak)
    return Image.fromarray(np.round(values.clip(0.0) / full * 255.0).astype(np.uint8))


def flatten_alpha(pixels: Pixels) -> Pixels:
    """(H, W, 4) uint8 RGBA, alpha not premultiplied, laid on white: (H, W, 3)."""
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if bool((alpha == 255).all()):
        return np.ascontiguousarray(colour)
    weight = alpha.astype(np.uint16)
    # + 127 rounds to nearest; the largest sum, 255 * 255 + 127, fits in 16 bits
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def to_unit(frames: Pixels) -> Tensor:
    """uint8 (F, H, W, 3) or (H, W, 3) -> float32 (F, 3, H, W) in [0, 1]; one frame gives F = 1."""
    return from_levels(as_levels(frames))


def as_levels(frames: Pixels) -> Tensor:
    """uint8 (F, H, W, 3) or (H, W, 3) as a uint8 tensor (F, H, W, 3), of the same memory where that can be."""
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        raise ValueError(f"uint8 pixels (..., H, W, 3) are expected, not {frames.dtype} {frames.shape}")
    if frames.ndim == 3:
        frames = frames[None]
    # torch warns about memory that it may not write to, e.g. a view of a PIL image: copied then
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]))


def from_levels(levels: Tensor) -> Tensor:
    """uint8 (F, H, W, 3) on any device -> float32 (F, 3, H, W) in [0, 1] there."""
    channels_first = levels.permute(0, 3, 1, 2)  # (F, 3, H, W)
    return channels_first.to(torch.float32, memory_format=torch.contiguous_format) / 255.0


def to_signed(frames: Pixels) -> Tensor:
    """uint8 (F, H, W, 3) or (H, W, 3) -> float32 (F, 3, H, W) in [-1, 1]; one frame gives F = 1."""
    return to_unit(frames) * 2.0 - 1.0


def to_uint8(images: Tensor) -> Pixels:
    """Images (F, 3, H, W) in [0, 1], any float type and device -> uint8 (F, H, W, 3). Values outside are clipped."""
    pixels: Pixels = to_levels(images).cpu().numpy()
    return pixels


def to_levels(images: Tensor) -> Tensor:
    """`to_uint8` as a tensor, on the images' own device."""
    levels = (images.detach().float() * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()  # (F, H, W, 3)


def resize_picture(pixels: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> (side, side, 3) with PIL's Lanczos filter, which also averages when it shrinks.

    A picture that is not square is squeezed: crop it first.
    """
    return resize_to(pixels, side, side)


def resize_to(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 3) -> (height, width, 3) with PIL's Lanczos filter; the same array where it has that size already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def resize_tensor(images: Tensor, side: int) -> Tensor:
    """(F, C, H, W) -> (F, C, side, side): bilinear, half-pixel centres, no antialiasing (docs/model.md, 2.1)."""
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def resample(images: Tensor, side: int) -> Tensor:
    """Square images (N, C, H, H) at another side: averaged over areas where they shrink, else bilinear."""
    if images.shape[-1] == side:
        return images
    if images.shape[-1] > side:
        return functional.interpolate(images, size=side, mode="area")
    return functional.interpolate(images, size=side, mode="bilinear", align_corners=False)


def clip_pixels(pixels: Pixels, image_size: int = 224) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, image_size, image_size) float32, CLIP's own preprocessing.

    Shortest side to image_size (PIL bicubic), centre crop, CLIP's mean and standard deviation.
    """
    height, width = pixels.shape[:2]
    shortest = min(height, width)
    size = (image_size * width // shortest, image_size * height // shortest)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - image_size) // 2, (size[0] - image_size) // 2
    unit = to_unit(resized[top : top + image_size, left : left + image_size])
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    return (unit - mean) / std


def side_by_side(portrait: Pixels, driver: Pixels, result: Pixels) -> Pixels:
    """Three (H, W, 3) pictures in a row, each brought to the result's height with its own aspect: (H, sum of W, 3)."""
    height = result.shape[0]
    widths = [max(1, round(picture.shape[1] * height / picture.shape[0])) for picture in (portrait, driver, result)]
    pictures = zip((portrait, driver, result), widths, strict=True)
    return np.concatenate([resize_to(picture, height, width) for picture, width in pictures], axis=1)
