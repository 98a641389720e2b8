"""Decoding inside the graph against Pillow, for every kind of file a SavedModel takes."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from kzoo.data import decode as reference
from kzoo.exporting.encoded import decode, orientation


def picture(height=37, width=53, channels=3):
    small = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    resized = [Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in resized], -1)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb():
    return Image.fromarray(picture())


@pytest.fixture(scope="module")
def graphs():
    """{channels: the compiled decoder}: as in an artifact, not eagerly."""
    scalar = [tf.TensorSpec((), tf.string)]
    return {c: tf.function(lambda file, c=c: decode(file, c), input_signature=scalar, autograph=False) for c in (1, 3)}


def narrow_grey(depth):
    """A grey PNG of less than 8 bits, which Pillow reads but does not write: all its levels in one row, repeated."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    levels = 2**depth
    row = b"\0" + int("".join(f"{level:0{depth}b}" for level in list(range(levels)) * 8), 2).to_bytes(levels * depth, "big")
    header = struct.pack(">IIBBBBB", levels * 8, 3, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 3)) + chunk(b"IEND", b"")


EXACT = {
    "jpeg": lambda: saved(rgb(), "JPEG", quality=90),
    "jpeg grey": lambda: saved(rgb().convert("L"), "JPEG"),
    "jpeg progressive 4:4:4": lambda: saved(rgb(), "JPEG", progressive=True, subsampling=0),
    "png": lambda: saved(rgb(), "PNG"),
    "png grey": lambda: saved(rgb().convert("L"), "PNG"),
    "png palette": lambda: saved(rgb().quantize(32), "PNG"),
    "png one bit": lambda: saved(rgb().convert("1"), "PNG"),
    "png grey, 2 bits": lambda: narrow_grey(2),
    "png grey, 4 bits": lambda: narrow_grey(4),
    "webp": lambda: saved(rgb(), "WEBP", quality=80),
    "webp lossless": lambda: saved(rgb(), "WEBP", lossless=True),
    "bmp": lambda: saved(rgb(), "BMP"),
    "gif": lambda: saved(rgb().quantize(64), "GIF"),
    "gif animated": lambda: saved(rgb().quantize(64), "GIF", save_all=True, append_images=[rgb().transpose(0).quantize(64)]),
    "one pixel": lambda: saved(rgb().crop((0, 0, 1, 1)), "PNG"),
}
# Alpha is blended in integers that round otherwise; CMYK is converted by another formula.
NEAR = {
    "png alpha": (lambda: saved(Image.fromarray(picture(channels=4)), "PNG"), 1),
    "webp alpha": (lambda: saved(Image.fromarray(picture(channels=4)), "WEBP", lossless=True), 1),
    "jpeg cmyk": (lambda: saved(rgb().convert("CMYK"), "JPEG", quality=95), 2),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", EXACT)
def test_equal_to_pillow(graphs, kind, channels):
    file = EXACT[kind]()
    np.testing.assert_array_equal(graphs[channels](file), reference(file, kind, channels=channels))


@pytest.mark.parametrize("kind", NEAR)
def test_close_to_pillow(graphs, kind):
    make, tolerance = NEAR[kind]
    file = make()
    difference = np.abs(graphs[3](file).numpy().astype(int) - reference(file, kind, channels=3).astype(int))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(graphs, value, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a camera"  # an entry before, and one after
    exif[0x0112] = value
    exif[0x0131] = "kzoo"
    file = saved(rgb(), "JPEG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    assert upright.shape[:2] == ((53, 37) if value > 4 else (37, 53))
    np.testing.assert_array_equal(graphs[3](file), upright)


def test_exif_behind_other_segments():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(rgb(), "JPEG", exif=exif)
    comment = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0" + b"\xff\xed" + (60_000).to_bytes(2, "big") + b"\0" * 59_998
    assert int(orientation(file[:2] + comment + file[2:])) == 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_senseless_orientation_is_none(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert int(orientation(saved(rgb(), "JPEG", exif=exif))) == 1


def test_damaged_headers_end(graphs):
    """Random bytes where the Exif directory stands: any answer in 1..8, no crash, no endless loop."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = bytearray(saved(rgb(), "JPEG", exif=exif))
    random = np.random.default_rng(0)
    compiled = tf.function(orientation, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    for _ in range(50):
        damaged = bytearray(file)
        for at in random.integers(2, 60, 6):
            damaged[at] = random.integers(256)
        assert 1 <= int(compiled(bytes(damaged))) <= 8
    assert int(compiled(b"\xff\xd8")) == 1


def test_not_a_picture(graphs):
    with pytest.raises(tf.errors.InvalidArgumentError):
        graphs[3](b"not a picture at all")
