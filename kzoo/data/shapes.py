"""Generated pictures of coloured shapes with exact boxes, for tests, smoke runs and a detector's first try."""

import numpy as np

from kzoo.data.object_sources import ObjectSource
from kzoo.data.randomness import uniforms
from kzoo.data.sources import EVALUATION
from kzoo.errors import UsageError

NAMES = ("circle", "square", "triangle")
_TRIES = 6  # of a place that is free
_SIDES = (0.15, 0.4)  # of a shape, as a share of `size`
_EMPTY = 0.05  # share of pictures without a shape
_CONTRAST = 60  # between a shape and the mean of its background, of 255, in a channel at least


class Shapes(ObjectSource):
    """Circles, squares and triangles on noisy gradients, up to `max` a picture and sometimes none, of which no two
    boxes overlap; sides of pictures lie between 3/4 of `size` and `size`. A pure function of split and number.

    n is the number of training pictures; evaluation has a tenth as many, 64 at least where there are as many.
    """

    class_names, num_classes = NAMES, len(NAMES)

    def __init__(self, name, split, *, n=64, size=64, max=6):
        if size < 16:
            raise UsageError(f"the option size of the shapes source must be at least 16, not {size}.")
        evaluates = split in EVALUATION
        self.name, self._size, self._most, self._seed = name, size, max, int(evaluates)
        self._count = min(n, n // 10 if n > 640 else 64) if evaluates else n

    def __len__(self):
        return self._count

    def open(self, i):
        i = int(i)
        u = uniforms(self._seed, 0, [i], 16)[0].astype(float)
        height, width = (int(self._size * (0.75 + 0.25 * v) + 0.5) for v in u[:2])
        picture, colour = _background(u[2:10], height, width, _noise(self._seed, i, height, width))
        boxes, labels = [], []
        for number in range(0 if u[11] < _EMPTY else 1 + int(u[10] * self._most)):
            draw = uniforms(self._seed, 1 + number, [i], 6 + 2 * _TRIES)[0].astype(float)
            side = max(round(self._size * (_SIDES[0] + (_SIDES[1] - _SIDES[0]) * draw[0])), 4)
            place = _free(draw[6:].reshape(_TRIES, 2), side, height, width, boxes)
            if place is None:
                continue
            label = int(draw[1] * len(NAMES))
            mask = _mask(NAMES[label], side)
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            top, left = place
            picture[top : top + side, left : left + side][mask] = _against(colour, draw[2:5])
            boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
            labels.append(label)
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        return np.clip(picture, 0, 255).astype(np.uint8), {
            "boxes": boxes,
            "labels": np.array(labels, np.int32),
            "crowd": np.zeros(len(boxes), bool),
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
            "image_id": i,
        }

    def annotated(self, i):
        picture, objects = self.open(i)
        return objects, picture.shape[:2]

    def picture(self, i):
        return self.open(i)[0]


def _noise(seed, i, height, width):
    """(height, width, 1) in -16..16."""
    return (uniforms(seed, 0, i * 4096 + np.arange(height), width)[..., None] - 0.5) * 32


def _background(u, height, width, noise):
    """(a gradient between two near colours with noise, float (height, width, 3); its mean colour)."""
    first = 40 + 175 * u[:3]
    last = np.clip(first + 60 * (u[3:6] - 0.5), 20, 235)
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    angle = 2 * np.pi * u[6]
    along = 0.5 + ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)) / np.sqrt(2)
    return first + (last - first) * along[..., None] + noise, (first + last) / 2


def _against(colour, u):
    """A colour that differs from the background's, in one channel by _CONTRAST at least."""
    drawn = 255 * u
    channel = int(np.abs(drawn - colour).argmax())
    if abs(drawn[channel] - colour[channel]) < _CONTRAST:
        drawn[channel] = colour[channel] + (_CONTRAST + 20) * (1 if colour[channel] < 128 else -1)
    return drawn


def _free(places, side, height, width, boxes):
    """(top, left) of the first of the places (tries, 2), in [0, 1), where a square of that side meets no box; else
    None.
    """
    for down, right in places:
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        if all(left >= x1 or top >= y1 or left + side <= x0 or top + side <= y0 for x0, y0, x1, y1 in boxes):
            return top, left
    return None


def _mask(name, side):
    """bool (side, side): the pixels of a shape."""
    y, x = np.mgrid[:side, :side] + 0.5
    if name == "circle":
        return (x - side / 2) ** 2 + (y - side / 2) ** 2 <= (side / 2) ** 2
    if name == "triangle":
        return np.abs(x - side / 2) <= y / 2
    return np.ones((side, side), bool)
