"""Encoded pictures to pixels inside a TensorFlow graph: the results of `kzoo.data.decode`, and an error where
TensorFlow has no such.

Orientation is applied wherever a container keeps it, transparency is flattened onto white, the first frame of a GIF
counts.
"""

import numpy as np
import tensorflow as tf

TAKES = (
    "JPEG, PNG, WebP, BMP of 8, 24 or 32 bits without compression, or the first frame of a GIF, each of any size; "
    "orientation (Exif, XMP) is applied and transparency flattened onto white. Refused, with the whole batch, are "
    "damaged files, "
    "animated WebP, other BMPs, GIFs whose first frame does not fill them, PNGs with a transparent colour in grey "
    "below 8 bits or in "
    "16-bit colour, and PNGs whose orientation is in a text chunk"
)
ORIENTATION, SHORT, LONG = 0x0112, 3, 4  # the tag, and the types of its value
TEXTS = (
    b"zTXtRaw profile type exif\0",
    b"tEXtRaw profile type exif\0",
    b"iTXtXML:com.adobe.xmp\0\1",
    b"tEXtXML:com.adobe.xmp\0",
)
HEAD = 48  # bytes of a block that hold its name and size
ONE, NOTHING = np.int64(1), np.array(b"")


def decode(encoded, channels):
    """One encoded picture, a scalar string -> uint8 (h, w, channels), channels 1 (ITU-R 601 luma, as Pillow's "L") or
    3.

    Ends in InvalidArgumentError for a damaged picture, an unknown format, and what TAKES says to be refused.
    """

    def starts(magic):
        return tf.strings.substr(encoded, 0, len(magic)) == magic

    formats = {b"\xff\xd8": _jpeg, b"\x89PNG": _png, b"RIFF": _webp, b"GIF8": _gif, b"BM": _bmp}
    found = tf.stack([starts(magic) for magic in formats])
    encoded = _refused(encoded, ~tf.reduce_any(found), "it is no JPEG, PNG, WebP, GIF or BMP, leave it out")
    reads = [lambda read=read: read(encoded) for read in formats.values()]
    rgb, exif, xmp = tf.switch_case(tf.argmax(found, output_type=tf.int32), reads)
    rgb = _upright(tf.ensure_shape(rgb, (None, None, 3)), _turned(exif, xmp))
    return rgb if channels == 3 else _luma(rgb)


def _jpeg(encoded):
    exif, xmp = _contents(
        encoded, 2, _jpeg_segment, (b"\xff\xe1Exif\0\0", b"\xff\xe1http://ns.adobe.com/xap/1.0/\0"), last=b"\xff\xda"
    )
    # The accurate transform is the one Pillow uses; TensorFlow's default is the fast one.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), exif, xmp


def _png(encoded):
    # colour: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
    depth, colour = tf.unstack(_bytes(encoded, 24, 2))
    key, exif, xmp, *texts = _contents(encoded, 8, _png_chunk, (b"tRNS", b"eXIf", b"iTXtXML:com.adobe.xmp\0", *TEXTS))
    has_key, is_text = key != b"", (exif == b"") & tf.reduce_any([text != b"" for text in texts])
    odd = has_key & (((colour == 0) & (depth < 8)) | ((colour == 2) & (depth == 16)))
    encoded = _refused(
        encoded,
        odd,
        "a PNG with a transparent colour, grey below 8 bits or colour of 16 bits, is not taken, save it as RGBA",
    )
    encoded = _refused(
        encoded, is_text, "a PNG with Exif or XMP data in a text chunk is not taken, save it upright and without"
    )

    def wide_grey():  # Pillow's 16-bit grey has no transparency
        grey = tf.cast(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16), tf.int32)
        return tf.repeat(tf.cast((grey + 128) // 257, tf.uint8), 3, axis=-1)

    # Alpha only where the file has it: what TensorFlow adds below 8 bits is not opaque.
    way = tf.where((colour == 0) & (depth == 16), 2, tf.where((colour >= 4) | has_key, 1, 0))
    plain, faint = (
        (lambda: tf.io.decode_png(encoded, channels=3)),
        (lambda: _on_white(tf.io.decode_png(encoded, channels=4))),
    )
    rgb = tf.switch_case(way, [plain, faint, wide_grey])
    return rgb, exif, xmp


def _webp(encoded):
    is_extended, flags = tf.strings.substr(encoded, 12, 4) == b"VP8X", _bytes(encoded, 20, 1)[0]
    animated, has_exif, has_xmp = (is_extended & (flags & flag > 0) for flag in (2, 8, 4))
    # TensorFlow's decoder writes beyond its memory for an animation without alpha.
    encoded = _refused(encoded, animated, "an animated WebP is not taken, save its first frame alone")
    picture = tf.io.decode_webp(encoded)[0]  # it has the file's own channels, 3 or 4
    rgb = tf.cond(tf.shape(picture)[-1] == 4, lambda: _on_white(picture), lambda: picture)
    exif, xmp = _contents(encoded, 12, _riff_chunk, (b"EXIF", b"XMP "))
    return rgb, tf.where(has_exif, exif, b""), tf.where(has_xmp, xmp, b"")  # what the flags do not name is passed over


def _gif(encoded):
    """TensorFlow draws transparent pixels black: here their colour becomes white and no longer transparent before it
    decodes.
    """
    head = _bytes(encoded, 0, 13)
    first = 13 + _table_size(head[10])

    def is_extension(at, *_):
        return _bytes(encoded, at, 1)[0] == 0x21

    def skip(at, control):
        control = _either(_bytes(encoded, at + 1, 1)[0] == 0xF9, at, control)
        end = tf.while_loop(
            lambda at: _bytes(encoded, at, 1)[0] > 0, lambda at: (at + 1 + _bytes(encoded, at, 1)[0],), (at + 2,)
        )[0]
        return end + 1, control

    frame, control = tf.while_loop(is_extension, skip, (first, 0 * ONE))
    extent = _bytes(encoded, frame, 10)
    fills = (extent[0] == 0x2C) & tf.reduce_all(extent[1:9] == tf.concat([tf.zeros(4, tf.int64), head[6:10]], axis=0))
    flags, key = _bytes(encoded, control + 3, 1)[0], _bytes(encoded, control + 6, 1)[0]
    colour = _either(extent[9] & 128 > 0, frame + 10, 13) + 3 * key

    def without_key():
        opaque = tf.gather(tf.constant([bytes([i]) for i in range(256)]), flags & ~ONE)
        return _replaced(_replaced(encoded, control + 3, opaque, 1), colour, b"\xff\xff\xff", 3)

    encoded = _refused(encoded, ~fills, "a GIF whose first frame does not fill it is not taken, save that frame as PNG")
    file = tf.cond((control > 0) & (flags & 1 > 0), without_key, lambda: encoded)
    return tf.io.decode_image(file, channels=3, expand_animations=False), NOTHING, NOTHING


def _bmp(encoded):
    head = _bytes(encoded, 0, 34)
    size, bits, compression = (_number(head[at + width - 1 : at - 1 : -1]) for at, width in ((14, 4), (28, 2), (30, 4)))
    fits = (size >= 40) & (compression == 0) & tf.reduce_any(bits == tf.constant((8, 24, 32), tf.int64))
    encoded = _refused(encoded, ~fits, "a BMP is taken with 8, 24 or 32 bits and no compression, save it as PNG")
    pixels = tf.io.decode_bmp(encoded)

    def from_palette():
        table = tf.reshape(_bytes(encoded, 14 + size, 4 * 256), (-1, 4))[:, 2::-1]
        return tf.gather(tf.cast(table, tf.uint8), tf.cast(pixels[..., 0], tf.int32))

    return tf.cond(bits == 8, from_palette, lambda: pixels[..., :3]), NOTHING, NOTHING


def _on_white(rgba):
    """Pillow's alpha_composite over opaque white, to the bit: a division by 255 with seven more bits of precision."""
    rgb, alpha = tf.split(tf.cast(rgba, tf.int32), (3, 1), axis=-1)
    wide = (rgb * alpha + 255 * (255 - alpha) + 128) * 128
    return tf.cast((wide // 256 + wide) // 256 // 128, tf.uint8)


def _luma(rgb):
    weighted = tf.cast(rgb, tf.int32) * tf.constant((19595, 38470, 7471))
    return tf.cast((tf.reduce_sum(weighted, axis=-1, keepdims=True) + (1 << 15)) // (1 << 16), tf.uint8)


def _upright(image, orientation):
    """Undoes an Exif orientation: those above 4 are transposed, then each is mirrored along none, one or both axes."""

    def one_of(*values):
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, (1,)), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, (0,)), lambda: image)


def _turned(exif, xmp):
    """The orientation, int64 in 1..8, that Exif tells or, where it tells none, the XMP text."""
    value = orientation(exif)
    rest = tf.strings.reduce_join(tf.strings.split(xmp, "tiff:Orientation")[1:2])
    digit = tf.strings.regex_replace(tf.strings.substr(rest, 0, 3), '^(="|>)([1-8])<?$', r"\2")  # ="6 or >6<
    in_xmp = _either(tf.strings.length(digit) == 1, _bytes(digit, 0, 1)[0] - ord("0"), 1)
    return _either((value >= 1) & (value <= 8), value, _either(value == 0, in_xmp, 1))


def orientation(exif):
    """The orientation in the first directory of a TIFF block, with or without Exif's own mark; scalar string -> int64,
    0 for none.
    """
    begin = _either(tf.strings.substr(exif, 0, 6) == b"Exif\0\0", 6, 0)
    little = _bytes(exif, begin, 1)[0] == ord("I")

    def number(digits):
        return _number(tf.where(little, digits[..., ::-1], digits))

    directory = begin + number(_bytes(exif, begin + 4, 4))
    count = number(_bytes(exif, directory, 2))
    data = tf.cast(tf.io.decode_raw(_slice(exif, directory + 2, 12 * count), tf.uint8), tf.int64)
    entries = tf.reshape(data[: tf.size(data) // 12 * 12], (-1, 12))  # a damaged block may end before them
    tags, kinds, short, long = (number(entries[:, i:j]) for i, j in ((0, 2), (2, 4), (8, 10), (8, 12)))
    values = tf.where(kinds == SHORT, short, long)[(tags == ORIENTATION) & ((kinds == SHORT) | (kinds == LONG))]
    return tf.reduce_max(tf.concat([[0 * ONE], values], axis=0))


def _contents(encoded, first, layout, names, last=b"\0"):
    """The content of the first block of each name, "" where none comes before a block called `last` or the end.

    layout: the first bytes of a block -> (name, where its content begins, size of the content, distance to the next
    block).
    """
    end = tf.cast(tf.strings.length(encoded), tf.int64)
    letters = np.array([list(name.ljust(HEAD, b"*")) for name in (*names, last)])
    given = np.array([[i < len(name) for i in range(HEAD)] for name in (*names, last)])

    def step(at, begins, sizes, more):
        name, start, size, distance = layout(_bytes(encoded, at, HEAD))
        length = name.shape[0]
        called = tf.reduce_all((name == letters[:, :length]) | ~given[:, :length], axis=1)
        found = called[:-1] & (begins == 0)
        begins, sizes = tf.where(found, at + start, begins), tf.where(found, size, sizes)
        return at + distance, begins, sizes, ~called[-1] & (at + distance < end)

    none = np.zeros(len(names), np.int64)
    _, begins, sizes, _ = tf.while_loop(lambda *state: state[-1], step, (ONE * first, none, none, True))
    return [_slice(encoded, begins[i], sizes[i]) for i in range(len(names))]


def _jpeg_segment(head):
    size = _number(head[2:4])  # of the segment without its marker; any number of FF may stand before that
    return tf.concat([head[:2], head[4:]], axis=0), 4, size - 2, _either(head[1] == 0xFF, 1, 2 + size)


def _png_chunk(head):
    size = _number(head[:4])
    return head[4:], 8, size, 12 + size


def _riff_chunk(head):
    size = _number(head[7:3:-1])
    return head[:4], 8, size, 8 + size + size % 2


def _refused(encoded, where, why):
    """The encoded picture, after an error with these words where the condition holds."""
    with tf.control_dependencies([tf.debugging.Assert(~where, [why])]):
        return tf.identity(encoded)


def _table_size(flags):
    """Bytes of a GIF's colour table."""
    return _either(flags & 128 > 0, 3 * tf.bitwise.left_shift(2 * ONE, flags & 7), 0)


def _replaced(encoded, at, content, size):
    """With other bytes in the place of `size` from `at` on."""
    return tf.strings.join([_slice(encoded, 0, at), content, _slice(encoded, at + size, tf.int64.max)])


def _number(digits):
    """int64 (..., n) -> (...): the numbers of these digits of base 256, the highest first."""
    return tf.reduce_sum(digits * 256 ** np.arange(digits.shape[-1])[::-1], axis=-1)


def _bytes(encoded, at, count):
    """int64 (count,), zeros where the file has ended."""
    return tf.cast(tf.io.decode_raw(_slice(encoded, at, count), tf.uint8, fixed_length=count), tf.int64)


def _slice(encoded, at, count):
    """A part of a file, as much of it as there is."""
    at = tf.minimum(tf.cast(at, tf.int64), tf.cast(tf.strings.length(encoded), tf.int64))
    return tf.strings.substr(encoded, at, tf.cast(count, tf.int64))


def _either(condition, value, other):
    return tf.where(condition, tf.cast(value, tf.int64), tf.cast(other, tf.int64))
