"""Attention within windows of a map, which shift from block to block (Swin, https://arxiv.org/abs/2103.14030).

Windows are cut out by reshaping and transposing alone and shift by slices put together anew: no table of indices in a
graph, and never more than five axes. The mask of a shift is a constant for maps of a fixed size.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from kzoo.layers.base import ZooLayer, framed, side
from kzoo.layers.relative import OffsetTable
from kzoo.layers.transformer import Attention, TransformerBlock, attention_weights

APART = -100.0  # what is added to the scores of cells that met by the shift alone: the official figure, not -infinity


def partition(x, window, xp=ops):
    """The windows of a map: (B, R * h, S * w, C) -> (B * R * S, h * w, C), row by row, as their cells are; window is
    (h, w).
    """
    (h, w), channels = window, x.shape[3]
    x = xp.reshape(x, (-1, h, side(x, 2) // w, w * channels))
    return xp.reshape(xp.transpose(x, (0, 2, 1, 3)), (-1, h * w, channels))


def assembled(x, window, height, width):
    """The map (B, height, width, C) of its windows (B * R * S, h * w, C): what `partition` cut, in its place again."""
    (h, w), channels = window, x.shape[2]
    x = ops.transpose(ops.reshape(x, (-1, width // w, h, w * channels)), (0, 2, 1, 3))
    return ops.reshape(x, (-1, height, width, channels))


def rolled(x, shift):
    """The map (B, H, W, C) moved up and to the left by shift (rows, columns), what leaves it coming in opposite;
    negative numbers move it back.
    """
    rows, columns = shift
    if rows:
        x = ops.concatenate([x[:, rows:], x[:, :rows]], axis=1)
    return ops.concatenate([x[:, :, columns:], x[:, :, :columns]], axis=2) if columns else x


def filled(x, window):
    """The map with zeros below and to the right, where its sides (axes 1 and 2) are no multiples of the window's."""
    return framed(x, *((0, -side(x, axis) % length) for axis, length in enumerate(window, 1)))


def shift_mask(height, width, window, shift, xp=np):
    """What is added to the scores of a shifted map (height, width), of whole windows: (windows, N, N) float32, 0 or
    APART.

    A window at the border holds cells from opposite ends of the map, which do not look at each other.
    """
    rows, columns = (_regions(n, w, s, xp) for n, w, s in zip((height, width), window, shift, strict=True))
    regions = partition((3 * rows[:, None] + columns)[None, :, :, None], window, xp)
    return xp.where(regions == xp.transpose(regions, (0, 2, 1)), np.float32(0), np.float32(APART))


def _regions(length, window, shift, xp):
    """Of each place along an axis: 0 before the last window, 1 in it, 2 where it came in by the shift."""
    places = xp.arange(length, dtype="int32")
    last, new = places >= length - window, places >= length - shift
    return last.astype("int32") + new.astype("int32") if xp is np else ops.cast(last, "int32") + ops.cast(new, "int32")


_fixed_mask = functools.lru_cache(maxsize=64)(shift_mask)


@keras.saving.register_keras_serializable(package="kzoo")
class WindowAttention(Attention):
    """Attention among the N = h * w cells of each window, with a static bias for the offset between two of them: (B *
    windows, N, D) -> the same.

    It is built for the shape (B, windows, N, D), or (windows, N, D). attn_mask (windows, N, N) is added to the scores.
    """

    def __init__(self, dim, num_heads, window_size, **kwargs):
        super().__init__(dim, num_heads, **kwargs)
        self.rel_pos = OffsetTable(window_size, num_heads, "plain_bicubic", dtype=self.dtype_policy, name="rel_pos")

    def build(self, input_shape):
        self.qkv.build(input_shape)
        for norm in self.norms:
            norm.build((None, self.num_heads, input_shape[-2], self.head_dim))
        self.proj.build((*input_shape[:-1], self.num_heads * self.head_dim))
        self.rel_pos.build()

    def _weights(self, q, k, training, attn_mask=None):
        bias = self.rel_pos.bias(training)
        if attn_mask is None:
            return attention_weights(q, k, bias)
        # Heads and windows as one axis: of each of them one bias, added once.
        bias, attn_mask = (ops.cast(part, "float32") for part in (bias, attn_mask))
        bias = ops.reshape(bias + attn_mask[:, None], (-1, *bias.shape[1:]))
        q, k = (ops.reshape(part, (-1, side(bias, 0), *part.shape[2:])) for part in (q, k))
        return ops.reshape(attention_weights(q, k, bias), (-1, self.num_heads, *bias.shape[1:]))

    def attend(self, x, training=None, attn_mask=None):
        q, k, v = self.queries_keys_values(x)
        weights = self._weights(q, k, training, attn_mask)
        return self.projected(self.taken(weights, v, training), training), weights

    def call(self, x, training=None, attn_mask=None):
        return self.attend(x, training, attn_mask)[0]

    def compute_output_shape(self, input_shape):
        return input_shape

    def macs(self, input_shape):
        return math.prod(input_shape[1:-2]) * super().macs(input_shape[-3:])


@keras.saving.register_keras_serializable(package="kzoo")
class WindowBlock(TransformerBlock):
    """The pre-norm block on maps, its attention within windows (h, w): (B, H, W, D) -> the same, of any H and W.

    shift_size (rows, columns): by how much the map is moved before it is cut. Where the windows do not divide it, it is
    filled with zeros, which are seen as any cell is: behind the moved map, as timm does, or (pad_first) behind the map
    before it is moved, as the official detectors and transformers do. The other options are TransformerBlock's.
    """

    def __init__(self, dim, num_heads, window_size, shift_size=(0, 0), pad_first=False, **kwargs):
        self.window_size, self.shift_size, self.pad_first = tuple(window_size), tuple(shift_size), pad_first
        super().__init__(dim, num_heads, **kwargs)

    def make_attention(self, dim, num_heads, **kwargs):
        return WindowAttention(dim, num_heads, self.window_size, **kwargs)

    def build(self, input_shape):
        batch, *sides, dim = input_shape
        counts = [n and -(-n // w) for n, w in zip(sides, self.window_size, strict=True)]
        windows, (h, w) = None if None in counts else counts[0] * counts[1], self.window_size
        self.attn.build((batch, windows, h * w, dim))
        for part in (self.norm1, *self.scales[:1], self.norm2, self.mlp, *self.scales[1:]):
            part.build(input_shape)

    def windows(self, x):
        """The windows of a map, moved and filled: (B, H, W, C) -> (B * windows, N, C)."""
        if self.pad_first:
            x = rolled(filled(x, self.window_size), self.shift_size)
        else:
            x = filled(rolled(x, self.shift_size), self.window_size)
        return partition(x, self.window_size)

    def _sides(self, x):
        """((height, width) of a map, the same of whole windows)."""
        sides = side(x, 1), side(x, 2)
        return sides, tuple(-(-n // w) * w for n, w in zip(sides, self.window_size, strict=True))

    def _mask(self, x):
        """What keeps cells of the map x apart that met by the shift; None without one."""
        if not any(self.shift_size):
            return None
        whole = self._sides(x)[1]
        if all(isinstance(length, int) for length in whole):
            return _fixed_mask(*whole, self.window_size, self.shift_size)
        return shift_mask(*whole, self.window_size, self.shift_size, ops)

    def mixed(self, x, training):
        (height, width), whole = self._sides(x)
        y = self.attn(self.windows(x), training=training, attn_mask=self._mask(x))
        y, back = assembled(y, self.window_size, *whole), tuple(-by for by in self.shift_size)
        if self.pad_first:
            y = rolled(y, back)
        if not all(isinstance(n, int) for n in whole) or whole != (height, width):
            y = y[:, :height, :width]
        return y if self.pad_first else rolled(y, back)

    def attend(self, x):
        """[(weights (B * windows, heads, N, N) outside of training, cells (windows, N) that they are of)]: see
        `cells`.
        """
        weights = self.attn.attend(self.windows(self.norm1(x)), False, self._mask(x))[1]
        return [(weights, self.cells(x.shape[1:3]))]

    def cells(self, map_size):
        """Which cell of a map (height, width), counted row by row, stands at each place of each window: int (windows,
        N), -1 for filling.
        """
        counted = np.arange(1, 1 + map_size[0] * map_size[1], dtype="int32").reshape(1, *map_size, 1)
        return ops.convert_to_numpy(self.windows(ops.convert_to_tensor(counted)))[..., 0] - 1


@keras.saving.register_keras_serializable(package="kzoo")
class PatchMerging(ZooLayer):
    """Every 2x2 cells of a map as one, normalised and projected: (B, H, W, D) -> (B, ceil(H / 2), ceil(W / 2), 2 D).

    The four are put together column by column: (0, 0), (1, 0), (0, 1), (1, 1) of (row, column). A map of an odd side
    is filled with zeros behind.
    """

    def __init__(self, dim, norm_eps=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        policy = self.dtype_policy
        self.norm = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm")
        self.reduction = keras.layers.Dense(2 * dim, use_bias=False, dtype=policy, name="reduction")

    def _halved(self, input_shape):
        return (input_shape[0], *(n and -(-n // 2) for n in input_shape[1:3]))

    def build(self, input_shape):
        shape = (*self._halved(input_shape), 4 * self.dim)
        self.norm.build(shape)
        self.reduction.build(shape)

    def compute_output_shape(self, input_shape):
        return (*self._halved(input_shape), 2 * self.dim)

    def call(self, x):
        x = filled(x, (2, 2))
        rows, columns = (side(x, axis) // 2 for axis in (1, 2))
        x = ops.transpose(
            ops.reshape(x, (-1, 2, columns, 2, self.dim)), (0, 2, 3, 1, 4)
        )  # row by row of what comes out
        x = self.reduction(self.norm(ops.reshape(x, (-1, 4 * self.dim))))
        return ops.reshape(x, (-1, rows, columns, 2 * self.dim))
