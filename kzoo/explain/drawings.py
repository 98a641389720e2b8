"""The numbers that explain a model, as pictures (PNG). Need the extra "plots"."""

import contextlib

import numpy as np

from kzoo.figures import boxes, new_figure, save, show, tiles
from kzoo.ops.resize import resample, resize_weights

LARGEST_MOSAIC = 16  # position tables of more rows or columns are thinned out, to stay legible


def draw_attention(path, picture, maps, rolled, title):
    """Writes a picture (H, W, C) uint8, its attention rollout (h, w) laid over it, and the maps (heads, h, w) of one
    layer as PNG.
    """
    shown = [("mean of the heads", maps.mean(axis=0)), *((f"head {i + 1}", m) for i, m in enumerate(maps))]
    columns = 3 if len(shown) < 8 else 5
    figure = new_figure(2.1 * columns, 0.7 + 2.35 * -(-(len(shown) + 2) // columns))
    axes = iter(tiles(figure, len(shown) + 2, columns))
    height, width = picture.shape[:2]
    for name in ("input", "rollout of all layers"):
        axis = next(axes)
        show(axis, picture)
        axis.set_title(name, fontsize=10)
    rows, columns = (resize_weights(a, b, "bilinear") for a, b in zip(rolled.shape, (height, width), strict=True))
    axis.imshow(resample(rolled[..., None], rows, columns)[..., 0], cmap="inferno", alpha=0.6)
    for axis, (name, values) in zip(axes, shown, strict=True):
        axis.imshow(values, extent=(0, width, height, 0), cmap="inferno", interpolation="nearest")
        axis.set_title(name, fontsize=10)
    figure.suptitle(f"{title}\nheads of the last attention; each map scaled to its own range", fontsize=11)
    save(figure, path)


def draw_objects(path, picture, shares, maps, objects, title):
    """Writes as PNG, for each object, the picture (H, W, C) uint8 with its box and label and, laid over it, what its
    query takes from the cells.

    maps (N, h, w) of as many objects, as an answer has them; shares: of the maps' height and width, what the picture
    fills.
    """
    title = f"{title}\nthe decoder's last attention, mean of its heads\neach map scaled to its own range"
    with _laid_over(path, picture, shares, maps, title) as axes:
        for axis, found in zip(axes, objects, strict=True):
            boxes(axis, [found])


def draw_points(path, picture, shares, maps, points, title):
    """Writes as PNG the picture (H, W, C) uint8 once for each point (y, x) in 0..1, marked, with its map (h, w) laid
    over it.

    maps (P, h, w); shares: as in `draw_objects`.
    """
    height, width = picture.shape[:2]
    title = f"{title}\nthe last attention among cells, mean of its heads\neach map scaled to its own range"
    with _laid_over(path, picture, shares, maps, title) as axes:
        for axis, (y, x) in zip(axes, points, strict=True):
            axis.plot(x * width, y * height, marker="o", color="white", markeredgecolor="black")


@contextlib.contextmanager
def _laid_over(path, picture, shares, maps, title):
    """Yields an axis for each map, with the picture and the map over it, of which it fills those shares of height and
    width; then writes the figure.
    """
    height, width = picture.shape[:2]
    columns, tall = min(4, len(maps)), min(max(height / width, 0.2), 3)  # of a tile one wide
    figure = new_figure(max(2.6 * columns, 5), 0.8 + 2.7 * tall * -(-len(maps) // columns))
    axes, step = tiles(figure, len(maps), columns), max(1, max(height, width) // 1024)
    for axis, values in zip(axes, maps, strict=True):
        show(axis, picture[::step, ::step], extent=(0, width, height, 0))  # matplotlib makes floats of every pixel
        extent = (0, width / shares[1], height / shares[0], 0)
        axis.imshow(values, extent=extent, cmap="inferno", alpha=0.6, interpolation="bilinear")
        axis.set(xlim=(0, width), ylim=(height, 0))
    yield axes
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def draw_positions(path, similarity, title):
    """Writes position_similarity's array as PNG: one tile for a patch, in its place, of its similarity with all
    patches.
    """
    rows, columns = similarity.shape[:2]
    steps = [slice(None, None, -(-side // LARGEST_MOSAIC)) for side in (rows, columns)]
    figure = new_figure(6.6, 6.2)
    axis = figure.subplots()
    drawn = axis.imshow(
        _mosaic(similarity[steps[0], steps[1]]), vmin=-1, vmax=1, cmap="viridis", interpolation="nearest"
    )
    axis.set(xticks=[], yticks=[], xlabel="column of the patch", ylabel="row of the patch")
    figure.colorbar(drawn, label="cosine similarity", shrink=0.8)
    thinned = " (thinned out)" if max(rows, columns) > LARGEST_MOSAIC else ""
    axis.set_title(f"{title}\nsimilarity of the {rows} x {columns} positions{thinned}", fontsize=11)
    save(figure, path, dpi=160)


def draw_filters(path, filters, title, columns=7):
    """Writes patch_filters' array as PNG, the leading component first; grey is 0, each scaled to its own range."""
    figure = new_figure(7, 0.6 + 0.98 * -(-len(filters) // columns))
    for axis, values in zip(tiles(figure, len(filters), columns), filters, strict=True):
        show(axis, 0.5 + values / (2 * np.abs(values).max()), vmin=0, vmax=1, interpolation="nearest")
    figure.suptitle(f"{title}\nprincipal components of the patch filters", fontsize=11)
    save(figure, path)


def _mosaic(grid):
    """Tiles (rows, columns, h, w) as one array with a line of NaN, which stays white, around every tile."""
    rows, columns, height, width = grid.shape
    framed = np.pad(grid.astype("float64"), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return framed.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
