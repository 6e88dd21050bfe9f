"""Backdrops behind a person: walls, rooms, lights, leaves, shelves, bricks, landscapes, in and out of focus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter

from personalive.rendering.textures import SIDE, TEXTURES, Array, pixel


def paint_background(seed: int) -> NDArray[np.uint8]:
    """Backdrop (SIDE, SIDE, 3), sRGB, of the person with this seed."""
    rng = np.random.default_rng([seed, 2])
    base = _muted(rng.uniform(0.06, 0.95, 3), 0.35)
    other = _muted(rng.uniform(0.06, 0.95, 3), 0.4)
    if rng.random() < 0.4:
        soft = (_wall, _cloud, _room, _lights)
        picture = soft[int(rng.integers(len(soft)))](rng, base, other)
    else:
        picture = TEXTURES[int(rng.integers(len(TEXTURES)))](rng, base, other)
        blur = float(rng.choice([0.0, 0.7, 2.0, 5.0]))  # in focus, nearly, out of focus
        picture = gaussian_filter(picture, (blur, blur, 0)) if blur else picture
        picture = picture * _falloff(rng)[..., None]
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, np.uint8)


def _falloff(rng: np.random.Generator) -> Array:
    """Light over the picture (SIDE, SIDE): brighter towards one side."""
    rows, columns = _grid()
    across, down = rng.normal(0, 0.25, 2)
    return np.asarray(np.clip(1 + across * (columns - 0.5) + down * (rows - 0.5), 0.3, 1.5))


def _muted(colour: Array, saturation: float) -> Array:
    """The colour pulled towards its own grey."""
    return np.asarray(colour * saturation + colour.mean() * (1 - saturation))


def _grid() -> tuple[Array, Array]:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1.0)
    return rows, columns


def _wall(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """A studio wall: a gradient and a soft spot of light."""
    rows, columns = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    along = (columns - 0.5) * np.cos(angle) + (rows - 0.5) * np.sin(angle)
    share = np.clip(along * 0.7 + 0.35, 0, 1)[..., None]
    centre = rng.uniform(0.2, 0.8, 2)
    spot = np.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / 0.12)[..., None]
    return np.asarray(base * (1 - share * 0.6) + other * share * 0.6 + spot * rng.uniform(0, 0.2))


def _cloud(rng: np.random.Generator, base: Array, _other: Array) -> Array:
    """A mottled photographer's cloth, darker to the edge."""
    rows, columns = _grid()
    noise = gaussian_filter(rng.standard_normal((SIDE, SIDE)), rng.uniform(12, 30), mode="wrap")
    noise = noise / noise.std()
    edge = (rows - 0.5) ** 2 + (columns - 0.5) ** 2
    return np.asarray(base * (1.0 + 0.10 * noise - 0.6 * edge)[..., None])


def _room(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """Furniture, doors and frames far out of focus."""
    image = Image.new("RGB", (SIDE, SIDE), pixel(base))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, SIDE * rng.uniform(0.5, 0.9), SIDE, SIDE], fill=pixel(other * 0.6))
    for _ in range(int(rng.integers(5, 12))):
        centre, extent = rng.uniform(0, SIDE, 2), rng.uniform(12, 90, 2)
        colour = pixel((base if rng.random() < 0.4 else other) * rng.uniform(0.4, 1.5) + rng.normal(0, 0.06, 3))
        draw.rectangle([*(centre - extent / 2), *(centre + extent / 2)], fill=colour)
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(4, 12)))
    return np.asarray(blurred, np.float64) / 255


def _lights(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """Evening street: round lights over a dark gradient."""
    rows, _ = _grid()
    picture = (base * 0.5)[None, None] * (1 - rows[..., None] * 0.5)
    image = Image.new("RGB", (SIDE, SIDE), (0, 0, 0))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(6, 22))):
        centre, radius = rng.uniform(0, SIDE, 2), rng.uniform(4, 18)
        colour = pixel(np.clip(other * rng.uniform(0.4, 1.1) + rng.normal(0, 0.08, 3), 0, 1) * 0.6)
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=colour)
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 4)))
    return np.asarray(picture + np.asarray(blurred, np.float64) / 255)
