"""Decoding inside the graph against training's decoder, over one table of every kind of file a SavedModel is given."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kzoo.data import decode as reference
from kzoo.exporting import verify
from kzoo.exporting.encoded import decode, orientation

HEIGHT, WIDTH = 37, 53


def picture(mode="RGB", seed=0):
    """A smooth picture of any of Pillow's modes with 8 bits a channel."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for c in range(channels)]
    return Image.merge(mode, planes)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(depth, colour, *, key=b"", before=b"", after=b"", interlaced=False):
    """A PNG of random samples, of any depth and colour type: Pillow writes few of those that it reads."""
    random = np.random.default_rng(0)
    samples, size = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour], (9, 13)

    def rows(height, width):
        length = (width * samples * depth + 7) // 8
        return b"".join(b"\0" + random.integers(0, 256, length, dtype=np.uint8).tobytes() for _ in range(height))

    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))  # Adam7
    parts = (
        [tuple(len(range(top, size[i], by)) for i, (top, by) in enumerate((p[:2], p[2:]))) for p in passes]
        if interlaced
        else [size]
    )
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows(*part) for part in parts)))
    palette = chunk(b"PLTE", random.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()) if colour == 3 else b""
    transparent = chunk(b"tRNS", key) if key else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + transparent
        + before
        + pixels
        + after
        + chunk(b"IEND", b"")
    )


def exif(value, endian="<"):
    block = Image.Exif()
    block.endian = endian
    block[0x010F], block[0x0112], block[0x0131] = "a camera", value, "kzoo"  # an entry before, and one after
    return block


TIFF = exif(6).tobytes().removeprefix(b"Exif\0\0")
XMP = (b'<rdf:Description tiff:Orientation="6"/>', b"<tiff:Orientation>8</tiff:Orientation>")
TEXT = b"\nexif\n %d\n" % len(TIFF) + TIFF.hex().encode()  # as ImageMagick keeps Exif in older PNGs
ITXT = b"XML:com.adobe.xmp\0\0\0\0\0"


def bmp_with(at, content):
    """A BMP of 24 bits with another header."""
    file = saved(picture(), "BMP")
    return file[:at] + content + file[at + len(content) :]


def gif(**options):
    return saved(picture().quantize(16), "GIF", **options)


def first(depth, samples=1):
    """The first samples of png(depth, ...), to make them transparent."""
    row = np.random.default_rng(0).integers(0, 256, (13 * samples * depth + 7) // 8, dtype=np.uint8)
    return row[: 2 * samples].view(">u2") if depth == 16 else row[:samples] >> (8 - depth)


def colour_key(depth):
    return first(depth, 3).astype(">u2").tobytes()


TAKEN = {
    **{f"png palette, {d} bits": png(d, 3) for d in (1, 2, 4, 8)},
    **{
        f"png palette, {d} bits, partly transparent": png(d, 3, key=bytes([0, 128]) * 2 ** (d - 1))
        for d in (1, 2, 4, 8)
    },
    **{
        f"png palette, {d} bits, one colour transparent": png(d, 3, key=b"\xff" * int(first(d)[0]) + b"\0")
        for d in (1, 2, 4, 8)
    },
    **{f"png grey, {d} bits": png(d, 0) for d in (1, 2, 4, 8, 16)},
    **{f"png grey, {d} bits, transparent colour": png(d, 0, key=first(d).astype(">u2").tobytes()) for d in (8, 16)},
    **{
        f"png {name}, {d} bits": png(d, colour)
        for d in (8, 16)
        for name, colour in (("rgb", 2), ("grey, alpha", 4), ("rgba", 6))
    },
    "png rgb, transparent colour": png(8, 2, key=colour_key(8)),
    "png smooth": saved(picture(), "PNG"),
    "png smooth alpha": saved(picture("RGBA"), "PNG"),
    "png animated": saved(picture("RGBA"), "PNG", save_all=True, append_images=[picture("RGBA", 1)]),
    **{
        f"png interlaced, {d} bits, type {colour}": png(d, colour, interlaced=True)
        for d, colour in ((8, 2), (4, 3), (8, 6), (16, 0))
    },
    "png one pixel": saved(picture().crop((0, 0, 1, 1)), "PNG"),
    "png Exif behind the pixels": png(8, 2, after=chunk(b"eXIf", TIFF)),
    "png XMP": png(8, 2, before=chunk(b"iTXt", ITXT + XMP[0])),
    "png Exif, and as text": png(8, 2, before=chunk(b"eXIf", TIFF) + chunk(b"tEXt", b"Raw profile type exif\0" + TEXT)),
    "jpeg": saved(picture(), "JPEG", quality=90),
    "jpeg grey": saved(picture("L"), "JPEG"),
    "jpeg progressive": saved(picture(), "JPEG", progressive=True),
    **{f"jpeg {name}": saved(picture(), "JPEG", subsampling=i) for i, name in enumerate(("4:4:4", "4:2:2", "4:2:0"))},
    "jpeg rgb": saved(picture(), "JPEG", keep_rgb=True),
    **{f"jpeg XMP {i}": saved(picture(), "JPEG", xmp=xmp) for i, xmp in enumerate(XMP)},
    "jpeg Exif before XMP": saved(picture(), "JPEG", xmp=XMP[0], exif=exif(3)),
    "webp": saved(picture(), "WEBP", quality=80),
    "webp lossless": saved(picture(), "WEBP", lossless=True),
    "webp alpha": saved(picture("RGBA"), "WEBP", quality=80),
    "webp alpha, lossless": saved(picture("RGBA"), "WEBP", lossless=True),
    "webp XMP": saved(picture(), "WEBP", xmp=XMP[1]),
    "webp Exif that its flags deny": saved(picture(), "WEBP", exif=exif(6)).replace(
        b"VP8X\n\0\0\0\x08", b"VP8X\n\0\0\0\0"
    ),
    "gif": gif(),
    "gif interlaced": gif(interlace=1),
    "gif transparent": gif(transparency=3),
    "gif grey, transparent": saved(picture("L"), "GIF", transparency=int(np.asarray(picture("L"))[0, 0])),
    "gif from rgba": saved(picture("RGBA"), "GIF"),
    "gif animated, transparent, with comments": gif(
        save_all=True, append_images=[picture(seed=1).quantize(16)], transparency=3, comment=b"x" * 700, loop=0
    ),
    "bmp": saved(picture(), "BMP"),
    "bmp grey": saved(picture("L"), "BMP"),
    "bmp alpha": saved(picture("RGBA"), "BMP"),
    "bmp palette, 16 colours": saved(picture().quantize(16), "BMP"),
    "bmp from above": bmp_with(22, struct.pack("<i", -HEIGHT)),
    **{
        f"{kind} Exif {value}{endian}": saved(picture(), kind, exif=exif(value, endian), **options)
        for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}))
        for value, endian in [(value, "<>"[value % 2]) for value in (*range(1, 9), 9, 65535)]
    },
}
# TensorFlow's decoders cannot give training's answer, so there is none.
REFUSED = {
    **{
        f"png grey, {d} bits, transparent": (png(d, 0, key=b"\0\1"), "a PNG with a transparent colour")
        for d in (1, 2, 4)
    },
    "png rgb, 16 bits, transparent": (png(16, 2, key=colour_key(16)), "a PNG with a transparent colour"),
    "png Exif as text": (png(8, 2, before=chunk(b"tEXt", b"Raw profile type exif\0" + TEXT)), "in a text chunk"),
    "png Exif as packed text": (
        png(8, 2, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(TEXT))),
        "in a text chunk",
    ),
    "png XMP as packed text": (
        png(8, 2, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP[0]))),
        "in a text",
    ),
    **{
        f"webp animated {mode}": (
            saved(picture(mode), "WEBP", save_all=True, append_images=[picture(mode, 1)]),
            "an animated WebP",
        )
        for mode in ("RGB", "RGBA")
    },
    "gif of parts": (gif()[:6] + struct.pack("<HH", WIDTH + 2, HEIGHT) + gif()[10:], "a GIF whose first frame"),
    "bmp, 1 bit": (saved(picture("L").convert("1"), "BMP"), "a BMP is taken"),
    "bmp, 16 bits": (bmp_with(28, b"\x10\0"), "a BMP is taken"),
    "bmp, compressed": (bmp_with(30, b"\x01"), "a BMP is taken"),
    "bmp of OS/2": (bmp_with(14, b"\x0c"), "a BMP is taken"),
    "text": (b"not a picture at all", "it is no JPEG"),
    "nothing": (b"", "it is no JPEG"),
    "half a jpeg": (saved(picture(), "JPEG")[:300], None),
    "half a png": (saved(picture(), "PNG")[:300], None),
    "half a webp": (saved(picture(), "WEBP")[:100], None),
    "half a gif": (gif()[:100], None),
    "half a bmp": (saved(picture(), "BMP")[:300], None),
    "heads alone": (b"\x89PNG\r\n\x1a\n", None),
}


@pytest.fixture(scope="module")
def graphs():
    """{channels: the compiled decoder}: as in an artifact, not eagerly."""
    scalar = [tf.TensorSpec((), tf.string)]
    return {c: tf.function(lambda file, c=c: decode(file, c), input_signature=scalar, autograph=False) for c in (1, 3)}


@pytest.mark.parametrize("kind", TAKEN)
def test_every_kind_is_decoded_as_in_training(graphs, kind):
    for channels in (1, 3):
        np.testing.assert_array_equal(graphs[channels](TAKEN[kind]), reference(TAKEN[kind], kind, channels=channels))


def test_cmyk_is_close_to_training(graphs):
    """Each library has a formula of its own for CMYK."""
    file = saved(picture("CMYK"), "JPEG", quality=95)
    difference = np.abs(graphs[3](file).numpy().astype(int) - reference(file, "cmyk", channels=3))
    assert difference.max() <= 2


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decoded_as_in_training_is_refused(graphs, kind):
    file, words = REFUSED[kind]
    for graph in graphs.values():
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            graph(file)


def test_the_table_turns_and_flattens():
    """The table itself: training's decoder meets every orientation in each container, and pixels that are not
    opaque.
    """
    turned = {(file[:2], Image.open(io.BytesIO(file)).getexif().get(0x0112)) for file in TAKEN.values()}
    assert turned >= {(magic, value) for magic in (b"\xff\xd8", b"\x89P", b"RI") for value in range(1, 9)}
    faint = {kind for kind, file in TAKEN.items() if reference(file, kind, channels=4)[..., 3].min() < 255}
    assert faint >= {kind for kind in TAKEN if "transparent" in kind or "alpha" in kind} - {
        "png grey, 16 bits, transparent colour",
        "bmp alpha",
    }


def test_an_export_is_verified_with_more_than_plain_files():
    files = [encode(np.asarray(picture())) for encode in verify.ENCODINGS]
    images = [Image.open(io.BytesIO(file)) for file in files]
    assert {image.format for image in images} == {"PNG", "JPEG", "GIF"}
    # a palette of 4 bits
    assert any(image.mode == "P" and file[24] == 4 for image, file in zip(images, files, strict=True))
    assert {(image.format, image.getexif().get(0x0112)) for image in images} >= {("PNG", 8), ("JPEG", 6)}
    assert {image.format for image in images if image.has_transparency_data} == {"PNG", "GIF"}


def test_exif_behind_other_segments(graphs):
    file = saved(picture(), "JPEG", exif=exif(6))
    other = (
        b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
        + b"\xff\xff\xed"
        + (60_000).to_bytes(2, "big")
        + b"\0" * 59_998
    )
    assert graphs[3](file[:2] + other + file[2:]).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize(
    ("kind", "value", "found"), [(3, b"\6\0\0\0", 6), (4, b"\6\0\0\0", 6), (1, b"\6\0\0\0", 0), (3, b"\0\0\0\0", 0)]
)
def test_orientation_of_every_type(kind, value, found):
    block = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, 1) + value
    assert int(orientation(block)) == int(orientation(b"Exif\0\0" + block)) == found
    assert int(orientation(b"")) == 0


@pytest.mark.parametrize(
    "kind", ["JPEG Exif 6<", "PNG Exif 6<", "WEBP Exif 6<", "gif animated, transparent, with comments", "bmp"]
)
def test_damaged_headers_end(graphs, kind):
    """Random bytes where directories, sizes and flags stand: a picture or an error, no crash, no endless loop."""
    random, answers = np.random.default_rng(0), set()
    for _ in range(25):
        damaged = bytearray(TAKEN[kind])
        for at in random.integers(2, 90, 4):
            damaged[at] = random.integers(256)
        try:
            answers.add(graphs[3](bytes(damaged)).shape[-1])
        except tf.errors.InvalidArgumentError as error:
            answers.add(type(error))
    assert answers <= {3, tf.errors.InvalidArgumentError}
