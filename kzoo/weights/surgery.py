"""What changes of weights that were trained for another model: position tables of another grid, stems of other
channels.
"""

import math
from dataclasses import dataclass

import numpy as np

from kzoo import registry
from kzoo.archives.reading import REMEDY, damaged
from kzoo.errors import MissingPackage, UserError
from kzoo.keras_private import TooManyWeights, bounded, layers_in, skeleton
from kzoo.ops.resize import resample, resize_weights


@dataclass(frozen=True)
class Table:
    """Where a position table's rows belong: (rows, columns) of its grid, and the rows of class and register tokens
    before them.
    """

    grid_size: tuple[int, int]
    prefix: int
    method: str = "bicubic"  # how it is resized


def position_tables(model):
    """[(its weight, Table)] of every learned position table."""
    layers = [layer for layer in layers_in(model) if getattr(layer, "table", None) is not None]
    return [
        (layer.table, Table(tuple(layer.grid_size), layer.prefix, getattr(layer, "interpolation", "bicubic")))
        for layer in layers
        if hasattr(layer, "grid_size")
    ]


def position_layers(model):
    """{path of its table: Table} of every learned position table."""
    return {weight.path: table for weight, table in position_tables(model)}


def tables_of(checkpoint, model):
    """{path: Table} of a checkpoint whose model is known; {} of others."""
    if checkpoint.format == "model":
        return position_layers(checkpoint.model)
    if checkpoint.spec is None:
        return {}
    if _architecture(checkpoint.spec) == _architecture(model.spec):
        return position_layers(model)
    return position_layers(skeleton_of(checkpoint))


def skeleton_of(checkpoint):
    """The model that a checkpoint's spec names, with shapes and no values. Raises UserError as built_within()."""
    builder, config = registry.config_of(checkpoint.spec.name, checkpoint.spec.overrides)
    return built_within(checkpoint, lambda: builder(config), make=skeleton)


def built_within(checkpoint, build, make=bounded):
    """The model that `build()` returns, which a file asks for. Raises UserError where it has far more weights than the
    file holds.

    A model of ours has about the weights of its file: other libraries split some in three, and leave out what is zero,
    never half of it. The model is given up as soon as it declares more; whatever else goes wrong comes from what the
    file says.
    """
    tensors = checkpoint.tensors.values()
    most = 4 * len(tensors) + 100, 2 * sum(math.prod(tensor.shape) for tensor in tensors) + (1 << 20)
    try:
        return make(build, most)
    except TooManyWeights:
        raise damaged(checkpoint.path, "it describes a model of far more weights than it holds") from None
    except Exception as error:  # whatever Keras and the layers raise for settings that make no model
        if isinstance(error, MissingPackage):
            raise
        why = (str(error) if isinstance(error, UserError) else type(error).__name__).rstrip(".")
        raise UserError(
            f"the model that {checkpoint.path} describes cannot be built ({why}); "
            f"load it with the version of kzoo that wrote it, or {REMEDY}."
        ) from error


def _architecture(spec):
    return spec.name, {
        option: value
        for option, value in spec.overrides.items()
        if option not in ("num_classes", "in_channels", "remat")
    }


def grid_in(config):
    """(rows, columns) of patches by a Hugging Face config; None where it does not say."""
    size, patch = config.get("image_size"), config.get("patch_size")
    if not isinstance(patch, int) or patch < 1 or not isinstance(size, int | list):
        return None
    return tuple(side // patch for side in ([size, size] if isinstance(size, int) else size))


def guessed_table(checkpoint, new, rows):
    """The Table of so many rows in a file of others, which does not tell the grid: that of its config.json, else a
    square, else that of `new`, ours, where the number agrees; else None.
    """
    cells, ours = rows - new.prefix, math.prod(new.grid_size)
    told = grid_in(checkpoint.config)
    if told and math.prod(told) == cells:
        return Table(told, new.prefix)
    side = math.isqrt(max(cells, 0))
    if side * side == cells and side:
        return Table((side, side), new.prefix)
    return Table(new.grid_size, new.prefix) if cells == ours else None


def resize_table(table, old, new, method="bicubic", antialias=True):
    """A position table (1, prefix + rows * columns, D) for another grid; the prefix rows stay untouched. method: of
    resize_weights, or a key of OFFSET_RULES.
    """
    prefix, body = table[:, : old.prefix], table[0, old.prefix :]
    grid = body.reshape(*old.grid_size, -1)
    axes = zip(old.grid_size, new.grid_size, strict=True)
    if method in OFFSET_RULES:
        rows, columns = (OFFSET_RULES[method](a, b) for a, b in axes)
    else:
        rows, columns = (resize_weights(a, b, method, antialias=antialias) for a, b in axes)
    grid = resample(grid, rows, columns)
    return np.concatenate([prefix, grid.reshape(1, -1, table.shape[-1])], axis=1)


def plain_bicubic(size_in, size_out):
    """The (size_out, size_in) matrix by which Swin's official code resizes an axis of a table of offsets: torch's
    bicubic interpolation (Keys, a = -0.75) without antialiasing, the values at the ends going on beyond them.
    """
    matrix, a = np.zeros((size_out, size_in)), -0.75
    for i in range(size_out):
        place = (i + 0.5) * size_in / size_out - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            d = abs(place - j)
            near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
            matrix[i, min(max(j, 0), size_in - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return matrix.astype("float32")


def geometric(size_in, size_out):
    """The (size_out, size_in) matrix by which timm, after BEiT (https://arxiv.org/abs/2106.08254, official code),
    resizes an axis of a table of offsets.

    The values given lie at distances from the middle that grow as a geometric series up to about the new half, those
    wanted at whole distances, linearly between; so the middle stays as it is.
    """
    half, low, high = size_in // 2, 1.01, 1.5
    while high - low > 1e-6:  # the ratio whose series reaches the new half
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**half) / (1 - ratio) > size_out // 2 else (ratio, high)
    reached = np.cumsum([ratio**i for i in range(half)])
    given, wanted = np.concatenate([-reached[::-1], [0], reached]), np.arange(size_out) - size_out // 2
    return np.stack([np.interp(wanted, given, one) for one in np.eye(size_in)], axis=1).astype("float32")


OFFSET_RULES = {"plain_bicubic": plain_bicubic, "geometric": geometric}  # for tables of offsets


def keep_rows(table, own):
    """A table (rows, D) for another number of rows: the first of its own, and those of `own` (rows', D) beyond them."""
    return np.concatenate([table[: len(own)], own[len(table) :]])


def adapt_channels(kernel, channels):
    """A convolution's kernel (h, w, C, D) for another number of input channels, as timm adapts it.

    One channel takes the sum over C (a grey picture, its channel repeated, gives what it gave); more take the C
    repeated, scaled by C / channels so that the sum over all keeps its size.
    """
    given = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, math.ceil(channels / given), 1))[:, :, :channels]
    return (repeated * (given / channels)).astype(kernel.dtype)
