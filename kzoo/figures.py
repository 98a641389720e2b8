"""Matplotlib without its global state: a figure, and writing it whole. What every drawing of ours shares. Needs the
extra "plots".
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image

from kzoo.errors import require
from kzoo.files import replacing

# ground, ink, quiet ink, lines, and the colours of curves in their order, of a page by day and by night
DAY = ("#ffffff", "#1c2127", "#5b6570", "#d5dae0", ("#2563b0", "#c2571a", "#2f7d4f", "#8250a8", "#8a6d1d"))
NIGHT = ("#15181d", "#e4e7eb", "#9aa4b0", "#3a424c", ("#6ea8f0", "#f0945a", "#6cc08b", "#c196e6", "#d6b656"))


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


@contextlib.contextmanager
def look(night=False):
    """Within it figures have the look of a report's page, texts are no mathematics, and signs that no font has are no
    warning.
    """
    require("matplotlib", why="drawing")
    import matplotlib
    from cycler import cycler

    ground, ink, quiet, line, colours = NIGHT if night else DAY
    chosen = {f"{part}.facecolor": ground for part in ("figure", "axes", "savefig")}
    chosen |= {"text.color": ink, "axes.titlecolor": ink, "axes.labelcolor": quiet, "axes.edgecolor": line}
    chosen |= {"xtick.color": line, "ytick.color": line, "xtick.labelcolor": quiet, "ytick.labelcolor": quiet}
    chosen |= {"axes.spines.top": False, "axes.spines.right": False, "grid.color": line, "grid.linewidth": 0.6}
    chosen |= {"font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "lines.linewidth": 1.6}
    chosen |= {"text.parse_math": False, "axes.prop_cycle": cycler(color=colours), "axes.axisbelow": True}
    with matplotlib.rc_context(chosen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def encoded(figure, dpi=120):
    """The figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return file.getvalue()


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
