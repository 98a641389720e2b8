"""What a vision transformer looks at, and what its first layers have learned: numbers in NumPy, and pictures of
them.
"""

import itertools
import math

import keras
import numpy as np

from kzoo.errors import UserError
from kzoo.figures import new_figure, save, show, tiles
from kzoo.layers.embed import PatchEmbed, PositionEmbedding
from kzoo.layers.relative import RelativeBlock
from kzoo.layers.transformer import AttentionPool, TransformerBlock
from kzoo.ops.resize import resample, resize_weights
from kzoo.registry import config_of_model

LARGEST_MOSAIC = 16  # position tables of more rows or columns are thinned out, to stay legible


def attention(model, images, stage=-1):
    """What the pooled vector takes from each patch: float32 (B, layers, heads, H, W) on the grid of patches, layers in
    order.

    images (B, height, width, C), normalised, or the structure that the model takes in their place. A layer's map is the
    softmax weights of the class token's query where that token is the pooled vector, else the mean over the patches'
    queries. Attention pooling adds one layer, the weights of its own query. A map sums to 1 less what goes to class and
    register tokens. Where attention comes in several stages, with grids or numbers of heads of their own, `stage`
    counts them: 0 the first, -1 the last. Raises UserError for a model without attention, or without that stage.
    """
    weights, prefix, grid, pooling = _weights(model, images, stage)
    queries = _pooled_queries(model, weights[0].shape[-1], prefix)
    maps = [np.einsum("n,bhnm->bhm", queries, w)[..., prefix:] for w in weights]
    if pooling is not None:
        maps.append(pooling)
    return np.stack(maps, axis=1).reshape(len(maps[0]), len(maps), -1, *grid)


def rollout(model, images):
    """How much of each patch arrives in the pooled vector through all layers: float32 (B, H, W) on the grid of patches.

    Attention rollout (https://arxiv.org/abs/2005.00928): a layer passes on the mean of the heads' weights and, along
    the residual connection, its own input, half each; the layers are multiplied. It sums to 1 less what comes from
    class and register tokens. Of several stages it is the last one's. images and errors as in `attention`.
    """
    weights, prefix, grid, pooling = _weights(model, images, -1)
    count = weights[0].shape[-1]
    if pooling is None:
        flow = np.tile(_pooled_queries(model, count, prefix), (len(weights[0]), 1))
    else:
        flow = np.pad(pooling.mean(axis=1), ((0, 0), (prefix, 0)))
    for w in reversed(weights):  # from the pooled vector back to the input: vectors times matrices
        flow = (flow + np.einsum("bn,bnm->bm", flow, w.mean(axis=1))) / 2
    return flow[:, prefix:].reshape(-1, *grid)


def _weights(model, images, stage):
    """([weights (B, heads, N, N) of each block], prefix tokens, grid, weights of attention pooling (B, heads, N -
    prefix) or None).
    """
    stages = _stages(model)
    if not -len(stages) <= stage < len(stages):
        raise UserError(
            f"{_name(model)} has {len(stages)} stages of attention; stage must lie in 0..{len(stages) - 1}, not be "
            f"{stage}."
        )
    blocks = stages[stage]
    pools = _layers(model, AttentionPool) if blocks is stages[-1] else []
    grid = blocks[0].map_size if isinstance(blocks[0], RelativeBlock) else getattr(config_of_model(model), "grid", None)
    if grid is None:
        raise UserError(f"{_name(model)} has attention, but not between the cells of a grid; there is no map to show.")
    tapped = keras.Model(model.input, [layer.input for layer in blocks + pools])(images, training=False)
    tapped = tapped if isinstance(tapped, list) else [tapped]
    weights = [_numpy(block.attend(x)) for block, x in zip(blocks, tapped, strict=False)]
    pooling = _numpy(pools[0].attend(tapped[-1])[1])[:, :, 0] if pools else None
    prefix = weights[0].shape[-1] - math.prod(grid)
    if prefix < 0:
        raise UserError(
            f"these blocks of {_name(model)} see some patches alone, so there is no map; ask its encoder "
            "(num_classes=0)."
        )
    return weights, prefix, grid, pooling


def _stages(model):
    """The blocks of each stage of attention, at least one stage: blocks in a row of one grid, one width and one number
    of heads.
    """
    blocks = _layers(model, (TransformerBlock, RelativeBlock))
    if not blocks:
        raise UserError(
            f"{_name(model)} has no attention to show; choose a model of transformer blocks, such as a ViT."
        )
    return [
        list(found)
        for _, found in itertools.groupby(blocks, key=lambda block: (block.output.shape, block.attn.num_heads))
    ]


def _layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def _numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def _pooled_queries(model, count, prefix):
    """The share (N,) of each token's query in the pooled vector: the class token's alone, or the patches' in equal
    parts.
    """
    config = config_of_model(model) if prefix else None
    by_token = (
        prefix
        and getattr(config, "class_token", False)
        and getattr(config, "global_pool", "token") in ("token", "none")
    )
    queries = np.zeros(count, "float32")
    queries[0 if by_token else slice(prefix, None)] = 1 if by_token else 1 / (count - prefix)
    return queries


def position_similarity(model):
    """Cosine similarity of every patch's position with every other's: float32 (rows, columns, rows, columns), as the
    ViT paper's Figure 7.

    Raises UserError for a model without a table of positions.
    """
    layer = _first(model, PositionEmbedding, "table of positions")
    table = layer.fixed if layer.table is None else _numpy(layer.table)[0]
    patches = table[-math.prod(layer.grid_size) :]
    unit = patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-12)
    return (unit @ unit.T).reshape(*layer.grid_size, *layer.grid_size)


def patch_filters(model, count=28):
    """The leading principal components of the filters that embed a patch: float32 (count, p, p, C), as the ViT paper's
    Figure 7.

    Each has unit length, its largest value positive; fewer where there are not so many. Raises UserError for a model
    that does not embed patches by one linear map.
    """
    kernel = _numpy(_first(model, PatchEmbed, "linear map of patches").proj.kernel)  # (p, p, C, D)
    filters = kernel.reshape(-1, kernel.shape[-1]).T
    components = np.linalg.svd(filters - filters.mean(axis=0), full_matrices=False)[2][:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return (components * np.sign(largest)).reshape(-1, *kernel.shape[:3])


def _first(model, kind, what):
    found = _layers(model, kind)
    if not found:
        raise UserError(f"{_name(model)} has no {what} to show.")
    return found[0]


def _name(model):
    spec = getattr(model, "spec", None)
    return spec.name if spec else "this model"


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
