"""Pictures side by side with their captions, as one figure."""

import math
import textwrap

from kzoo.figures import new_figure, tiles
from kzoo.tasks.reports.base import legible

COLUMNS, LETTERS = 6, 26  # of a sheet; of a line below a picture


def draw(sheet):
    """The figure of a Sheet."""
    widest = max(tile.picture.shape[1] / tile.picture.shape[0] for tile in sheet.tiles)
    columns = min(COLUMNS if widest < 2 else 2, len(sheet.tiles))
    letters = LETTERS if widest < 2 else 3 * LETTERS
    captions = [["\n".join(textwrap.wrap(legible(line), letters)) for line in tile.lines] for tile in sheet.tiles]
    lines = max(sum(1 + line.count("\n") for line in caption) for caption in captions)
    side = 12 / columns if columns > 1 else 6
    tall = max(tile.picture.shape[0] / tile.picture.shape[1] for tile in sheet.tiles) * side
    rows = math.ceil(len(sheet.tiles) / columns)
    figure = new_figure(side * columns, rows * (min(tall, 2 * side) + 0.16 * lines + 0.1))
    for axis, tile, caption in zip(tiles(figure, len(sheet.tiles), columns), sheet.tiles, captions, strict=True):
        axis.imshow(tile.picture, interpolation="nearest")
        axis.set_title("\n".join(caption), fontsize=8, y=0, pad=-4, va="top")
    return figure
