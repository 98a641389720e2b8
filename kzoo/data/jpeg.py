"""Windows of JPEG files by TensorFlow, which computes the pixels of no other part: the very pixels that Pillow
gives.
"""

import tensorflow as tf

from kzoo.data.decode import pixels as all_pixels

_MARGIN = 4  # pixels decoded around the window: colours of half resolution are interpolated from their neighbours


def pixels(picture, window=None):
    """kzoo.data.decode.pixels, by TensorFlow where only a window of a JPEG is wanted."""
    if window is None or not getattr(picture, "plain_jpeg", False):
        return all_pixels(picture, window)
    top, left, height, width = window
    first = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
    last = min(top + height + _MARGIN, picture.shape[0]), min(left + width + _MARGIN, picture.shape[1])
    try:
        # The accurate transform is the one Pillow uses; TensorFlow's default is the fast one.
        around = tf.io.decode_and_crop_jpeg(
            picture.encoded, (*first, last[0] - first[0], last[1] - first[1]), channels=3, dct_method="INTEGER_ACCURATE"
        ).numpy()
    except tf.errors.InvalidArgumentError:  # a damaged file: Pillow reads it nevertheless, or the error names the file
        return picture.pixels(window)
    return around[top - first[0] :, left - first[1] :][:height, :width]
