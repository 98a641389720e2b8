"""Boxes drawn on a picture, by Pillow."""

import numpy as np
from PIL import Image, ImageDraw

from kzoo.tasks.reports.base import LARGEST, SMALLEST


def sized(picture):
    """uint8 (h, w, 3) brought to a size to draw on: small ones enlarged by a whole number, large ones reduced; and the
    factor.
    """
    longer = max(picture.shape[:2])
    if longer < SMALLEST:
        factor = -(-SMALLEST // longer)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1), float(factor)
    if longer <= LARGEST:
        return picture, 1.0
    factor = LARGEST / longer
    size = tuple(max(1, round(side * factor)) for side in picture.shape[1::-1])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)), factor


def with_boxes(picture, groups):
    """The picture, brought to a size, with boxes: groups of (boxes (n, 4) x0, y0, x1, y1 in its pixels, colour, width
    in pixels of the drawing).
    """
    picture, factor = sized(picture)
    image = Image.fromarray(np.ascontiguousarray(picture))
    canvas = ImageDraw.Draw(image)
    for boxes, colour, width in groups:
        for x0, y0, x1, y1 in (np.asarray(boxes, np.float64).reshape(-1, 4) * factor).tolist():
            (x0, x1), (y0, y1) = sorted((x0, x1 - 1)), sorted((y0, y1 - 1))
            if width > 1:  # to be seen on any ground
                canvas.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=width + 2)
            canvas.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    return np.asarray(image)
