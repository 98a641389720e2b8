"""Resampling on the host, by Pillow: whole numbers for training, as torchvision's transforms do, exact ones for
evaluation.
"""

import numpy as np
from PIL import Image

_LARGE = 2**26  # values of a picture
_STRIP = 128  # rows


def resample_uint8(image, size, method, mirror=False):
    """uint8 (h, w, C) resized to uint8 (H, W, C), and mirrored left and right where asked."""
    if image.shape[-1] == 3:
        return _resize(image, size, method, mirror=mirror)
    # Plane by plane: Pillow would weight colours with a fourth channel as their alpha.
    return np.stack([_resize(plane, size, method, mirror=mirror) for plane in np.moveaxis(image, -1, 0)], axis=-1)


def resample(image, size, method, *, grown=None, offset=(0, 0)):
    """uint8 or float (h, w, C) resized to `grown` (default: size), of which `size` (H, W) pixels from `offset` on are
    kept.

    float32 (H, W, C), not rounded and not clipped: bicubic overshoots. What lies outside the picture is 0.
    """
    grown = grown or size
    kept = [(max(begin, 0), min(begin + side, full)) for side, full, begin in zip(size, grown, offset, strict=True)]
    scale = [have / full for have, full in zip(image.shape, grown, strict=False)]
    (top, bottom), (left, right) = ([edge * s for edge in edges] for edges, s in zip(kept, scale, strict=True))
    inside = [end - first for first, end in kept]
    out = np.zeros((*size, image.shape[-1]), np.float32)
    rows, columns = (slice(first - begin, end - begin) for (first, end), begin in zip(kept, offset, strict=True))
    large = image.size > _LARGE  # floats at once are twice as fast, and several times the picture
    floats, resized = (image, _by_strips) if large else (image.astype(np.float32), _resize)
    for channel, plane in enumerate(np.moveaxis(floats, -1, 0)):
        out[rows, columns, channel] = resized(plane, inside, method, (left, top, right, bottom))
    return out


def _by_strips(plane, size, method, box):
    """_resize to the bit, for Pillow too resizes the rows first: here some at a time, so that no whole plane becomes
    floats.
    """
    left, top, right, bottom = box
    strips = (plane[start : start + _STRIP].astype(np.float32) for start in range(0, len(plane), _STRIP))
    narrow = np.concatenate(
        [_resize(strip, (len(strip), size[1]), method, (left, 0, right, len(strip))) for strip in strips]
    )
    return _resize(narrow, size, method, (0, top, size[1], bottom))


def _resize(array, size, method, box=None, mirror=False):
    resized = Image.fromarray(np.ascontiguousarray(array)).resize(
        (size[1], size[0]), Image.Resampling[method.upper()], box
    )
    return np.asarray(resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else resized)
