"""What a random change does to each picture, decided before any pixel is touched: from uniform numbers to windows and
operations.
"""

import itertools
from typing import NamedTuple

import numpy as np

from kzoo.data import randaugment
from kzoo.data.randomness import uniforms

_TRIES = 10  # of a window that fits, as in torchvision's RandomResizedCrop
_ERASED_AREA, _ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # share and width / height of what random erasing replaces
_BLUR_RADIUS = (0.1, 2.0)  # pixels; DeiT III

# Which of a sample's uniform numbers serve what. Those of RandAugment come last: their count depends on its layers.
_FLIP, _SHIFT, _PLACE, _CROP = 0, slice(1, 3), slice(3, 5), slice(5, 5 + 2 * _TRIES)
_JITTER, _THREE = slice(25, 29), slice(29, 31)
_ERASE, _ERASE_PLACE, _ERASE_CROP = 31, slice(32, 34), slice(34, 34 + 2 * _TRIES)
_RAND = 54


class Change(NamedTuple):
    """The changes of one picture, in the order in which they are made; a window is (top, left, height, width) in whole
    pixels.
    """

    window: list | None  # of the picture, resized to the model's input; None: no random resized crop
    place: np.ndarray  # (2,) in [0, 1): where the crop of crop_pad lies between the first and the last possible place
    flip: bool  # left and right
    shift: list  # pixels down and right
    operations: list  # (name, argument) of kzoo.data.operations
    erased: list  # a window of the model's input that noise replaces; height 0: none


def plan(augment, seed, epoch, keys, sizes, image_size):
    """The Change of each of B samples in an epoch.

    keys (B,): sample numbers, plus REPETITION for each time before; sizes (B, 2): heights and widths of their pictures;
    image_size: those of the model's input.
    """
    layers = augment.rand_augment.layers if augment.rand_augment else 0
    u = uniforms(seed, epoch, keys, _RAND + layers * randaugment.UNIFORMS)
    wide = u.astype(np.float64)
    columns = (
        _crops(augment, np.asarray(sizes, np.float64), wide) if augment.crop_scale else [None] * len(u),
        wide[:, _PLACE],
        (u[:, _FLIP] < augment.flip).tolist(),
        (np.floor(u[:, _SHIFT] * (2 * augment.shift + 1)).astype(np.int64) - augment.shift).tolist(),
        [_operations(augment, row) for row in wide],
        _erased(augment, wide, image_size),
    )
    return [Change(*row) for row in zip(*columns, strict=True)]


def _crops(augment, sizes, u):
    """torchvision's rule: the first of ten windows of random area and log-uniform ratio that fits, at a random place;
    else the centre.
    """
    windows, fits = _windows(sizes, sizes, augment.crop_scale, augment.crop_ratio, u[:, _PLACE], u[:, _CROP])
    return np.where(fits[:, None], windows, _centre(sizes, *augment.crop_ratio)).astype(np.int64).tolist()


def _erased(augment, u, image_size):
    """timm's rule: the first of ten windows that is smaller than the picture each way, at a random place; else none."""
    size = np.asarray([image_size], np.float64)
    windows, fits = _windows(size, size - 1, _ERASED_AREA, _ERASED_RATIO, u[:, _ERASE_PLACE], u[:, _ERASE_CROP])
    return (windows * (fits & (u[:, _ERASE] < augment.erase))[:, None]).astype(np.int64).tolist()


def _windows(sizes, limits, scale, ratio, place, u):
    """Windows (B, 4) and whether they fit (B,): the first of ten of a random share of sizes (B, 2) within limits (B,
    2).
    """
    area = sizes.prod(axis=1, keepdims=True) * _between(u[:, :_TRIES], *scale)
    ratio = np.exp(_between(u[:, _TRIES:], *np.log(ratio)))
    # (B, tries, 2): height, width
    tries = np.stack([np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))], axis=-1)
    fits = ((tries > 0) & (tries <= limits[:, None])).all(axis=-1)
    chosen = np.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    return np.concatenate([np.floor(place * (sizes - chosen + 1)), chosen], axis=1), fits.any(axis=1)


def _centre(sizes, low, high):
    """The largest centred window (B, 4) whose width / height lies in low..high."""
    height, width = sizes.T
    window = np.stack([np.minimum(height, np.rint(width / low)), np.minimum(width, np.rint(height * high))], axis=1)
    window = np.maximum(window, 1)
    return np.concatenate([(sizes - window) // 2, window], axis=1)


def _operations(augment, u):
    """Of one picture, in order: RandAugment's or one of three, then the jitter of colours."""
    operations = []
    if augment.rand_augment and augment.library == "kzoo":
        operations += randaugment.draw(augment.rand_augment, u[_RAND:])
    if augment.three_augment:
        which, radius = u[_THREE].tolist()
        operations.append(
            (("grey", None), ("solarize", 128), ("blur", _between(radius, *_BLUR_RADIUS)))[int(which * 3)]
        )
    if augment.color_jitter:
        operations += jitter(augment.color_jitter, u[_JITTER])
    return operations


def jitter(strength, u):
    """Brightness, contrast and saturation in a random order, each times a factor of its own."""
    factors = _between(u[1:], max(0.0, 1 - strength), 1 + strength)
    orders = itertools.permutations(zip(("brightness", "contrast", "color"), factors.tolist(), strict=True))
    return list(orders)[int(u[0] * 6)]


def _between(u, low, high):
    return low + (high - low) * u
