"""From uint8 pictures to a model's input, in NumPy: resize (whole or a window), normalise, flip and shift."""

import numpy as np
from PIL import Image

from kzoo.ops.resize import resample, resize_weights, resized_size


def prepare(image, image_size, preprocessing):
    """Evaluation preprocessing of uint8 (h, w, C), or a batch (B, h, w, C) of equal sizes: float32 (..., H, W, C), normalised."""
    return normalise(fit(image, image_size, preprocessing), preprocessing)


def fit(image, image_size, preprocessing):
    """The evaluation resize and centre crop of (..., h, w, C): float32 (..., H, W, C) in 0..255, or `image` itself if it fits."""
    have = image.shape[-3:-1]
    if have == tuple(image_size) and preprocessing.crop_pct == 1:
        return image
    grown = resized_size(*have, image_size, preprocessing.crop_pct)
    rows, columns = (
        resize_weights(side, size, preprocessing.interpolation, scale=side / full, offset=(full - size) // 2)
        for side, size, full in zip(have, image_size, grown, strict=True)
    )
    return _resample(image, rows, columns)


def fit_window(image, window, image_size, method):
    """The window (top, left, height, width) of uint8 (h, w, C) resized to uint8 (H, W, C).

    Training pictures go through Pillow, as torchvision's do: the same kernels rounded to whole numbers, and several times faster.
    """
    top, left, height, width = window
    inside = image[top : top + height, left : left + width]
    if inside.shape[-1] != 3:  # plane by plane, for Pillow would weight colours with a fourth channel as their alpha
        return np.stack([_pillow(plane, image_size, method) for plane in np.moveaxis(inside, -1, 0)], axis=-1)
    return _pillow(inside, image_size, method)


def _pillow(array, image_size, method):
    resized = Image.fromarray(np.ascontiguousarray(array)).resize((image_size[1], image_size[0]), Image.Resampling[method.upper()])
    return np.asarray(resized)


def normalise(images, preprocessing):
    """(x / 255 - mean) / std of (..., C) in 0..255, float32."""
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    out = np.divide(images, np.float32(255), dtype=np.float32)
    out -= mean
    out /= std
    return out


def move(images, flips, shifts):
    """Flips (B,) bool mirror left and right, then shifts (B, 2) int (down, right) translate; the edge pixels repeat outwards.

    images (B, H, W, C). Repeated edges look like more of the same picture, whatever its background.
    """
    if not (flips.any() or shifts.any()):
        return images
    height, width = images.shape[1:3]
    rows, columns = np.arange(height), np.arange(width)
    out = np.empty_like(images)
    for target, image, flip, (down, right) in zip(out, images, flips, shifts.tolist(), strict=True):
        image = image[:, ::-1] if flip else image
        target[:] = image[np.clip(rows - down, 0, height - 1)][:, np.clip(columns - right, 0, width - 1)]
    return out


def _resample(image, rows, columns):
    return np.clip(resample(image.astype(np.float32), rows, columns), 0, 255)  # bicubic overshoots
