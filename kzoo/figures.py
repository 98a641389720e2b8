"""Matplotlib without its global state: a figure, and writing it whole. What every drawing of ours shares. Needs the
extra "plots".
"""

import numpy as np
from PIL import Image

from kzoo.errors import require
from kzoo.files import replacing


def new_figure(width, height):
    """An empty matplotlib figure of that size in inches, whose parts do not overlap. Raises MissingPackage without the
    extra "plots".
    """
    require("matplotlib", why="drawing")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure, path, dpi=120):
    """Writes the figure to `path`, its suffix telling the format."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def show(axis, picture, **options):
    """A picture (H, W, C) of any number of channels: the first in grey, or the first three in colour."""
    axis.imshow(picture[..., 0] if picture.shape[-1] < 3 else picture[..., :3], cmap="gray", **options)


def boxes(axis, objects, fontsize=7):
    """Boxes, one colour a class, with labels and, where there are such, scores, of objects as a detector's answer has
    them: {"label", "index", "box": [x0, y0, x1, y1], "score"}.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for found in objects:
        x0, y0, x1, y1 = found["box"]
        colour = colormaps["tab10"](found["index"] % 10)
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5))
        score = f" {found['score']:.2f}" if "score" in found else ""
        axis.text(
            x0,
            y0,
            f"{found['label']}{score}",
            fontsize=fontsize,
            color="white",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )


def tiles(figure, count, columns):
    """`count` axes without frames on a grid of `columns`, row by row; places left over stay empty."""
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).flat
    for axis in axes:
        axis.axis("off")
    return axes[:count]


def thumbnail(picture, side=1024):
    """The picture, no larger than is drawn: matplotlib would make floats of every pixel."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)
