"""What a random change does to each picture, decided before any pixel is touched: windows, flips and shifts from uniforms."""

from typing import NamedTuple

import numpy as np

from kzoo.data.randomness import uniforms

_TRIES = 10  # of a window that fits, as in torchvision's RandomResizedCrop
_COUNT = 5 + 2 * _TRIES


class Plan(NamedTuple):
    """The changes of a batch: windows (B, 4) int (top, left, height, width) or None, flips (B,) bool, shifts (B, 2) int (down, right)."""

    windows: np.ndarray | None
    flips: np.ndarray
    shifts: np.ndarray


def plan(augment, seed, epoch, index, sizes):
    """The Plan of the samples `index` (B,) in that epoch; sizes (B, 2) are the heights and widths of their pictures."""
    u = uniforms(seed, epoch, index, _COUNT)
    return Plan(
        windows=_windows(augment, np.asarray(sizes, np.float64), u[:, 3:].astype(np.float64)) if augment.crop_scale else None,
        flips=u[:, 0] < augment.flip,
        shifts=np.floor(u[:, 1:3] * (2 * augment.shift + 1)).astype(np.int64) - augment.shift,
    )


def _windows(augment, sizes, u):
    """torchvision's rule: the first of ten windows of random area and log-uniform ratio that fits, at a random place; else the centre."""
    area = sizes.prod(axis=1, keepdims=True) * _between(u[:, 2 : 2 + _TRIES], *augment.crop_scale)
    ratio = np.exp(_between(u[:, 2 + _TRIES :], *np.log(augment.crop_ratio)))
    tries = np.stack([np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))], axis=-1)  # (B, tries, 2): height, width
    fits = ((tries > 0) & (tries <= sizes[:, None])).all(axis=-1)
    chosen = np.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    room = sizes - chosen + 1
    window = np.concatenate([np.floor(u[:, :2] * room), chosen], axis=1)
    return np.where(fits.any(axis=1, keepdims=True), window, _centre(sizes, *augment.crop_ratio)).astype(np.int64)


def _centre(sizes, low, high):
    """The largest centred window (B, 4) whose width / height lies in low..high."""
    height, width = sizes.T
    window = np.stack([np.minimum(height, np.rint(width / low)), np.minimum(width, np.rint(height * high))], axis=1)
    window = np.maximum(window, 1)
    return np.concatenate([(sizes - window) // 2, window], axis=1)


def _between(u, low, high):
    return low + (high - low) * u
