"""From uint8 pictures to a model's input, in NumPy: resize (whole or a window), crop, normalise, flip, shift and
erase.
"""

import functools

import numpy as np

from kzoo.data.resample import resample, resample_uint8
from kzoo.ops.resize import crop_offset, resized_size


def prepare(image, image_size, preprocessing):
    """Evaluation preprocessing of uint8 (h, w, C), or a batch (B, h, w, C) of equal sizes: float32 (..., H, W, C),
    normalised.
    """
    return normalise(resized(image, image_size, preprocessing), preprocessing)


def resized(image, image_size, preprocessing, place=(0.5, 0.5)):
    """The evaluation resize and crop of (h, w, C), or a batch of equal sizes: float32 (..., H, W, C) in 0..255, or
    `image` if it fits.

    place (down, right): 0 the first, 0.5 the middle and 1 the last position of the crop.
    """
    if image.ndim > 3:
        return np.stack([resized(one, image_size, preprocessing, place) for one in image])
    have = image.shape[:2]
    if have == tuple(image_size) and preprocessing.crop_pct == 1:
        return image
    grown = resized_size(*have, image_size, preprocessing.crop_pct, preprocessing.crop_mode)
    offset = tuple(map(crop_offset, grown, image_size, place))
    fitted = resample(image, image_size, preprocessing.interpolation, grown=grown, offset=offset)
    np.clip(fitted, 0, 255, out=fitted)  # bicubic overshoots
    if preprocessing.crop_mode == "border":
        rows, columns = (np.arange(size) + begin for size, begin in zip(image_size, offset, strict=True))
        fitted[(rows < 0) | (rows >= grown[0])] = preprocessing.fill
        fitted[:, (columns < 0) | (columns >= grown[1])] = preprocessing.fill
    return fitted


def resized_window(image, image_size, method, mirror=False):
    """uint8 (h, w, C), a part of a picture, resized to uint8 (H, W, C) and mirrored left and right where asked."""
    return resample_uint8(image, image_size, method, mirror)


def crop_padded(image, place, pad, image_size, method):
    """The simple random crop of DeiT III (https://arxiv.org/abs/2204.07118): uint8 (h, w, C) to uint8 (H, W, C).

    The picture is resized so that it just covers image_size, `pad` pixels are reflected around it, and a window is cut
    out at `place`, (down, right) in [0, 1) between the first and the last possible position.
    """
    grown = resized_size(*image.shape[:2], image_size, 1.0)
    covering = resample_uint8(image, grown, method)
    rows, columns = (
        _reflected(int(where * (full + 2 * pad - side + 1)) - pad + np.arange(side), full)
        for where, side, full in zip(place, image_size, grown, strict=True)
    )
    return covering[rows][:, columns]


def _reflected(positions, size):
    """Positions outside 0..size-1 mirrored at the first and the last pixel, which are not repeated."""
    return size - 1 - np.abs(size - 1 - np.abs(positions))


def normalise(images, preprocessing, out=None):
    """(x / 255 - mean) / std of (..., W, C) in 0..255, float32; into `out`, which is contiguous, where it is given."""
    out = np.empty(images.shape, np.float32) if out is None else out
    gain, shift = _row(preprocessing, images.shape[-2])
    rows = out.reshape(*out.shape[:-2], -1)
    np.multiply(images.reshape(rows.shape), gain, out=rows)
    rows += shift
    return out


@functools.lru_cache(maxsize=64)
def _row(preprocessing, width):
    """(gain, shift) of every value of a row: NumPy's loops over three channels at a time would take five times as
    long.
    """
    mean, std = np.float64(preprocessing.mean), np.float64(preprocessing.std)
    return tuple(np.tile(np.float32(per_channel), width) for per_channel in (1 / (255 * std), -mean / std))


def moved(image, flip, shift):
    """(H, W, C) mirrored left and right where flip, then translated by shift (down, right); the edge pixels repeat
    outwards.

    Repeated edges look like more of the same picture, whatever its background.
    """
    image = image[:, ::-1] if flip else image
    if not any(shift):
        return image
    rows, columns = (np.clip(np.arange(side) - by, 0, side - 1) for side, by in zip(image.shape, shift, strict=False))
    return image[rows][:, columns]


def erase(image, window, random):
    """Replaces the window (top, left, height, width) of a normalised (H, W, C) in place by normal noise of a NumPy
    Generator.
    """
    top, left, height, width = window
    image[top : top + height, left : left + width] = random.standard_normal(
        (height, width, image.shape[-1]), np.float32
    )
