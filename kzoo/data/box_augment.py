"""What a random change does to a picture and its boxes, decided before any pixel is touched: DETR's transforms.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872, A.4.
"""

from typing import NamedTuple

import numpy as np

from kzoo.data.augment import jitter
from kzoo.data.randomness import BOXES, uniforms
from kzoo.ops.resize import fitted_size

# Which of a sample's uniform numbers serve what.
_FLIP, _SCALE, _CROP, _CROP_SCALE, _CROP_SIZE, _PLACE, _JITTER = 0, 1, 2, 3, slice(4, 6), slice(6, 8), slice(8, 12)
_FLIP_VERTICAL, _COUNT = 12, 13


class BoxChange(NamedTuple):
    """The changes of one picture, in the order in which they are made."""

    window: tuple[int, int, int, int]  # (top, left, height, width) of it that stays, in whole pixels
    size: tuple[int, int]  # (height, width) that the window is resized to
    flip: bool  # left and right
    flip_vertical: bool  # up and down
    operations: list  # (name, argument) of kzoo.data.operations


def plan(augment, seed, epoch, keys, sizes, evaluation, canvas):
    """The BoxChange of each of B samples in an epoch.

    keys (B,): sample numbers, plus REPETITION for each time before; sizes (B, 2): heights and widths of their pictures;
    evaluation: (shortest, longest side) of a picture in evaluation; canvas: (height, width) that all have to fit.
    """
    rows = uniforms(seed, epoch, keys, _COUNT, BOXES).astype(np.float64)
    return [
        _change(augment, u, *size, evaluation, canvas) for u, size in zip(rows, np.asarray(sizes).tolist(), strict=True)
    ]


def _change(augment, u, height, width, evaluation, canvas):
    crops = u[_CROP] < augment.crop
    window = _window(augment, u, height, width) if crops else (0, 0, height, width)
    shortest, longest = (_pick(augment.scales, u[_SCALE]), augment.max_size) if augment.scales else evaluation
    size = fitted_size(*window[2:], shortest, longest, canvas)
    operations = jitter(augment.color_jitter, u[_JITTER]) if augment.color_jitter else []
    flips = bool(u[_FLIP] < augment.flip), bool(u[_FLIP_VERTICAL] < augment.flip_vertical)
    return BoxChange(window, size, *flips, operations)


def _window(augment, u, height, width):
    """A crop whose sides are drawn in pixels of the picture at the drawn scale, in whole pixels of the picture as it
    is.
    """
    grown = (
        fitted_size(height, width, _pick(augment.crop_scales, u[_CROP_SCALE]))
        if augment.crop_scales
        else (height, width)
    )
    low, high = augment.crop_size
    window = []
    for full, scaled, side, place in zip((height, width), grown, u[_CROP_SIZE], u[_PLACE], strict=True):
        least, most = min(low, scaled), min(high, scaled)
        kept = max(round((least + int(side * (most - least + 1))) * full / scaled), 1)
        window.append((int(place * (full - kept + 1)), kept))
    (top, tall), (left, wide) = window
    return top, left, tall, wide


def _pick(values, u):
    return values[int(u * len(values))]


def moved_boxes(objects, window, flip, flip_vertical=False):
    """(boxes float32 (n, 4), cx, cy, w, h in 0..1 of the window; bool (m,), which of the objects have an area in it).

    objects: as a source gives them, in pixels of the picture that window (top, left, height, width) is of.
    """
    top, left, height, width = window
    whole = np.array([width, height, width, height], np.float64)
    corners = np.clip(objects["boxes"].astype(np.float64) - [left, top, left, top], 0, whole)
    kept = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    corners = corners[kept] / whole
    if flip:
        corners[:, [0, 2]] = 1 - corners[:, [2, 0]]
    if flip_vertical:
        corners[:, [1, 3]] = 1 - corners[:, [3, 1]]
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    return boxes.astype(np.float32), kept
