"""Attention within stripes of a map, half of the heads' upright and half of them level (CSWin,
https://arxiv.org/abs/2107.00652).
"""

import keras
import numpy as np
from keras import ops

from kzoo.layers.base import framed, side
from kzoo.layers.transformer import Attention, TransformerBlock, attention_weights
from kzoo.layers.windows import assembled, partition

UNSEEN = -1e4  # what is added to the scores of the cells that only fill a stripe up: their share of a softmax is 0


def _filling(length, step):
    """(zeros before, zeros behind) that make a side a multiple of the step, half each: where the official detector has
    them.
    """
    lacking = -length % step
    return lacking // 2, lacking - lacking // 2


@keras.saving.register_keras_serializable(package="kzoo")
class StripeAttention(Attention):
    """Attention within stripes of a map, and a convolution of the values inside each: (B, H, W, D) -> the same.

    The first half of the channels and heads looks within stripes of split_size columns and all rows, the second within
    stripes of split_size rows and all columns; split_size None: all heads look at the whole map. To what the heads
    take, before they are joined, a depthwise 3x3 convolution of the values is added, for which a stripe ends in zeros:
    it tells the places apart. Where stripes do not divide a map, it is filled with zeros on both sides, which no cell
    looks at: the paper is silent, and the official detector lets them be looked at. D / num_heads channels a head.
    """

    def __init__(self, dim, num_heads, split_size=None, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.split_size, self.dim, self.count = split_size, dim, 1 if split_size is None else 2
        # a layer each: recomputing (Remat) knows of one draw a layer
        self.level_drop = keras.layers.Dropout(self.attn_drop.rate, dtype=self.dtype_policy, name="level_drop")
        self.convs = [
            keras.layers.DepthwiseConv2D(3, padding="same", dtype=self.dtype_policy, name=f"get_v_{i}")
            for i in range(self.count)
        ]

    def windows(self, height, width):
        """[((rows, columns) of a stripe, rows of zeros (before, behind), columns of zeros)] of each half of the
        heads.
        """
        if self.split_size is None:
            return [((height, width), (0, 0), (0, 0))]
        step = self.split_size
        return [((height, step), (0, 0), _filling(width, step)), ((step, width), _filling(height, step), (0, 0))]

    def build(self, input_shape):
        batch, height, width, _ = input_shape
        self.qkv.build(input_shape)
        for conv, (_, rows, columns) in zip(self.convs, self.windows(height or 0, width or 0), strict=True):
            # the whole map: as many cells as all stripes have
            sides = (n and n + sum(added) for n, added in ((height, rows), (width, columns)))
            conv.build((batch, *sides, self.dim // self.count))
        self.proj.build(input_shape)

    def _shares(self, x):
        """What each half of the heads has of q, k and v: [(B, H, W, 3 D / count)]."""
        sides, dim = (side(x, 1), side(x, 2)), self.dim // self.count
        qkv = self.qkv(ops.reshape(x, (-1, self.dim)))
        if self.count == 1:
            return [ops.reshape(qkv, (-1, *sides, 3 * dim))]
        halves = ops.unstack(ops.transpose(ops.reshape(qkv, (-1, 3, 2, dim)), (2, 0, 1, 3)), 2)
        return [ops.reshape(half, (-1, *sides, 3 * dim)) for half in halves]

    def _branch(self, qkv, conv, drop, place, training):
        """One half's (output (B, H, W, D / count), weights (B * stripes, heads / count, N, N))."""
        window, rows, columns = place
        height, width = side(qkv, 1), side(qkv, 2)
        (h, w), heads, dim = window, self.num_heads // self.count, self.dim // self.count
        whole = framed(qkv, rows, columns)
        x = partition(whole, window)
        parts = ops.transpose(ops.reshape(x, (-1, h * w, 3, heads, self.head_dim)), (2, 0, 3, 1, 4))
        q, k, v = ops.unstack(parts, 3)
        weights = self._within(q, k, key_mask(height, width, place))
        taken = ops.reshape(self.taken(weights, v, training, drop), (-1, h, w, dim))
        y = taken + conv(ops.reshape(x[..., 2 * dim :], (-1, h, w, dim)))
        y = assembled(ops.reshape(y, (-1, h * w, dim)), window, side(whole, 1), side(whole, 2))
        if whole is not qkv:
            y = y[:, rows[0] : rows[0] + height, columns[0] : columns[0] + width]
        return y, weights

    def _within(self, q, k, mask):
        """The weights of queries and keys (B * stripes, heads, N, head_dim); mask (stripes, 1, N), or None."""
        if mask is None:
            return attention_weights(q, k)
        heads, cells = q.shape[1], side(q, 2)
        mask = (np if isinstance(mask, np.ndarray) else ops).repeat(
            mask, heads, axis=0
        )  # stripes and heads as one axis
        viewed = (ops.reshape(part, (-1, side(mask, 0), cells, self.head_dim)) for part in (q, k))
        return ops.reshape(attention_weights(*viewed, ops.convert_to_tensor(mask)), (-1, heads, cells, cells))

    def _branches(self, x, training):
        places = self.windows(side(x, 1), side(x, 2))
        drops = (self.attn_drop, self.level_drop)[: self.count]
        found = zip(self._shares(x), self.convs, drops, places, strict=True)
        return [self._branch(*share, training) for share in found]

    def attend(self, x, training=None):
        """(output (B, H, W, D), [(weights (B * stripes, heads, N, N), cells (stripes, N) that they are of)])."""
        found = self._branches(x, training)
        seen = [
            (weights, cells_of(x.shape[1:3], place))
            for (_, weights), place in zip(found, self.windows(*x.shape[1:3]), strict=True)
        ]
        return self._projected([y for y, _ in found], training), seen

    def _projected(self, parts, training):
        x = ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        sides = side(x, 1), side(x, 2)
        x = self.proj_drop(self.proj(ops.reshape(x, (-1, self.dim))), training=training)
        return ops.reshape(x, (-1, *sides, self.dim))

    def call(self, x, training=None):
        return self._projected([y for y, _ in self._branches(x, training)], training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        """Multiply-accumulates of the two products between the cells of all stripes."""
        found = 0
        for (h, w), rows, columns in self.windows(*input_shape[1:3]):
            cells = (input_shape[1] + sum(rows)) * (input_shape[2] + sum(columns))
            found += 2 * h * w * cells * self.dim // self.count
        return found


def key_mask(height, width, place):
    """What is added to the scores of a filled map's cells: (stripes, 1, N) float32, 0 or UNSEEN; None where nothing
    fills it. `place`: as StripeAttention.windows has it.
    """
    window, rows, columns = place
    known = all(isinstance(n, int) for n in (*rows, *columns))
    if known and not any((*rows, *columns)):
        return None
    known = known and isinstance(height, int) and isinstance(width, int)
    xp = np if known else ops
    real = [_real(length, around, xp) for length, around in ((height, rows), (width, columns))]
    seen = partition((real[0][:, None] * real[1])[None, :, :, None], window, xp)
    return xp.transpose((1 - seen) * UNSEEN, (0, 2, 1))


def _real(length, around, xp):
    """1 for the places of a side, 0 for those around it."""
    places = xp.arange(length + around[0] + around[1], dtype="int32")
    real = xp.logical_and(places >= around[0], places < around[0] + length)
    return real.astype("float32") if xp is np else ops.cast(real, "float32")


def cells_of(map_size, place):
    """Which cell of a map (height, width), counted row by row, stands at each place of each stripe: int (stripes, N),
    -1 for filling.
    """
    window, rows, columns = place
    counted = np.arange(map_size[0] * map_size[1]).reshape(map_size)
    return partition(np.pad(counted, (rows, columns), constant_values=-1)[None, :, :, None], window, np)[..., 0]


@keras.saving.register_keras_serializable(package="kzoo")
class StripeBlock(TransformerBlock):
    """The pre-norm block on maps, its attention within stripes: (B, H, W, D) -> the same. split_size: as in
    StripeAttention; the other options are TransformerBlock's.
    """

    def __init__(self, dim, num_heads, split_size=None, **kwargs):
        self.split_size = split_size
        super().__init__(dim, num_heads, **kwargs)

    def make_attention(self, dim, num_heads, **kwargs):
        return StripeAttention(dim, num_heads, self.split_size, **kwargs)
