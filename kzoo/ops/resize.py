"""Resampling as two matrix products: one definition for pictures and position tables, on every backend and in every
export.

Weights follow Pillow's `Image.resize` (and torch's `interpolate(antialias=True)`): the kernel is stretched by the
reduction factor, truncated at the border and normalised. `xp` is the array namespace: `numpy` on the host, `keras.ops`
in a graph, where input sizes may be dynamic.
"""

import numpy as np

from kzoo.errors import unknown

RADIUS = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0}  # of the filters, in stretched pixels


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


def resize_weights(
    size_in, size_out, method="bicubic", *, scale=None, offset=0.0, low=0, high=None, antialias=True, xp=np
):
    """The (size_out, size_in) float32 matrix that resamples one axis; `antialias` False leaves the kernel unstretched
    where it shrinks.

    Output pixel i looks at the input position `(i + offset + 0.5) * scale`; scale defaults to size_in / size_out (the
    whole axis). Only input pixels low <= j < high take part, which makes a crop: scale = (high - low) / size_out,
    offset = low / scale.
    """
    scale = size_in / size_out if scale is None else scale
    high = size_in if high is None else high
    as_float = _float32(xp)
    centre = xp.reshape((xp.arange(size_out, dtype="float32") + (as_float(offset) + 0.5)) * as_float(scale), (-1, 1))
    pixel = xp.reshape(xp.arange(size_in, dtype="float32") + 0.5, (1, -1))
    return weights_of(pixel, centre, scale if antialias else 1.0, method, low, high, xp)


def weights_of(pixel, centre, scale, method, low, high, xp=np):
    """The weights (..., n, K) of the input pixels whose middles are `pixel` (..., 1, K) in outputs that look at
    `centre` (..., n, 1).

    Input pixels outside low..high take no part; the rows of output pixels that look there are zero, all others sum to
    one.
    """
    as_float = _float32(xp)
    if method == "nearest":
        nearest = xp.floor(xp.clip(centre, as_float(low), as_float(high) - 0.5))
        weights = xp.where(xp.floor(pixel) == nearest, xp.ones_like(pixel), xp.zeros_like(pixel))
    else:
        weights = _kernel((pixel - centre) / xp.maximum(as_float(scale), as_float(1.0)), method, xp)
        inside = xp.logical_and(pixel > as_float(low), pixel < as_float(high))
        weights = xp.where(inside, weights, xp.zeros_like(weights))
    shown = xp.logical_and(centre > as_float(low), centre < as_float(high))
    total = xp.sum(weights, axis=-1, keepdims=True)
    return xp.where(shown, weights / xp.where(shown, total, xp.ones_like(total)), xp.zeros_like(weights))


def _float32(xp):
    return (lambda v: xp.cast(v, "float32")) if hasattr(xp, "cast") else np.float32


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


def resized_size(height, width, image_size, crop_pct, crop_mode="center"):
    """(height, width) of the evaluation resize before its crop, with timm's roundings; on Python integers and backend
    tensors alike.

    center: the picture covers image_size / crop_pct, its ratio kept; border: it fits inside; squash: it is of that very
    size.
    """
    target_h, target_w = targets = tuple(int(np.floor(side / crop_pct)) for side in image_size)
    if crop_mode == "squash":
        return targets
    long_h, long_w = _scaled(height, target_w, width), _scaled(width, target_h, height)
    if crop_mode == "center" and target_h == target_w:  # torchvision's Resize cuts off where timm's own rounds
        long_h, long_w = height * target_w // width, width * target_h // height
    taller = height * target_w > width * target_h
    height_given = taller if crop_mode == "border" else height * target_w < width * target_h
    if isinstance(taller, bool):
        return (target_h, max(long_w, 1)) if height_given else (max(long_h, 1), target_w)
    from keras import ops

    return ops.where(height_given, target_h, ops.maximum(long_h, 1)), ops.where(
        height_given, ops.maximum(long_w, 1), target_w
    )


def _scaled(side, target, other):
    """side * target / other of whole numbers, rounded, half to even as Python does."""
    half_down, half_up = ((2 * side * target + other - less) // (2 * other) for less in (1, 0))
    return half_up - (half_up - half_down) * (half_up % 2)


def fitted_size(height, width, shortest, longest=None, canvas=None):
    """(height, width) of a picture whose shorter side becomes `shortest` or, where the other would exceed `longest`,
    less, as DETR rounds it; smaller still where it would not fit `canvas` (height, width). Of Python integers and
    backend tensors alike.
    """
    taller = height > width
    low, high = _choose(taller, width, height), _choose(taller, height, width)
    if longest is not None:
        shortest = _choose(high * shortest > longest * low, _at_least_1(_scaled(low, longest, high)), shortest)
    size = _choose(taller, shortest * height // low, shortest), _choose(taller, shortest, shortest * width // low)
    if canvas is None:
        return size
    (most_h, most_w), fits = canvas, (size[0] <= canvas[0]) & (size[1] <= canvas[1])
    binds = most_h * width < most_w * height  # the height is what does not fit
    less_h = _choose(binds, most_h, _at_least_1(_scaled(height, most_w, width)))
    less_w = _choose(binds, _at_least_1(_scaled(width, most_h, height)), most_w)
    return _choose(fits, size[0], less_h), _choose(fits, size[1], less_w)


def _choose(condition, one, other):
    """One where the condition holds, else the other; of a tensor's condition a tensor."""
    if isinstance(condition, (bool, np.bool_)):
        return one if condition else other
    from keras import ops

    return ops.where(condition, one, other)


def _at_least_1(side):
    return _choose(side < 1, 1, side)


def crop_offset(grown, size, place=0.5):
    """Where a crop of `size` pixels begins in an axis of `grown` pixels; below 0 where that is smaller, by half of what
    is missing.

    place: 0 the first, 0.5 the middle (half a pixel goes to the even side, as torchvision rounds), 1 the last position;
    tensors take the middle alone.
    """
    room = grown - size
    half, missing = room // 2, -(-room // 2)
    middle = half + (room % 2) * (half % 2)
    if isinstance(room, int):
        return missing if room < 0 else middle if place == 0.5 else room * place
    from keras import ops

    return ops.where(room < 0, missing, middle)


def border(rows, columns, fill, xp=np):
    """What surrounds a picture resampled by rows (h, H) and columns (w, W): fill (C,) outside of it, 0 within; (h, w,
    C).
    """
    covered = xp.sum(rows, axis=1)[:, None] * xp.sum(columns, axis=1)
    return (1.0 - covered)[..., None] * xp.array(fill, "float32")
