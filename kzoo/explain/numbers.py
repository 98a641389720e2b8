"""What a transformer looks at, and what its first layers have learned: numbers in NumPy."""

import itertools
import math

import keras
import numpy as np

from kzoo.errors import UsageError, UserError
from kzoo.layers.detector import FitPadding, PostNormBlock, QueryBlock
from kzoo.layers.embed import PatchEmbed, PositionEmbedding
from kzoo.layers.relative import RelativeBlock
from kzoo.layers.transformer import AttentionPool, TransformerBlock
from kzoo.registry import config_of_model


def attention(model, images, stage=-1, points=None):
    """What the pooled vector takes from each patch: float32 (B, layers, heads, H, W) on the grid of patches, layers in
    order. Of a detector: what each query takes from each cell of the encoder's map, (B, layers, heads, Q, H, W).

    images (B, height, width, C), normalised, or the structure that the model takes in their place. A layer's map is the
    softmax weights of the class token's query where that token is the pooled vector, else the mean over the patches'
    queries. Attention pooling adds one layer, the weights of its own query. A map sums to 1 less what goes to class and
    register tokens. Where attention comes in several stages, with grids or numbers of heads of their own, `stage`
    counts them: 0 the first, -1 the last.

    A detector takes {"image", "mask"}, as kzoo.preprocessor gives them; its maps are the decoder's, padded cells get
    nothing, and the others' weights sum to 1.

    points, [(y, x), ...] in 0..1 of the picture, from its upper left: instead, what the patches, or the cells of a
    detector's encoder, in which they lie take from each, (B, layers, heads, P, H, W); of a padded picture, in 0..1 of
    what is not padding.

    Raises UserError for a model without such attention, or without that stage, UsageError for other points.
    """
    if points is not None:
        return _of_points(model, images, stage, _checked(points))
    if _layers(model, FitPadding):
        weights, padded, _ = _of_cells(model, images, stage, QueryBlock, "queries")
        return _maps(weights, padded.shape[1:])
    weights, prefix, grid, pooling = _weights(model, images, stage)
    queries = _pooled_queries(model, weights[0].shape[-1], prefix)
    maps = [np.einsum("n,bhnm->bhm", queries, w)[..., prefix:] for w in weights]
    if pooling is not None:
        maps.append(pooling)
    return _maps(maps, grid)


def _maps(weights, grid):
    """Each layer's weights (B, heads, ..., H * W) as (B, layers, heads, ..., H, W)."""
    stacked = np.stack(list(weights), axis=1)
    return stacked.reshape(*stacked.shape[:-1], *grid)


def _checked(points):
    """(P, 2) float64. Raises UsageError for what are no points of a picture."""
    try:
        found = np.asarray(points, "float64")
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise UsageError(f"points are pairs (y, x) in 0..1 of the picture, one or more, not {points!r}.")
    return found


def _of_points(model, images, stage, points):
    if not _layers(model, FitPadding):
        weights, prefix, grid, _ = _weights(model, images, stage, points)
        return _maps((w[..., prefix:] for w in weights), grid)
    weights, padded, filled = _of_cells(model, images, stage, PostNormBlock, "encoder")
    grid = padded.shape[1:]
    chosen = _cells_at(points[None] * filled[:, None], grid, _real(padded)[:, None])[:, None, :, None]
    return _maps((np.take_along_axis(w, chosen, axis=2) for w in weights), grid)


def _cells_at(points, grid, real):
    """The cells of a grid (rows, columns), counted row by row, in which points (..., 2) in 0..1 lie; of those beyond
    its `real` rows and columns, the last: the end of a picture lies in its last cell.
    """
    cells = np.maximum(np.minimum(np.floor(points * grid).astype(int), np.asarray(real) - 1), 0)
    return cells[..., 0] * grid[1] + cells[..., 1]


def _of_cells(model, images, stage, kind, what):
    """(weights (B, heads, Q, N) of each block of that kind, one after the other, padded (B, H, W) bool of the cells,
    (B, 2) the shares of height and width that are not padding) of a model whose pictures are padded.
    """
    blocks, fitted = _layers(model, kind), _layers(model, FitPadding)[0]
    if not blocks:
        raise UserError(f"{_name(model)}, as built here, has no {what} to show the attention of.")
    _require_stage(model, stage, 1)
    tapped = keras.Model(model.input, [*(block.input for block in blocks), fitted.input[0], fitted.output])
    *given, mask, padded = tapped(images, training=False)
    mask, padded = (keras.ops.convert_to_numpy(tensor) for tensor in (mask, padded))
    # blocks one at a time: the weights of one among all cells are many
    weights = (_numpy(block.attend(*x)) for block, x in zip(blocks, given, strict=True))
    return weights, padded, _real(mask) / mask.shape[1:]


def _real(padded):
    """(B, 2): how many rows and columns of padded (B, H, W) are not padding alone."""
    return np.stack([(~padded).any(axis=axis).sum(axis=1) for axis in (2, 1)], axis=1)


def _require_stage(model, stage, count):
    if not -count <= stage < count:
        raise UserError(
            f"{_name(model)} has {count} stages of attention; stage must lie in 0..{count - 1}, not be {stage}."
        )


def rollout(model, images):
    """How much of each patch arrives in the pooled vector through all layers: float32 (B, H, W) on the grid of patches.

    Attention rollout (https://arxiv.org/abs/2005.00928): a layer passes on the mean of the heads' weights and, along
    the residual connection, its own input, half each; the layers are multiplied. It sums to 1 less what comes from
    class and register tokens. Of several stages it is the last one's. images and errors as in `attention`; a detector
    has no pooled vector.
    """
    if _layers(model, FitPadding):
        raise UserError(
            f"{_name(model)} pools no vector, which a rollout would follow; kzoo.attention shows its queries."
        )
    weights, prefix, grid, pooling = _weights(model, images, -1)
    count = weights[0].shape[-1]
    if pooling is None:
        flow = np.tile(_pooled_queries(model, count, prefix), (len(weights[0]), 1))
    else:
        flow = np.pad(pooling.mean(axis=1), ((0, 0), (prefix, 0)))
    for w in reversed(weights):  # from the pooled vector back to the input: vectors times matrices
        flow = (flow + np.einsum("bn,bnm->bm", flow, w.mean(axis=1))) / 2
    return flow[:, prefix:].reshape(-1, *grid)


def _weights(model, images, stage, points=None):
    """([weights (B, heads, N, N) of each block], prefix tokens, grid, weights of attention pooling (B, heads, N -
    prefix) or None). Of points (P, 2): the rows of the patches in which they lie, (B, heads, P, N).
    """
    stages = _stages(model)
    _require_stage(model, stage, len(stages))
    blocks = stages[stage]
    pools = _layers(model, AttentionPool) if blocks is stages[-1] else []
    grid = (
        blocks[0].output.shape[1:-1]
        if len(blocks[0].output.shape) == 4
        else getattr(config_of_model(model), "grid", None)
    )
    if grid is None:
        raise UserError(f"{_name(model)} has attention, but not between the cells of a grid; there is no map to show.")
    tapped = keras.Model(model.input, [layer.input for layer in blocks + pools])(images, training=False)
    tapped = tapped if isinstance(tapped, list) else [tapped]
    first = blocks[0].input.shape
    prefix = first[1] - math.prod(grid) if len(first) == 3 else 0
    if prefix < 0:
        raise UserError(
            f"these blocks of {_name(model)} see some patches alone, so there is no map; ask its encoder "
            "(num_classes=0)."
        )
    tokens = None if points is None else prefix + _cells_at(points, grid, grid)
    weights = [_attended(block, x, tokens) for block, x in zip(blocks, tapped, strict=False)]
    pooling = _numpy(pools[0].attend(tapped[-1])[1])[:, :, 0] if pools else None
    return weights, prefix, grid, pooling


def _attended(block, x, queries):
    """The weights (B, heads, N, N) of a block, of what its input is; of queries (P,), their rows alone."""
    found = block.attend(x)
    if isinstance(found, list):  # within windows: of each share of the heads
        shape = len(x), math.prod(x.shape[1:3])
        return np.concatenate([_spread(_numpy(weights), cells, shape, queries) for weights, cells in found], axis=1)
    weights = _numpy(found)
    return weights if queries is None else weights[:, :, queries]


def _spread(weights, cells, shape, queries):
    """Weights within windows (B * W, heads, n, n) as those among all cells, (B, heads, N, N) or the rows of the
    queries; `shape` is (B, N).

    cells (W, n): which each window holds, -1 for what only fills it.
    """
    batch, count = shape
    weights = weights.reshape(batch, len(cells), *weights.shape[1:])
    whole = np.zeros((batch, weights.shape[2], count if queries is None else len(queries), count), "float32")
    for window, held in enumerate(cells):
        keys = np.flatnonzero(held >= 0)
        if queries is None:
            whole[:, :, held[keys][:, None], held[keys]] = weights[:, window][:, :, keys[:, None], keys]
        for row, query in enumerate(() if queries is None else queries):
            for place in np.flatnonzero(held == query):
                whole[:, :, row, held[keys]] = weights[:, window, :, place][..., keys]
    return whole


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
