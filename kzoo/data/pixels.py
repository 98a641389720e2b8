"""From uint8 pictures to a model's input, in NumPy: resize (whole or a window), normalise, flip and shift."""

import numpy as np

from kzoo.ops.resize import resize_weights, resized_size


def prepare(image, image_size, preprocessing):
    """Evaluation preprocessing of uint8 (h, w, C), or a batch (B, h, w, C) of equal sizes: float32 (..., H, W, C), normalised."""
    return normalise(fit(image, image_size, preprocessing), preprocessing)


def fit(image, image_size, preprocessing):
    """The evaluation resize and centre crop of (..., h, w, C): float32 (..., H, W, C) in 0..255, or `image` itself if it fits."""
    have = image.shape[-3:-1]
    if have == tuple(image_size) and preprocessing.crop_pct == 1:
        return image
    grown = resized_size(*have, image_size, preprocessing.crop_pct)
    axes = zip(have, image_size, grown, strict=True)
    return _resample(image, *(_axis(h, size, preprocessing.interpolation, h / g, (g - size) // 2) for h, size, g in axes))


def fit_window(image, window, image_size, method):
    """The window (top, left, height, width) of (h, w, C) resized to float32 (H, W, C) in 0..255."""
    top, left, height, width = window
    inside = image[top : top + height, left : left + width]
    return _resample(inside, *(resize_weights(have, size, method) for have, size in zip((height, width), image_size, strict=True)))


def normalise(images, preprocessing):
    """(x / 255 - mean) / std of (..., C) in 0..255, float32."""
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    out = np.divide(images, np.float32(255), dtype=np.float32)
    out -= mean
    out /= std
    return out


def move(images, flips, shifts):
    """Flips (B,) bool mirror left and right, then shifts (B, 2) int (down, right) translate; zeros come in from outside.

    images (B, H, W, C) normalised, so that zero is the mean colour. |shift| < H, W.
    """
    if not (flips.any() or shifts.any()):
        return images
    height, width = images.shape[1:3]
    out = np.zeros_like(images)
    for target, image, flip, (down, right) in zip(out, images, flips, shifts.tolist(), strict=True):
        image = image[:, ::-1] if flip else image
        inside = image[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
        target[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = inside
    return out


def _axis(have, size, method, scale, offset):
    return resize_weights(have, size, method, scale=scale, offset=offset)


def _resample(images, rows, columns):
    """kzoo.ops.resize.resample and its clipping to 0..255, as two large products: many times faster here than one for each line."""
    *lead, height, width, channels = images.shape
    x = np.matmul(rows, images.astype(np.float32).reshape(*lead, height, width * channels))
    x = x.reshape(*lead, len(rows), width, channels).swapaxes(-3, -2)
    x = np.matmul(columns, x.reshape(*lead, width, len(rows) * channels))
    x = x.reshape(*lead, len(columns), len(rows), channels).swapaxes(-3, -2)
    return np.clip(x, 0, 255)  # bicubic overshoots
