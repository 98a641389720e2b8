"""Resampling as two matrix products: one definition for pictures and position tables, on every backend and in every export.

Weights follow Pillow's `Image.resize` (and torch's `interpolate(antialias=True)`): the kernel is stretched by the reduction
factor, truncated at the border and normalised. `xp` is the array namespace: `numpy` on the host, `keras.ops` in a graph, where
input sizes may be dynamic.
"""

import numpy as np

from kzoo.errors import unknown


def _kernel(distance, method, xp):
    """The reconstruction filter at `distance` (in stretched pixels)."""
    d = xp.abs(distance)
    if method == "bilinear":
        return xp.maximum(1.0 - d, 0.0)
    if method == "bicubic":  # Keys, a = -0.5
        near = (1.5 * d - 2.5) * d * d + 1.0
        far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
        return xp.where(d < 1.0, near, xp.where(d < 2.0, far, xp.zeros_like(d)))
    raise unknown("interpolation", method, ("nearest", "bilinear", "bicubic"))


def resize_weights(size_in, size_out, method="bicubic", *, scale=None, offset=0.0, low=0, high=None, xp=np):
    """The (size_out, size_in) float32 matrix that resamples one axis.

    Output pixel i looks at the input position `(i + offset + 0.5) * scale`; scale defaults to size_in / size_out (the whole axis).
    Only input pixels low <= j < high take part, which makes a crop: scale = (high - low) / size_out, offset = low / scale.
    """
    scale = size_in / size_out if scale is None else scale
    high = size_in if high is None else high
    as_float = (lambda v: xp.cast(v, "float32")) if hasattr(xp, "cast") else np.float32
    centre = xp.reshape((xp.arange(size_out, dtype="float32") + (as_float(offset) + 0.5)) * as_float(scale), (-1, 1))
    pixel = xp.reshape(xp.arange(size_in, dtype="float32") + 0.5, (1, -1))
    inside = xp.logical_and(pixel > as_float(low), pixel < as_float(high))
    if method == "nearest":
        nearest = xp.floor(xp.clip(centre, as_float(low), as_float(high) - 0.5))
        weights = xp.where(xp.floor(pixel) == nearest, xp.ones_like(pixel), xp.zeros_like(pixel))
    else:
        weights = _kernel((pixel - centre) / xp.maximum(as_float(scale), as_float(1.0)), method, xp)
        weights = xp.where(inside, weights, xp.zeros_like(weights))
    return weights / xp.sum(weights, axis=1, keepdims=True)


def resample(images, rows, columns, xp=np):
    """Applies resize_weights matrices to images (..., H, W, C): rows (h, H), columns (w, W) -> (..., h, w, C).

    Two large products; the rows' comes first because it needs no transposition of the large side.
    """
    *lead, height, width, channels = xp.shape(images)
    h, w = rows.shape[0], columns.shape[0]
    x = xp.matmul(rows, xp.reshape(images, (*lead, height, width * channels)))
    x = xp.swapaxes(xp.reshape(x, (*lead, h, width, channels)), -3, -2)
    x = xp.matmul(columns, xp.reshape(x, (*lead, width, h * channels)))
    return xp.swapaxes(xp.reshape(x, (*lead, w, h, channels)), -3, -2)


def resized_size(height, width, image_size, crop_pct):
    """(height, width) of the evaluation resize before its centre crop: the picture covers image_size / crop_pct, ratio kept.

    Works on Python integers and on backend tensors alike; timm's rule: floor(size / crop_pct) for the side that fits tightly.
    """
    target_h, target_w = (int(np.floor(side / crop_pct)) for side in image_size)
    if isinstance(height, int):
        ratio = max(target_h / height, target_w / width)
        return max(int(height * ratio + 0.5), target_h), max(int(width * ratio + 0.5), target_w)
    from keras import ops

    h, w = ops.cast(height, "float32"), ops.cast(width, "float32")
    ratio = ops.maximum(target_h / h, target_w / w)
    grown = (ops.cast(ops.floor(side * ratio + 0.5), "int32") for side in (h, w))
    return tuple(ops.maximum(side, target) for side, target in zip(grown, (target_h, target_w), strict=True))
