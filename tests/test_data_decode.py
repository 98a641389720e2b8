"""The decoder against pixels that are known or that Pillow computes another way."""

import io
import os
import socket
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from kzoo import data
from kzoo.data.decode import to_channels
from kzoo.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def luma(rgb):
    """ITU-R 601 in float64."""
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_colour_comes_back(form, options):
    encoded = encode(Image.fromarray(COLOUR), form, **options)
    np.testing.assert_array_equal(data.decode(encoded, "x"), COLOUR)
    assert data.decode(encoded, "x", 1).shape == (5, 7, 1)
    np.testing.assert_allclose(data.decode(encoded, "x", 1)[..., 0], luma(COLOUR), atol=0.51)
    np.testing.assert_array_equal(data.decode(encoded, "x", 4), np.dstack([COLOUR, np.full((5, 7), 255, np.uint8)]))


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
def test_grey_is_repeated(form):
    np.testing.assert_array_equal(data.decode(encode(Image.fromarray(GREY), form), "x"), np.dstack([GREY] * 3))


def test_jpeg_of_smooth_colour_is_close():
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([4 * y, 5 * x, 255 - 2 * (x + y)], axis=-1).astype(np.uint8)
    decoded = data.decode(encode(Image.fromarray(smooth), "JPEG", quality=98, subsampling=0), "x")
    assert np.abs(decoded.astype(int) - smooth).max() <= 6


def test_palette_and_bilevel():
    palette = Image.fromarray(GREY % 3, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    np.testing.assert_array_equal(data.decode(encode(palette), "x"), np.eye(3, dtype=np.uint8)[GREY % 3] * 255)
    bits = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(data.decode(encode(bits), "x", 1)[..., 0], (GREY > 127) * np.uint8(255))


def test_cmyk_jpeg_is_not_inverted():
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 1] = 255  # magenta ink alone
    decoded = data.decode(encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=98), "x")
    assert np.abs(decoded.astype(int) - [255, 0, 255]).max() <= 6


def test_sixteen_bit_grey_is_scaled_and_not_cut():
    wide = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(data.decode(encode(Image.fromarray(wide)), "x", 1)[..., 0], np.rint(wide / 257))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_picture_is_converted_strip_by_strip_to_the_same(monkeypatch, channels):
    """To what it is converted to whole, which is compared with NumPy's figures above and below."""
    wide = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    pictures = [encode(Image.fromarray(wide)), encode(Image.fromarray(np.dstack([COLOUR, GREY]), "RGBA"))]
    whole = [data.decode(picture, "x", channels) for picture in pictures]
    monkeypatch.setattr(sys.modules[to_channels.__module__], "_STRIP", 14)
    for picture, expected in zip(pictures, whole, strict=True):
        found = data.decode(picture, "x", channels)
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable


def test_a_small_file_of_16_bits_does_not_cost_the_machine():
    encoded = encode(Image.fromarray(np.full((4_000, 4_000), 513, np.uint16)))
    tracemalloc.start()
    assert (data.decode(encoded, "x", 1) == 2).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4_000 * 4_000  # int64 copies took 17 bytes a pixel


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: None, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))]
)
def test_what_is_no_file_is_not_waited_for(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make("pipe.png")
    with pytest.raises(UserError, match="pipe.png (cannot be read|is no file)"):
        data.read_picture("pipe.png")


def test_transparency_is_flattened_onto_white():
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    encoded = encode(Image.fromarray(np.dstack([COLOUR, alpha]), "RGBA"))
    share = alpha[..., None] / 255
    np.testing.assert_allclose(data.decode(encoded, "x"), COLOUR * share + 255 * (1 - share), atol=1)
    np.testing.assert_array_equal(data.decode(encoded, "x", 4)[..., 3], alpha)
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    palette.putpalette([10, 20, 30])
    assert (data.decode(encode(palette, transparency=0), "x") == 255).all()


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (data.decode(encoded, "x") == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(data.decode(encode(Image.fromarray(COLOUR), exif=exif), "x"), turned(COLOUR))


def test_one_pixel_and_fifty_megapixels():
    assert data.decode(encode(Image.new("RGB", (1, 1), "lime")), "x").tolist() == [[[0, 255, 0]]]
    assert data.decode(encode(Image.new("1", (10_000, 5_000))), "x", 1).shape == (5_000, 10_000, 1)


def test_a_bomb_is_refused_with_its_name():
    encoded = bytearray(encode(Image.new("1", (1, 1))))
    encoded[16:24] = (20_000).to_bytes(4, "big") * 2  # the size in the PNG header
    encoded[29:33] = zlib.crc32(encoded[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="bomb.png has too many pixels"):
        data.decode(bytes(encoded), "bomb.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_picture_is_named(form):
    encoded = encode(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), form)
    with pytest.raises(UserError, match="half.pic cannot be decoded"):
        data.decode(encoded[: len(encoded) // 2], "half.pic")


@pytest.mark.parametrize(
    ("encoded", "found"),
    [
        (b"", ", but an empty file"),
        (b"hello", ", but text"),
        (b"P6 1 1 255\nabc\0", ""),
        (encode(Image.fromarray(GREY), "TIFF"), ", but TIFF"),
    ],
)
def test_no_picture_is_named(encoded, found):
    with pytest.raises(
        UserError,
        match=f"notes.jpg cannot be decoded as a picture .no known picture format{found}.; replace or remove the file",
    ):
        data.decode(encoded, "notes.jpg")


def test_other_channel_counts_are_refused():
    with pytest.raises(UserError, match="1, 3 or 4 channels, not 2"):
        data.decode(encode(Image.fromarray(GREY)), "x", 2)


def test_channels_of_arrays_convert_as_pillow_does():
    every = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_channels(every, 1)[..., 0], np.asarray(Image.fromarray(every).convert("L")))
    np.testing.assert_array_equal(to_channels(GREY[..., None], 3), np.dstack([GREY] * 3))
    assert to_channels(COLOUR, 3) is COLOUR
    with pytest.raises(UserError, match="the set has 3 channels and the model takes 4"):
        to_channels(COLOUR, 4, "the set")
