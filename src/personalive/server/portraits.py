"""The pictures that can be animated: those that come with the package, and uploads, kept in memory and bounded."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from personalive import gallery
from personalive.errors import InputError
from personalive.media.frames import Pixels, decode_picture, load_picture, resize_to
from personalive.motion.face_crop import FramedPortrait, Square, crop_square, find_head, frame_portrait
from personalive.motion.face_finder import FaceFinder
from personalive.server.encoding import encode_jpeg
from personalive.server.sessions import UnknownError
from personalive.server.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""What an upload may be, by its content."""

LONGEST_SIDE = 1600
"""Pixels. A longer upload is made smaller: no crop of it needs more."""

SHOWN_SIDE = 384
"""Pixels of the square picture that is shown."""

SMALLEST_CROP = 32

Crop = tuple[float, float, float]
"""Left, top and side of a square, in pixels of the picture."""


@dataclass(frozen=True)
class Portrait:
    """A picture and the square of it that is animated; `face` tells whether one was found."""

    identity: str
    name: str
    pixels: Pixels
    square: Square
    face: bool
    uploaded: bool

    @property
    def crop(self) -> Crop:
        """The square as clients know it."""
        side = self.square.side
        return (round(self.square.x - side / 2, 1), round(self.square.y - side / 2, 1), round(side, 1))

    def cut(self, side: int) -> Pixels:
        """The square as (side, side, 3)."""
        return crop_square(self.pixels, self.square, side)

    def framed(self, side: int) -> FramedPortrait:
        """The square as (side, side, 3), with what the picture shows around it."""
        return frame_portrait(self.pixels, self.square, side)


class Portraits:
    """Portraits by their names. Uploads get random names; the ones unused for longest make room. For many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._finding = threading.Lock()  # one finder, used by one thread at a time
        self._finder: FaceFinder | None = None
        self._paths = gallery.portraits()
        self._built_in: dict[str, Portrait] = {}
        self._uploads: OrderedDict[str, Portrait] = OrderedDict()

    @property
    def built_in(self) -> list[str]:
        """Names of those that come with the package."""
        return list(self._paths)

    def get(self, identity: str) -> Portrait:
        """A portrait. Raises UnknownError."""
        if identity in self._paths:
            return self._load(identity)
        with self._lock:
            portrait = self._uploads.get(identity)
            if portrait is None:
                raise UnknownError("there is no such portrait, or it was forgotten; choose or upload another")
            self._uploads.move_to_end(identity)
            return portrait

    def upload(self, data: bytes, crop: Crop | None) -> Portrait:
        """Takes a picture file's bytes; `crop` in pixels of the picture as displayed, None: found by its face.

        Only the pixels are kept: no EXIF, no name. Raises InputError for what is no picture, too large, or cropped to
        nothing.
        """
        limit = int(self._settings.max_upload_megapixels * 1_000_000)
        pixels = decode_picture(data, "the picture", limit, FORMATS)
        height, width = pixels.shape[:2]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        if scale < 1:
            pixels = resize_to(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
        if crop is None:
            square, face = self._find(pixels)
        else:
            square, face = _square(pixels, (scale * crop[0], scale * crop[1], scale * crop[2])), True
        portrait = Portrait(secrets.token_urlsafe(12), "", pixels, square, face, uploaded=True)
        with self._lock:
            self._uploads[portrait.identity] = portrait
            while len(self._uploads) > self._settings.max_portraits:
                self._uploads.popitem(last=False)
        return portrait

    def crop(self, identity: str, crop: Crop) -> Portrait:
        """Another square of an upload. Raises UnknownError and InputError."""
        portrait = self.get(identity)
        if not portrait.uploaded:
            raise InputError("a built-in portrait cannot be cropped; upload a picture of your own")
        changed = replace(portrait, square=_square(portrait.pixels, crop))
        with self._lock:
            if identity not in self._uploads:
                raise UnknownError("there is no such portrait, or it was forgotten; choose or upload another")
            self._uploads[identity] = changed
        return changed

    def _load(self, name: str) -> Portrait:
        known = self._built_in.get(name)
        if known is None:
            pixels = load_picture(self._paths[name])
            square, face = self._find(pixels)
            known = self._built_in[name] = Portrait(name, name.capitalize(), pixels, square, face, uploaded=False)
        return known

    def _find(self, pixels: Pixels) -> tuple[Square, bool]:
        """The head's square, or without a human face the likeliest one, and whether there is a face."""
        with self._finding:
            self._finder = self._finder or FaceFinder()
            place = find_head(pixels, self._finder, force=True)
            return place.square, place.found


def shown(portrait: Portrait) -> bytes:
    """The square as a JPEG for the page."""
    return encode_jpeg(portrait.cut(SHOWN_SIDE), 88)


def original(portrait: Portrait) -> bytes:
    """The whole upload as a JPEG, for the crop editor."""
    return encode_jpeg(portrait.pixels, 88)


def _square(pixels: Pixels, crop: Crop) -> Square:
    """The crop as a square. It may reach over the border by its own side at most. Raises InputError otherwise."""
    x, y, side = crop
    height, width = pixels.shape[:2]
    if not SMALLEST_CROP <= side <= 2 * max(height, width):
        raise InputError(f"a crop of {side:.4g} pixels is too small or too large for this {width}x{height} picture")
    if not (-side / 2 <= x <= width - side / 2 and -side / 2 <= y <= height - side / 2):
        raise InputError(f"the crop lies outside the {width}x{height} picture; move it onto the head")
    return Square(x + side / 2, y + side / 2, side)
