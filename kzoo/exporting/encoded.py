"""Encoded pictures to pixels inside a TensorFlow graph, with the results of `kzoo.data.decode`.

JPEG (grey, colour, CMYK; Exif orientation applied), PNG (transparency flattened onto white), WebP, BMP and the first frame of a GIF.
"""

import tensorflow as tf

EXIF_WITHIN = 1 << 17  # bytes: two segments of the largest size, which is where every camera writes it
ORIENTATION = 0x0112


def decode(encoded, channels):
    """One encoded picture, a scalar string -> uint8 (h, w, channels), channels 1 (ITU-R 601 luma, as Pillow's "L") or 3."""

    def starts(magic):
        return tf.strings.substr(encoded, 0, len(magic)) == magic

    rgb = tf.case(
        [
            (starts(b"\xff\xd8"), lambda: _jpeg(encoded)),
            (starts(b"\x89PNG"), lambda: _png(encoded)),
            (starts(b"RIFF"), lambda: _webp(encoded)),
        ],
        default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    rgb = tf.ensure_shape(rgb, (None, None, 3))
    return rgb if channels == 3 else _luma(rgb)


def _jpeg(encoded):
    # The accurate transform is the one Pillow uses; TensorFlow's default is the fast one.
    return _upright(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), orientation(encoded))


def _png(encoded):
    # Grey of 1, 2 or 4 bits gets a senseless alpha from TensorFlow. Byte 24 is the depth, byte 25 the colour type, 0 for grey.
    depth, colour = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), 2)
    narrow = tf.logical_and(colour == 0, depth < 8)
    return tf.cond(narrow, lambda: tf.io.decode_png(encoded, channels=3), lambda: _on_white(tf.io.decode_png(encoded, channels=4)))


def _webp(encoded):
    first = tf.io.decode_webp(encoded)[0]  # of the frames; it has the file's own channels, 3 or 4
    return tf.cond(tf.shape(first)[-1] == 4, lambda: _on_white(first), lambda: first)


def _on_white(rgba):
    rgb, alpha = tf.split(tf.cast(rgba, tf.int32), (3, 1), axis=-1)
    return tf.cast((rgb * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _luma(rgb):
    weighted = tf.cast(rgb, tf.int32) * tf.constant((19595, 38470, 7471))
    return tf.cast((tf.reduce_sum(weighted, axis=-1, keepdims=True) + (1 << 15)) // (1 << 16), tf.uint8)


def _upright(image, orientation):
    """Undoes an Exif orientation: those above 4 are transposed, then each is mirrored along none, one or both axes."""

    def one_of(*values):
        return tf.reduce_any(orientation == tf.constant(values))

    image = tf.cond(one_of(5, 6, 7, 8), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, (1,)), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, (0,)), lambda: image)


def orientation(encoded):
    """The Exif orientation of a JPEG, scalar string -> scalar int32 in 1..8; 1 where none, or none that makes sense, is given."""
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, EXIF_WITHIN), tf.uint8), tf.int32)
    last = tf.size(data) - 1

    def byte(i):
        return tf.gather(data, tf.clip_by_value(i, 0, last))  # a damaged header reads nonsense, never outside

    def is_exif(at):
        return tf.logical_and(byte(at + 1) == 0xE1, tf.reduce_all(byte(at + tf.range(4, 10)) == tf.constant(list(b"Exif\0\0"))))

    def more(at):  # until the Exif segment, the picture's data (marker DA) or the end
        inside = tf.logical_and(at + 10 <= last, tf.logical_and(byte(at) == 0xFF, byte(at + 1) != 0xDA))
        return tf.logical_and(inside, tf.logical_not(is_exif(at)))

    segment = tf.while_loop(more, lambda at: (at + 2 + 256 * byte(at + 2) + byte(at + 3),), (tf.constant(2),))[0]
    value = _tag(byte, segment + 10)
    return tf.where(is_exif(segment) & (value >= 1) & (value <= 8), value, 1)


def _tag(byte, tiff):
    """The orientation in the first directory of the TIFF header at `tiff`, 0 where it has none."""
    little = byte(tiff) == ord("I")

    def number(at, size):
        digits = [byte(at + k) for k in range(size)]
        low_first, high_first = (sum(d * 256**k for k, d in enumerate(order)) for order in (digits, digits[::-1]))
        return tf.where(little, low_first, high_first)

    directory = tiff + number(tiff + 4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    return tf.reduce_max(tf.concat([[0], tf.where(number(entries, 2) == ORIENTATION, number(entries + 8, 2), 0)], axis=0))
