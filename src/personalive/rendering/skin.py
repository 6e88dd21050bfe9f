"""The painted skin: one picture wrapped around the resting head as a cylinder, height for bumps in its alpha channel.

The cylinder's axis is vertical through (0, y, AXIS_Z); angle 0 faces the camera. Identity shapes carry the paint along,
because it is looked up by a vertex's place in the mean head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from personalive.rendering.avatar import Person
from personalive.rendering.beard import beard_mask
from personalive.rendering.hairline import scalp_depth
from personalive.rendering.looks import BeardStyle
from personalive.rendering.mesh import HeadMesh, smoothstep

WIDTH, HEIGHT = 1024, 640
LOW, TOP = -20.0, 15.0  # cm, the cylinder's ends
AXIS_Z = -2.0
FRONT_RADIUS = 11.5  # cm, turns angles on the face into distances
BEARD_STYLES: tuple[BeardStyle, ...] = ("none", "stubble", "full", "goatee", "moustache")
OVERSAMPLE = 3  # of brow hairs

Array = NDArray[np.float64]


def to_texture(points: NDArray[np.floating]) -> Array:
    """Points (..., 3) of the resting head, cm -> texture pixels (..., 2), x right, y down."""
    angle = np.arctan2(points[..., 0], points[..., 2] - AXIS_Z)
    column = (angle / (2 * np.pi) + 0.5) * WIDTH
    row = (TOP - points[..., 1]) / (TOP - LOW) * HEIGHT
    return np.stack([column, row], axis=-1)


class SkinPainter:
    """Masks of lips, cheeks, beard and the like on the mean head, made once; `paint` applies them to a person."""

    def __init__(self, head: HeadMesh) -> None:
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
        self.angle: Array = (columns / WIDTH - 0.5) * 2 * np.pi
        self.height: Array = TOP - rows / HEIGHT * (TOP - LOW)
        self.across: Array = self.angle * FRONT_RADIUS  # cm along the surface, right only on the face
        self.marks = to_texture(head.model.vertices[head.model.landmark_vertices])
        self.lips = _filled([_closed_curve(self.marks[48:60])], 1.6)
        self.lip_edge = _filled([_closed_curve(self.marks[48:60])], 6.0)
        self.lip_gap = _filled([_closed_curve(self.marks[60:68])], 1.5)
        self.eyes = _filled([_closed_curve(self.marks[36:42]), _closed_curve(self.marks[42:48])], 1.6)
        self.cheeks = self._blob(5.8, -0.4, 2.4, 2.0) + self._blob(-5.8, -0.4, 2.4, 2.0)
        self.nose = self._blob(0.0, 0.5, 1.2, 1.1)
        self.under_eyes = self._blob(3.3, 2.2, 1.7, 0.6) + self._blob(-3.3, 2.2, 1.7, 0.6)
        self.eye_lids = self._blob(3.3, 4.4, 2.0, 0.6) + self._blob(-3.3, 4.4, 2.0, 0.6)
        self.beards = {style: beard_mask(self.across, self.height, style) * (1 - self.lips) for style in BEARD_STYLES}
        self.wrinkles = self._wrinkles()
        self.scalp = self._scalp(head)

    def paint(self, person: Person) -> NDArray[np.uint8]:
        """Texture (HEIGHT, WIDTH, 4): sRGB skin colour and bump height."""
        rng = np.random.default_rng([person.seed, 3])
        broad, patches, pores = _noise(rng, 70, 3), _noise(rng, 12, 2), _noise(rng, 3, 1)
        tint = np.array([0.6, 1.0, 1.0])
        rough = 0.7 + 0.9 * person.age
        variation = 1 + (0.022 * broad + 0.013 * rough * patches + 0.015 * rough * pores)[..., None] * tint
        colour = person.skin * variation
        colour = _blend(colour, colour * self._flush(person), (self.cheeks + 0.7 * self.nose) * person.blush)
        colour = _blend(colour, colour * np.array([0.80, 0.74, 0.80]), self.under_eyes * (0.25 + 0.5 * person.age))
        colour = _blend(colour, person.shadow_colour, self.eye_lids * person.eye_shadow)
        colour = _blend(colour, colour * np.array([0.72, 0.62, 0.58]), self.wrinkles * (0.08 + 0.85 * person.age**1.3))
        if person.freckles > 0:
            colour = _blend(colour, colour * np.array([0.76, 0.62, 0.54]), _spots(rng, 340) * person.freckles)
        if person.spots > 0:
            dark = np.clip((_noise(rng, 10, 2) + 0.5 * broad - 1.9) * 1.2, 0, 0.6)
            colour = _blend(colour, colour * np.array([0.74, 0.62, 0.52]), dark * person.spots)
        if person.age > 0.5:
            lines = np.abs(_noise(rng, 26, 2))
            fine = smoothstep(0.10, 0.0, lines) * (self.under_eyes + self.eye_lids + 0.5 * self.cheeks).clip(0, 1)
            colour = _blend(colour, colour * np.array([0.78, 0.70, 0.66]), fine * (person.age - 0.4))
        colour = self._moles(colour, rng)
        lip_colour = person.lip * (1 + 0.03 * pores[..., None])
        colour = _blend(colour, lip_colour, np.clip(self.lips * person.lip_strength + 0.15 * self.lip_edge, 0, 1))
        colour = _blend(colour, person.lip * 0.25, self.lip_gap * 0.85)
        beard = person.facial_hair
        stubble = self.beards[beard.style] * beard.density * np.clip(0.85 + 0.22 * pores + 0.10 * patches, 0, 1)
        colour = _blend(colour, person.hair * 0.9, stubble * 0.85)
        colour = _blend(colour, person.skin * np.array([0.30, 0.20, 0.18]), self.eyes * person.eye_line)
        brows = self._brows(person, rng)
        colour = _blend(colour, person.hair * 0.7 + 0.02, brows)
        if person.hair_style != "bald":
            under_hair = smoothstep(-0.35, 1.3, self.scalp - person.receding * (self.height > 6) + 0.3 * patches)
            colour = _blend(colour, person.hair * 0.8, under_hair * (0.75 if person.hair_style == "buzz" else 0.92))
        bump = (
            0.5
            + 0.06 * rough * pores
            + 0.06 * rough * patches
            - 0.5 * self.wrinkles * person.age
            + 0.05 * stubble * pores
        )
        stacked = np.concatenate([colour, bump[..., None]], axis=-1)
        return np.asarray(np.clip(stacked, 0, 1) * 255 + 0.5, np.uint8)

    def _blob(self, x: float, y: float, width: float, height: float) -> Array:
        """A soft spot on the face at x, y (cm)."""
        return np.asarray(np.exp(-(((self.across - x) / width) ** 2) - ((self.height - y) / height) ** 2))

    def _flush(self, person: Person) -> Array:
        """What a blush does to the skin's colour; darker skin shows less of it."""
        light = float(np.clip((person.skin.mean() - 0.3) / 0.4, 0, 1))
        return np.array([1.0, 0.88 - 0.08 * light, 0.85 - 0.06 * light])

    def _wrinkles(self) -> Array:
        """Nasolabial folds, forehead lines and crow's feet as soft dark lines."""
        image = Image.new("L", (WIDTH * 2, HEIGHT * 2), 0)
        draw = ImageDraw.Draw(image)
        for side in (-1, 1):
            fold = np.array([[1.9, 0.2], [2.8, -1.0], [3.5, -2.4], [3.7, -3.6]]) * [side, 1]
            draw.line([self._pixel(*point) for point in fold], fill=200, width=5, joint="curve")
            for rise in (-0.6, 0.1, 0.8):
                draw.line([self._pixel(side * 6.0, 3.4), self._pixel(side * 7.6, 3.4 + rise)], fill=90, width=3)
        for level, strength in ((8.2, 120), (9.0, 140), (9.8, 100)):
            xs = np.linspace(-4.2, 4.2, 24)
            line = [self._pixel(x, level + 0.18 * np.sin(x * 1.3 + level) + 0.02 * x * x) for x in xs]
            draw.line(line, fill=strength, width=3)
        soft = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.6))
        return np.asarray(soft, np.float64) / 255

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        """Face position (cm along the surface, cm high) -> pixel of the doubled texture."""
        column = (x / FRONT_RADIUS / (2 * np.pi) + 0.5) * WIDTH * 2
        return column, (TOP - y) / (TOP - LOW) * HEIGHT * 2

    def _scalp(self, head: HeadMesh) -> Array:
        """Depth inside the hairline (cm) of every texel, at the head's outermost surface there."""
        coarse_rows, coarse_columns = HEIGHT // 8, WIDTH // 8
        points = head.model.vertices[np.unique(head.triangles["skin"])]
        place = (to_texture(points) / 8).astype(int)
        rows, columns = place[:, 1].clip(0, coarse_rows - 1), place[:, 0] % coarse_columns
        radius = np.zeros((coarse_rows, coarse_columns))
        np.maximum.at(radius, (rows, columns), np.hypot(points[:, 0], points[:, 2] - AXIS_Z))
        known = (radius > 0).astype(float)
        spread = gaussian_filter(radius, 2, mode=("nearest", "wrap"))
        share = gaussian_filter(known, 2, mode=("nearest", "wrap"))
        radius = np.where(known > 0, radius, spread / np.maximum(share, 1e-3))
        fine = np.asarray(Image.fromarray(radius.astype(np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        surface = np.stack([fine * np.sin(self.angle), self.height, fine * np.cos(self.angle) + AXIS_Z], axis=-1)
        return scalp_depth(surface)

    def _moles(self, colour: Array, rng: np.random.Generator) -> Array:
        for _ in range(int(rng.integers(0, 4))):
            spot = self._blob(rng.uniform(-7, 7), rng.uniform(-6, 9), 0.11, 0.11)
            colour = _blend(colour, colour * 0.4, spot * 0.8)
        return colour

    def _brows(self, person: Person, rng: np.random.Generator) -> Array:
        """Brow coverage drawn hair by hair along the brow landmarks (17-21 and 22-26)."""
        left, right = WIDTH // 2 - 256, WIDTH // 2 + 256
        upper, lower = 100, 290
        image = Image.new("L", ((right - left) * OVERSAMPLE, (lower - upper) * OVERSAMPLE), 0)
        draw = ImageDraw.Draw(image)
        pixels_per_cm = HEIGHT / (TOP - LOW)
        offset = np.array([left, upper])
        for outward, marks in ((-1, self.marks[21:16:-1]), (1, self.marks[22:27])):
            curve = CubicSpline(np.linspace(0, 1, 5), marks - offset)
            for place in rng.beta(1.1, 1.25, 330):
                half = person.brow_thickness * pixels_per_cm * (1 - 0.7 * place**1.6) * min(1.0, 0.55 + 2 * place)
                root = curve(place) + np.array([0, half * rng.normal(0, 0.55)])
                lean = np.radians(65 * (1 - place) ** 2 - 10 - 14 * place + rng.normal(0, 9))
                tip = root + rng.uniform(6, 12) * np.array([outward * np.cos(lean), -0.8 * np.sin(lean)])
                ends = [*(root * OVERSAMPLE), *(tip * OVERSAMPLE)]
                draw.line(ends, fill=int(rng.uniform(90, 240)), width=OVERSAMPLE - 1)
        small = image.resize((right - left, lower - upper), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.55))
        coverage = np.zeros((HEIGHT, WIDTH))
        coverage[upper:lower, left:right] = np.asarray(small, np.float64) / 255
        return np.asarray(np.clip(coverage * 1.5, 0, 1) * 0.8)


def _blend(under: Array, over: Array, share: Array) -> Array:
    """Mix colour pictures (H, W, 3) by a share (H, W)."""
    weight = np.clip(share, 0, 1)[..., None]
    return np.asarray(under * (1 - weight) + over * weight)


def _noise(rng: np.random.Generator, cell: float, octaves: int) -> Array:
    """Smooth noise (HEIGHT, WIDTH) of about unit deviation, its largest features `cell` pixels wide."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    strength, norm = 1.0, 0.0
    for _ in range(octaves):
        coarse = rng.standard_normal((int(HEIGHT / cell) + 2, int(WIDTH / cell) + 2)).astype(np.float32)
        enlarged = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += strength * np.asarray(enlarged)
        norm += strength**2
        strength, cell = strength * 0.6, cell / 2
    return np.asarray(total / np.sqrt(norm), np.float64)


def _spots(rng: np.random.Generator, count: int) -> Array:
    """Freckles over nose and cheeks."""
    image = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        column = (rng.normal(0, 0.42) / (2 * np.pi) + 0.5) * WIDTH
        row = (TOP - rng.normal(1.0, 1.8)) / (TOP - LOW) * HEIGHT
        radius = rng.uniform(0.4, 1.2)
        draw.ellipse([column - radius, row - radius, column + radius, row + radius], fill=int(rng.uniform(60, 210)))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float64) / 255


def _closed_curve(points: Array) -> Array:
    """A smooth closed curve through texture points."""
    ring = np.vstack([points, points[:1]])
    curve = CubicSpline(np.arange(len(ring)), ring, bc_type="periodic")
    return np.asarray(curve(np.linspace(0, len(points), len(points) * 8, endpoint=False)))


def _filled(shapes: list[Array], blur: float) -> Array:
    """Coverage (HEIGHT, WIDTH) of filled outlines, softened."""
    image = Image.new("L", (WIDTH * 2, HEIGHT * 2), 0)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        draw.polygon([(float(x), float(y)) for x, y in shape * 2], fill=255)
    soft = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(soft, np.float64) / 255
