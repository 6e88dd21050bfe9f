"""Pictures in, tensors, resizing: every file a user may hand us, and the laws of the conversions."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from personalive.errors import InputError
from personalive.media.frames import (
    CLIP_MEAN,
    CLIP_STD,
    MAX_PIXELS,
    Pixels,
    clip_pixels,
    decode_picture,
    flatten_alpha,
    load_picture,
    resize_picture,
    resize_tensor,
    side_by_side,
    to_signed,
    to_uint8,
    to_unit,
)

FRAMES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5).map(lambda shape: (*shape, 3)))


def gradient(height: int = 48, width: int = 64) -> Pixels:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and breaks off there: decoding it would fail, reading its header does not."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00" * 64))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class TestLoadPicture:
    @pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "webp", "gif", "ppm"])
    def test_formats_give_the_same_pixels(self, tmp_path: Path, extension: str) -> None:
        flat = np.zeros((40, 50, 3), np.uint8)
        flat[:, 25:] = (200, 100, 50)
        options = {"lossless": True} if extension == "webp" else {}
        path = save(tmp_path / f"a.{extension}", Image.fromarray(flat), **options)
        np.testing.assert_array_equal(load_picture(path), flat)

    def test_result_is_writable_and_contiguous(self, tmp_path: Path) -> None:
        pixels = load_picture(save(tmp_path / "a.png", Image.fromarray(gradient())))
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
    def test_exif_orientation_is_applied(self, tmp_path: Path, orientation: int, turns: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
        np.testing.assert_array_equal(load_picture(path), np.rot90(gradient(), turns))

    def test_transparency_is_laid_on_white(self, tmp_path: Path) -> None:
        rgba = np.zeros((40, 40, 4), np.uint8)
        rgba[:20] = (255, 0, 0, 255)
        rgba[30:] = (0, 0, 0, 128)
        pixels = load_picture(save(tmp_path / "a.png", Image.fromarray(rgba)))
        assert pixels[0, 0].tolist() == [255, 0, 0]
        assert pixels[25, 0].tolist() == [255, 255, 255]
        assert pixels[35, 0].tolist() == [127, 127, 127]

    def test_transparent_palette(self, tmp_path: Path) -> None:
        image = Image.new("P", (40, 40), 0)
        image.putpalette([10, 20, 30, 200, 100, 0])
        image.paste(1, (0, 0, 20, 40))
        pixels = load_picture(save(tmp_path / "a.png", image, transparency=0))
        assert pixels[0, 0].tolist() == [200, 100, 0]
        assert pixels[0, 30].tolist() == [255, 255, 255]

    @pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "CMYK", "RGBA"])
    def test_grey_palette_and_cmyk_become_rgb(self, tmp_path: Path, mode: str) -> None:
        white_left = Image.new("RGB", (40, 40))
        white_left.paste((255, 255, 255), (0, 0, 20, 40))
        extension = "tiff" if mode in ("CMYK", "LA") else "png"
        pixels = load_picture(save(tmp_path / f"a.{extension}", white_left.convert(mode)))
        assert pixels.shape == (40, 40, 3)
        assert pixels[5, 5].tolist() == [255, 255, 255]
        assert pixels[5, 35].tolist() == [0, 0, 0]

    @pytest.mark.parametrize("extension", ["png", "tiff"])
    def test_sixteen_bit_grey_is_scaled_not_clipped(self, tmp_path: Path, extension: str) -> None:
        deep = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 40, axis=0)
        pixels = load_picture(save(tmp_path / f"a.{extension}", Image.fromarray(deep)))
        assert pixels.shape == (40, 64, 3)
        np.testing.assert_allclose(pixels[0, :, 1], np.linspace(0, 255, 64), atol=1.0)

    def test_floating_grey(self, tmp_path: Path) -> None:
        values = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 40, axis=0)
        pixels = load_picture(save(tmp_path / "a.tiff", Image.fromarray(values)))
        np.testing.assert_allclose(pixels[0, :, 0], np.linspace(0, 255, 64), atol=1.0)

    def test_animation_gives_its_first_image(self, tmp_path: Path) -> None:
        images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
        path = save(tmp_path / "a.gif", images[0], save_all=True, append_images=images[1:])
        assert load_picture(path)[0, 0].tolist() == [255, 0, 0]


class TestRefusedPictures:
    def refuse(self, path: Path, *words: str) -> None:
        with pytest.raises(InputError) as caught:
            load_picture(path)
        message = str(caught.value)
        assert path.name in message
        assert "\n" not in message
        for word in words:
            assert word in message

    def test_missing(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "none.png", "does not exist")

    def test_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, "folder")

    @pytest.mark.parametrize(
        ("data", "word"), [(b"", "empty"), (b"hello, I am text\n" * 20, "not a picture"), (bytes(500), "not a picture")]
    )
    def test_not_a_picture(self, tmp_path: Path, data: bytes, word: str) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(data)
        self.refuse(path, word)

    @pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "tiff"])
    def test_cut_short(self, tmp_path: Path, extension: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = save(tmp_path / f"a.{extension}", Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refuse(path)

    @pytest.mark.parametrize("size", [(1, 1), (31, 400), (400, 31)])
    def test_too_small(self, tmp_path: Path, size: tuple[int, int]) -> None:
        self.refuse(save(tmp_path / "a.png", Image.new("RGB", size)), f"{size[0]}x{size[1]}", "32")

    @pytest.mark.parametrize("side", [8001, 9600, 12000, 20000, 60000])
    def test_too_large_is_known_from_the_header(self, tmp_path: Path, side: int) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(png_header(side, side))
        self.refuse(path, "64 megapixels")

    def test_largest_size_passes_the_header_check(self) -> None:
        side = int(MAX_PIXELS**0.5)
        with pytest.raises(InputError, match="damaged"):  # the size is accepted; the data breaks off
            decode_picture(png_header(side, 32))

    def test_no_interpreter_is_started_for_eps(self) -> None:
        file = io.BytesIO()
        Image.new("RGB", (40, 40)).save(file, "EPS")
        with pytest.raises(InputError, match="not a picture that can be read"):
            decode_picture(file.getvalue())

    def test_name_of_an_upload(self) -> None:
        with pytest.raises(InputError, match="the upload is an empty file"):
            decode_picture(b"", "the upload")


class TestTensors:
    @given(FRAMES)
    @settings(max_examples=30, deadline=None)
    def test_round_trip_is_exact(self, frames: Pixels) -> None:
        unit, signed = to_unit(frames), to_signed(frames)
        assert unit.shape == (frames.shape[0], 3, *frames.shape[1:3])
        assert unit.dtype == signed.dtype == torch.float32
        assert 0.0 <= float(unit.min()) <= float(unit.max()) <= 1.0
        assert -1.0 <= float(signed.min()) <= float(signed.max()) <= 1.0
        np.testing.assert_array_equal(to_uint8(unit), frames)
        np.testing.assert_array_equal(to_uint8((signed + 1) / 2), frames)

    def test_ends_of_the_ranges(self) -> None:
        ends = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
        assert to_unit(ends)[:, 0, 0, 0].tolist() == [0.0, 1.0]
        assert to_signed(ends)[:, 0, 0, 0].tolist() == [-1.0, 1.0]

    def test_channels_come_first(self) -> None:
        unit = to_unit(np.full((4, 5, 3), (255, 0, 51), np.uint8))
        assert unit.shape == (1, 3, 4, 5)
        assert unit[0, :, 2, 2].tolist() == pytest.approx([1.0, 0.0, 0.2])
        assert unit.is_contiguous()

    def test_values_outside_are_clipped(self) -> None:
        images = torch.tensor([-0.5, 0.5, 1.5, 2.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
        assert to_uint8(images)[0, :, :, 0].tolist() == [[0, 128], [255, 255]]

    def test_half_precision_and_gradients_are_accepted(self) -> None:
        images = torch.full((1, 3, 2, 2), 0.25, dtype=torch.float16, requires_grad=True)
        assert to_uint8(images).tolist() == np.full((1, 2, 2, 3), 64).tolist()

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 4), (1, 2, 4, 5, 3)])
    def test_wrong_shape_is_an_error(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="uint8 pixels"):
            to_unit(np.zeros(shape, np.uint8))

    def test_wrong_type_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            to_signed(np.zeros((4, 5, 3), np.float32))


class TestResizing:
    def test_picture_keeps_flat_colour_and_becomes_square(self) -> None:
        flat = np.full((30, 50, 3), (10, 200, 90), np.uint8)
        small = resize_picture(flat, 16)
        assert small.shape == (16, 16, 3)
        assert (small == flat[0, 0]).all()

    def test_picture_is_averaged_when_it_shrinks(self) -> None:
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        assert np.abs(resize_picture(stripes, 8).astype(int) - 128).max() <= 8

    def test_tensor_sampling_points(self) -> None:
        ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
        # half-pixel centres: output i of 4 samples the middle between inputs 2i and 2i + 1
        assert resize_tensor(ramp, 4)[0, 0, 0].tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5])

    def test_tensor_of_the_right_size_is_left_alone(self) -> None:
        images = torch.rand(2, 3, 8, 8)
        assert resize_tensor(images, 8) is images

    def test_side_by_side_has_the_height_of_the_result(self) -> None:
        row = side_by_side(
            np.full((64, 32, 3), 1, np.uint8), np.full((50, 100, 3), 2, np.uint8), np.full((128, 128, 3), 3, np.uint8)
        )
        assert row.shape == (128, 64 + 256 + 128, 3)
        assert [int(row[60, column, 0]) for column in (0, 63, 64, 319, 320, 447)] == [1, 1, 2, 2, 3, 3]

    @given(st.integers(0, 255), st.integers(0, 255))
    def test_alpha_blends_linearly(self, colour: int, alpha: int) -> None:
        pixel = np.array([[[colour, colour, colour, alpha]]], np.uint8)
        assert abs(int(flatten_alpha(pixel)[0, 0, 0]) - (colour * alpha + 255 * (255 - alpha)) / 255) <= 0.5


class TestClipPixels:
    def test_flat_colour_is_normalised(self) -> None:
        pixels = clip_pixels(np.full((300, 400, 3), (255, 0, 128), np.uint8))
        assert pixels.shape == (1, 3, 224, 224)
        expected = [(v / 255 - m) / s for v, m, s in zip((255, 0, 128), CLIP_MEAN, CLIP_STD, strict=True)]
        assert pixels[0, :, 100, 100].tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (100, 1000), (37, 36)])
    @pytest.mark.parametrize("side", [32, 224])
    def test_any_aspect_gives_a_square(self, size: tuple[int, int], side: int) -> None:
        assert clip_pixels(gradient(*size), side).shape == (1, 3, side, side)

    def test_centre_is_kept(self) -> None:
        wide = np.zeros((100, 300, 3), np.uint8)
        wide[:, 100:200] = 255
        pixels = clip_pixels(wide, 64) * torch.tensor(CLIP_STD).view(1, 3, 1, 1)
        pixels = pixels + torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
        assert float(pixels[..., 4:-4].min()) > 0.99

    @pytest.mark.slow  # transformers takes its time to import
    def test_agrees_with_transformers(self) -> None:
        transformers = pytest.importorskip("transformers")
        try:
            processor = transformers.CLIPImageProcessor()
            expected = processor(Image.fromarray(gradient(300, 401)), return_tensors="pt")["pixel_values"]
        except ImportError as error:
            pytest.skip(f"transformers' own processor does not run here: {error}")
        torch.testing.assert_close(clip_pixels(gradient(300, 401)), expected, atol=1e-5, rtol=0)
