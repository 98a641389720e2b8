"""Attention between the cells of a map that also knows how far apart they are (CoAtNet,
https://arxiv.org/abs/2106.04803).

Every layer and head has a bias of its own for each offset between two cells, whatever the picture shows.
"""

import math

import keras
import numpy as np
from keras import ops

from kzoo.layers.base import Remat, ZooLayer
from kzoo.layers.conv import BatchNorm
from kzoo.layers.embed import require_table
from kzoo.layers.mbconv import Downsample
from kzoo.layers.transformer import Attention, DropPath, LayerScale, Mlp, attention_weights, dense


def windows(x, size):
    """(2 size - 1, M) -> (size, size, M): [k, q] is x[q - k + size - 1], what lies at the offset q - k from the middle.

    By repeating, cutting and reshaping alone: exact, no table of indices in the graph, and a gradient that is a plain
    sum.
    """
    rows = ops.pad(x, ((0, 1), (0, 0)))  # rows of the result then start one place earlier each
    rows = ops.reshape(ops.broadcast_to(rows[None], (size, *rows.shape)), (-1, x.shape[1]))
    first, step = size - 1, 2 * size - 1
    return ops.reshape(rows[first : first + size * step], (size, step, x.shape[1]))[:, :size]


def bias_of_offsets(table, rows, columns):
    """(2 rows - 1, 2 columns - 1, heads) -> (heads, N, N) of the N = rows * columns cells, row-major.

    [h, q, k] is the table's value at (row of q - row of k + rows - 1, column of q - column of k + columns - 1).
    """
    heads = table.shape[-1]
    x = ops.reshape(windows(ops.reshape(table, (2 * rows - 1, -1)), rows), (rows * rows, 2 * columns - 1, heads))
    x = windows(ops.reshape(ops.transpose(x, (1, 0, 2)), (2 * columns - 1, -1)), columns)
    # of heads, and of q and k: row, column
    x = ops.transpose(ops.reshape(x, (columns, columns, rows, rows, heads)), (4, 3, 1, 2, 0))
    return ops.reshape(x, (heads, rows * columns, rows * columns))


class _OffsetBias(ZooLayer):
    """A static bias for each head and offset between two cells of a map; a subclass has the values of all offsets.

    `_values(training)` are (2 rows - 1) * (2 columns - 1) * heads in all, of offsets query - key, row-major;
    `grid_size` is their grid.
    """

    no_weight_decay = True

    def __init__(self, map_size, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.map_size, self.num_heads = tuple(map_size), num_heads
        self.grid_size = tuple(2 * side - 1 for side in self.map_size)

    def bias(self, training=None):
        """(heads, N, N), of queries and keys; N = rows * columns, row-major."""
        table = ops.reshape(self._values(training), (*self.grid_size, self.num_heads))
        return bias_of_offsets(table, *self.map_size)


@keras.saving.register_keras_serializable(package="kzoo")
class OffsetTable(_OffsetBias):
    """The bias as one learned `table` (1, offsets, heads), which can be resized to another `grid_size`: bilinearly, as
    the paper does, or by another `interpolation` that kzoo.weights.surgery knows.
    """

    prefix = 0

    def __init__(self, map_size, num_heads, interpolation="bilinear", **kwargs):
        super().__init__(map_size, num_heads, **kwargs)
        self.interpolation = interpolation

    def build(self, input_shape=None):
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.table = self.add_weight((1, math.prod(self.grid_size), self.num_heads), initializer=normal, name="table")

    def _values(self, training):
        return self.table


@keras.saving.register_keras_serializable(package="kzoo")
class OffsetMlp(_OffsetBias):
    """The bias as a function of the offset, learned by a small MLP: its weights serve every resolution
    (https://arxiv.org/abs/2111.09883).

    Its input is sign(d) log(1 + |d|) of the rows and columns d between two cells.
    """

    def __init__(self, map_size, num_heads, hidden_dim=512, **kwargs):
        super().__init__(map_size, num_heads, **kwargs)
        policy = self.dtype_policy
        self.fc1 = dense(hidden_dim, policy, "fc1", bias_stddev=1e-6)
        self.drop = keras.layers.Dropout(0.125, dtype=policy, name="drop")
        self.fc2 = dense(num_heads, policy, "fc2", bias_stddev=1e-6)
        require_table(*self.grid_size, 2)
        steps = [np.arange(1 - side, side) for side in self.map_size]
        offsets = np.stack(np.meshgrid(*(np.sign(d) * np.log1p(np.abs(d)) for d in steps), indexing="ij"), axis=-1)
        self.offsets = offsets.reshape(1, -1, 2).astype("float32")

    def build(self, input_shape=None):
        self.fc1.build(self.offsets.shape)
        self.fc2.build((*self.offsets.shape[:2], self.fc1.units))

    def _values(self, training):
        hidden = ops.relu(self.fc1(ops.convert_to_tensor(self.offsets, dtype=self.compute_dtype)))
        return self.fc2(self.drop(hidden, training=training))


@keras.saving.register_keras_serializable(package="kzoo")
class RelativeAttention(Attention):
    """Attention (B, N, D) -> (B, N, out_dim) with a static bias for the offset between two cells of a map (rows,
    columns), N in all.

    bias_place "pre" adds it to the scores, inside the softmax, "post" to the weights after it: the paper's two forms.
    mlp_dim: the bias comes from an MLP of that hidden width; None: from a table. Columns of the fused projection are
    heads, each q | k | v, as timm has them.
    """

    def __init__(
        self,
        dim,
        num_heads,
        head_dim,
        map_size,
        out_dim=None,
        bias_place="pre",
        mlp_dim=None,
        attn_drop_rate=0.0,
        proj_drop_rate=0.0,
        **kwargs,
    ):
        drops = {"attn_drop_rate": attn_drop_rate, "proj_drop_rate": proj_drop_rate}
        super().__init__(dim, num_heads, head_dim, out_dim=out_dim, **drops, **kwargs)
        self.bias_place = bias_place
        common = {"dtype": self.dtype_policy, "name": "rel_pos"}
        self.rel_pos = (
            OffsetMlp(map_size, num_heads, mlp_dim, **common) if mlp_dim else OffsetTable(map_size, num_heads, **common)
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.rel_pos.build()

    def queries_keys_values(self, x):
        qkv = ops.reshape(
            self.qkv(ops.reshape(x, (-1, x.shape[2]))), (-1, x.shape[1], self.num_heads, 3, self.head_dim)
        )
        return ops.unstack(ops.transpose(qkv, (3, 0, 2, 1, 4)), 3)

    def _weights(self, q, k, training):
        bias = self.rel_pos.bias(training)
        return (
            attention_weights(q, k, bias)
            if self.bias_place == "pre"
            else attention_weights(q, k) + ops.cast(bias, q.dtype)
        )

    def call(self, x, training=None):
        return self.attend(x, training)[0]


@keras.saving.register_keras_serializable(package="kzoo")
class RelativeBlock(Remat):
    """proj(pool(x)) + Attention(pool(norm(x))), then x + Mlp(norm(x)), on maps: (B, H, W, in_dim) -> (B, rows, columns,
    dim).

    map_size: (rows, columns) of the output; stride 2 pools to it, 1 leaves the map as it is. expand_first: the
    attention works in `dim` channels, else in `in_dim` and its projection widens. norm: "layer" | "batch". init_values:
    LayerScale on both branches; None: none. remat: as `Remat` has it.
    """

    def __init__(
        self,
        in_dim,
        dim,
        map_size,
        head_dim=32,
        stride=1,
        pool_type="avg2",
        expand_first=True,
        shortcut_bias=True,
        bias_place="pre",
        mlp_dim=None,
        mlp_ratio=4.0,
        act="gelu",
        norm="layer",
        norm_eps=1e-6,
        init_values=None,
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
        remat=False,
        **kwargs,
    ):
        super().__init__(remat, **kwargs)
        policy = self.dtype_policy
        self.in_dim, self.dim, self.map_size = in_dim, dim, tuple(map_size)
        self.shortcut = Downsample(in_dim, dim, stride, pool_type, shortcut_bias, dtype=policy, name="shortcut")
        # timm's names for the two
        self.norm1 = channel_norm(norm, norm_eps, policy, "norm1_norm" if stride == 2 else "norm1")
        self.down = Downsample(in_dim, in_dim, stride, pool_type, dtype=policy, name="down")
        inner = dim if expand_first else in_dim
        drops = {"attn_drop_rate": attn_drop_rate, "proj_drop_rate": proj_drop_rate}
        self.attn = RelativeAttention(
            in_dim, inner // head_dim, head_dim, map_size, dim, bias_place, mlp_dim, **drops, dtype=policy, name="attn"
        )
        self.drop_path1 = DropPath(drop_path_rate, dtype=policy, name="drop_path1")
        self.norm2 = channel_norm(norm, norm_eps, policy, "norm2")
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act, proj_drop_rate, dtype=policy, name="mlp")
        self.drop_path2 = DropPath(drop_path_rate, dtype=policy, name="drop_path2")
        scales = ("ls1", "ls2") if init_values is not None else ()
        self.scales = [LayerScale(init_values, dtype=policy, name=name) for name in scales]

    @property
    def cells(self):
        """How many cells the output has."""
        return math.prod(self.map_size)

    def build(self, input_shape):
        batch = input_shape[0]
        tokens = (batch, self.cells, self.dim)
        self.shortcut.build(input_shape)
        self.norm1.build(input_shape)
        self.down.build(input_shape)
        self.attn.build((batch, self.cells, self.in_dim))
        for part in (*self.scales[:1], self.norm2, self.mlp, *self.scales[1:]):
            part.build(tokens)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.map_size, self.dim)

    def attend(self, x):
        """(B, H, W, in_dim) -> the attention's weights (B, heads, N, N), N = rows * columns, outside of training."""
        return self.attn.attend(self._attended(x, False), training=False)[1]

    def _attended(self, x, training):
        """What the attention sees: (B, H, W, in_dim) -> (B, N, in_dim)."""
        return ops.reshape(self.down(self.norm1(x, training=training)), (-1, self.cells, self.in_dim))

    def compute(self, x, training):
        scale1, scale2 = self.scales or (lambda y: y, lambda y: y)
        y = scale1(self.attn(self._attended(x, training), training=training))
        x = ops.reshape(self.shortcut(x), (-1, self.cells, self.dim)) + self.drop_path1(y, training=training)
        y = scale2(self.mlp(self.norm2(x, training=training), training=training))
        return ops.reshape(x + self.drop_path2(y, training=training), (-1, *self.map_size, self.dim))


def channel_norm(kind, eps, policy, name):
    """A norm over the last axis: "layer", or "batch" with a running average."""
    if kind == "batch":
        return BatchNorm(epsilon=eps, dtype=policy, name=name)
    return keras.layers.LayerNormalization(epsilon=eps, dtype=policy, name=name)
