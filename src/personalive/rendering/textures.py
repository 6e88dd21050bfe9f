"""Textured backdrops: leaves, shelves, bricks, landscapes, brush strokes, wallpaper, house fronts; all in focus.

Each takes a random generator and two colours and gives a picture (SIDE, SIDE, 3), about [0, 1], sRGB.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

SIDE = 256  # pixels

Array = NDArray[np.float64]


def pixel(colour: Array) -> tuple[int, int, int]:
    """A colour (3,) in [0, 1] as Pillow wants it."""
    red, green, blue = (np.clip(colour, 0, 1) * 255).astype(int)
    return int(red), int(green), int(blue)


def _noise(rng: np.random.Generator, cell: float, octaves: int = 4) -> Array:
    """Noise (SIDE, SIDE) of unit deviation with features from `cell` pixels down."""
    total = np.zeros((SIDE, SIDE))
    for octave in range(octaves):
        size = max(cell / 2**octave, 0.7)
        layer = gaussian_filter(rng.standard_normal((SIDE, SIDE)), size, mode="wrap")
        total += layer / layer.std() * 0.65**octave
    return np.asarray(total / total.std())


def _shown(image: Image.Image) -> Array:
    return np.asarray(image, np.float64) / 255


def _leaves(rng: np.random.Generator, base: Array, _other: Array) -> Array:
    """Foliage: many small ellipses of greens over darkness, lit from above."""
    green = np.array([rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.6), rng.uniform(0.1, 0.3)])
    if rng.random() < 0.25:
        green = green[[1, 0, 2]] * np.array([1.0, 0.8, 0.6])  # autumn
    image = Image.new("RGB", (SIDE, SIDE), pixel(green * 0.25))
    draw = ImageDraw.Draw(image)
    size = rng.uniform(3, 12)
    depth = _noise(rng, 30, 2)
    for place in rng.uniform(0, SIDE, (int(45_000 / size**1.6), 2)):
        light = 0.55 + 0.35 * depth[int(place[1]), int(place[0])] + rng.normal(0, 0.18)
        half = size * rng.uniform(0.4, 1.0) * np.array([1.0, rng.uniform(0.3, 0.9)])[:: rng.choice([1, -1])]
        draw.ellipse([*(place - half), *(place + half)], fill=pixel(green * light * 1.5 + rng.normal(0, 0.03, 3)))
    return _shown(image) * 0.85 + base * 0.06


def _shelves(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """A shelf of books."""
    image = Image.new("RGB", (SIDE, SIDE), pixel(base * 0.25))
    draw = ImageDraw.Draw(image)
    shelf, y = rng.uniform(40, 80), -float(rng.uniform(0, 40))
    while y < SIDE:
        x = 0.0
        while x < SIDE:
            width, missing = rng.uniform(5, 13), rng.uniform(2, 0.35 * shelf)
            grey = rng.uniform(0.1, 0.8)
            colour = grey + (rng.uniform(0.05, 0.9, 3) - grey) * 0.5
            draw.rectangle([x, y + missing, x + width - 1, y + shelf - 5], fill=pixel(colour))
            draw.line([x + 2, y + missing + 8, x + width - 3, y + missing + 8], fill=pixel(colour * 0.4 + 0.5))
            x += width + (rng.random() < 0.1) * 8
        draw.rectangle([0, y + shelf - 5, SIDE, y + shelf], fill=pixel(other * 0.7))
        y += shelf
    return _shown(image)


def _tiles(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """Bricks, tiles or boards with joints."""
    high, wide = rng.uniform(8, 30), rng.uniform(16, 90)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    if rng.random() < 0.3:
        rows, columns = columns, rows
    course = np.floor(rows / high)
    shift = columns + (course % 2) * wide * rng.choice([0.0, 0.5])
    number = (course * 131 + np.floor(shift / wide) * 17).astype(int)
    tone = rng.normal(1, rng.uniform(0.03, 0.16), 4096)[number % 4096]
    joint = np.minimum(rows % high, shift % wide) < rng.uniform(0.8, 2.2)
    wall = base * (tone * (1 + 0.06 * _noise(rng, 3, 3)))[..., None]
    return np.asarray(np.where(joint[..., None], base * 0.4 + other * 0.3, wall))


def _landscape(rng: np.random.Generator, base: Array, _other: Array) -> Array:
    """Sky with clouds, hills behind one another, a rough foreground."""
    rows = np.mgrid[0:SIDE, 0:SIDE][0] / (SIDE - 1.0)
    sky = np.array([0.45, 0.6, 0.8]) * rng.uniform(0.5, 1.2) + rng.normal(0, 0.08, 3)
    clouds = np.clip(_noise(rng, 25, 5) - 0.3, 0, 1.5)[..., None] * 0.3
    picture = sky * (1.2 - 0.3 * rows[..., None]) + clouds
    ground = np.array([0.3, 0.38, 0.2]) * rng.uniform(0.5, 1.3) + rng.normal(0, 0.06, 3)
    for distance in np.linspace(0, 1, int(rng.integers(2, 5))):
        line = 0.25 + 0.5 * distance + 0.06 * _noise(rng, 20 - 8 * distance, 5)[int(rng.integers(SIDE))][None]
        tone = ground * distance + (sky * 0.6 + ground * 0.3) * (1 - distance)
        rough = 1 + (0.1 + 0.25 * distance) * _noise(rng, 6, 4)
        picture = np.where((rows > line)[..., None], tone * rough[..., None], picture)
    return np.asarray(picture * 0.9 + base * 0.05)


def _strokes(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """A painter's ground: brush strokes of near colours, canvas under them."""
    image = Image.new("RGB", (SIDE, SIDE), pixel(base))
    draw = ImageDraw.Draw(image)
    flow = _noise(rng, 40, 2)
    for place in rng.uniform(0, SIDE, (1400, 2)):
        turn = 2.0 * flow[int(place[1]), int(place[0])]
        half = rng.uniform(4, 14) * np.array([np.cos(turn), np.sin(turn)])
        mixed = base + (other - base) * rng.beta(0.8, 2.2) * 0.6
        ends = [*(place - half), *(place + half)]
        draw.line(ends, fill=pixel(mixed * rng.uniform(0.88, 1.1)), width=int(rng.integers(3, 10)))
    return np.asarray(_shown(image) * (1 + 0.04 * _noise(rng, 1.2, 2))[..., None])


def _paper(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """Wallpaper or a curtain: a repeated motif, or folds."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    if rng.random() < 0.4:
        folds = np.sin(columns / rng.uniform(4, 14) + 0.8 * _noise(rng, 30, 2) + 0.01 * rows)
        return np.asarray(base * (1 + 0.25 * folds + 0.04 * _noise(rng, 1.5, 2))[..., None])
    tall, wide = (int(value) for value in rng.integers(14, 60, 2))
    motif = gaussian_filter(rng.standard_normal((tall, wide)), rng.uniform(1.0, 4.0), mode="wrap")
    mask = (np.tile(motif, (SIDE // tall + 1, SIDE // wide + 1))[:SIDE, :SIDE] > 0.5 * motif.std())[..., None]
    return np.asarray(np.where(mask, base * 0.6 + other * 0.4, base) * (1 + 0.03 * _noise(rng, 2, 2))[..., None])


def _facade(rng: np.random.Generator, base: Array, other: Array) -> Array:
    """A house front: rows of windows, some lit."""
    image = Image.new("RGB", (SIDE, SIDE), pixel(base))
    draw = ImageDraw.Draw(image)
    wide, tall = rng.uniform(22, 60, 2)
    inner = rng.uniform(0.45, 0.8)
    left = -wide * rng.random()
    for y in np.arange(-tall * rng.random(), SIDE, tall):
        draw.line([0, y, SIDE, y], fill=pixel(base * 0.8), width=2)
        for x in np.arange(left, SIDE, wide):
            glass = np.array([0.9, 0.75, 0.45]) if rng.random() < 0.25 else other * rng.uniform(0.15, 0.6)
            box = [x, y + 4, x + wide * inner, y + 4 + tall * inner]
            draw.rectangle(box, fill=pixel(glass), outline=pixel(base * 1.25))
            draw.line([x + wide * inner / 2, box[1], x + wide * inner / 2, box[3]], fill=pixel(base * 1.2))
    return np.asarray(_shown(image) * (1 + 0.03 * _noise(rng, 2, 3))[..., None])


TEXTURES: tuple[Callable[[np.random.Generator, Array, Array], Array], ...] = (
    _leaves,
    _shelves,
    _tiles,
    _landscape,
    _strokes,
    _paper,
    _facade,
)
