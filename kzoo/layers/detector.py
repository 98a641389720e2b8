"""What detection transformers share (https://arxiv.org/abs/2005.12872): padding on the grid of a map, positions over
the unpadded area, attention that leaves padded cells out, the post-norm encoder block.

Sides of maps may be open: counts of cells are then computed where a layer is called, else they are constants.
"""

import math

import keras
import numpy as np
from keras import ops

from kzoo.layers.base import Remat, ZooLayer, side
from kzoo.layers.transformer import attention_weights, dense

HIDDEN = -1e9  # added to the score of a padded key: its weight is then exactly 0


def linear(inputs, units, policy, name, xavier=False):
    """Dense with torch's first values: kernel and bias uniform within 1 / sqrt(inputs); xavier: the kernel as Glorot's,
    as DETR starts its transformer.
    """

    def uniform():
        return keras.initializers.RandomUniform(-(inputs**-0.5), inputs**-0.5)

    kernel = "glorot_uniform" if xavier else uniform()
    return keras.layers.Dense(units, kernel_initializer=kernel, bias_initializer=uniform(), dtype=policy, name=name)


def nearest(given, wanted):
    """Which of `given` cells each of `wanted` takes, int32 (wanted,), in torch's arithmetic: floor(i * (given /
    wanted)) in float32.
    """
    xp = np if isinstance(given, int) and isinstance(wanted, int) else ops
    given, wanted = (
        np.float32(n) if xp is np else ops.cast(ops.convert_to_tensor(n), "float32") for n in (given, wanted)
    )
    places = xp.floor(xp.arange(wanted, dtype="float32") * (given / wanted))
    places = xp.minimum(places, given - 1)
    return ops.cast(places, "int32") if xp is ops else places.astype("int32")


@keras.saving.register_keras_serializable(package="kzoo")
class FitPadding(ZooLayer):
    """A picture's padding on the grid of a map, by nearest neighbours: padded (B, H, W) bool, features (B, h, w, D) ->
    (B, h, w) bool.
    """

    def build(self, padded_shape, features_shape):
        """Nothing: Keras asks for it where a layer with two inputs is built by their shapes."""

    def call(self, padded, features):
        for axis in (1, 2):
            padded = ops.take(padded, nearest(side(padded, axis), side(features, axis)), axis=axis)
        return padded

    def compute_output_spec(self, padded, features):
        return keras.KerasTensor(features.shape[:3], dtype=padded.dtype)


@keras.saving.register_keras_serializable(package="kzoo")
class SinePositions(ZooLayer):
    """Where each cell lies in the unpadded part of the map: padded (B, h, w) bool -> (B, h, w, dim), no weights.

    The first half of the channels encodes the row, the second the column: counted from 1, divided by the last one (and
    1e-6) times 2 pi, then sines and cosines, in turn, of that divided by temperature^(2 i / (dim / 2)). dim must be
    divisible by 4.
    """

    def __init__(self, dim, temperature=10_000.0, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.temperature = dim, temperature

    def build(self, padded_shape):
        """Nothing."""

    def call(self, padded):
        real = ops.cast(ops.logical_not(padded), "float32")
        rows, columns = ops.cumsum(real, axis=1), ops.cumsum(real, axis=2)
        parts = (rows / (rows[:, -1:] + 1e-6), columns / (columns[:, :, -1:] + 1e-6))
        half = self.dim // 2
        wavelengths = np.float32(self.temperature) ** (np.arange(0, half, 2, dtype="float32") / np.float32(half))
        wavelengths, encoded = ops.convert_to_tensor(wavelengths), []
        for part in parts:
            angles = (part * (2 * math.pi))[..., None] / wavelengths
            pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
            encoded.append(ops.reshape(pairs, (-1, side(padded, 1), side(padded, 2), half)))
        return ops.cast(ops.concatenate(encoded, axis=-1), self.compute_dtype)

    def compute_output_shape(self, padded_shape):
        return (*padded_shape, self.dim)


@keras.saving.register_keras_serializable(package="kzoo")
class QueryAttention(ZooLayer):
    """Multi-head attention: queries (B, Q, D), keys and values (B, N, D) -> (B, Q, D); keys where padded (B, N) is True
    get nothing.

    Projections start with the limits of torch's, whose queries, keys and values are one matrix.
    """

    def __init__(self, dim, num_heads, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.num_heads = dim, num_heads
        policy = self.dtype_policy
        self.q, self.k, self.v = (dense(dim, policy, name, kernel_scale=0.5) for name in "qkv")
        self.attn_drop = keras.layers.Dropout(drop_rate, dtype=policy, name="attn_drop")
        self.proj = dense(dim, policy, "proj")

    def build(self, queries_shape, keys_shape, values_shape, padded_shape=None):
        for part, shape in ((self.q, queries_shape), (self.k, keys_shape), (self.v, values_shape)):
            part.build(shape)
        self.proj.build(queries_shape)

    def _heads(self, projection, x):
        """(B, N, D) -> (B, heads, N, head_dim). Rows of one matrix are projected, which is the fast product on CPU."""
        rows = projection(ops.reshape(x, (-1, x.shape[-1])))
        return ops.transpose(
            ops.reshape(rows, (-1, side(x, 1), self.num_heads, self.dim // self.num_heads)), (0, 2, 1, 3)
        )

    def attend(self, queries, keys, values, padded=None, training=None):
        """(output (B, Q, D), weights (B, heads, Q, N)): what each query takes from each key; they sum to 1, before
        dropout.
        """
        bias = None if padded is None else ops.where(ops.cast(padded, "bool"), HIDDEN, 0.0)[:, None, None]
        weights = attention_weights(self._heads(self.q, queries), self._heads(self.k, keys), bias)
        x = ops.matmul(self.attn_drop(weights, training=training), self._heads(self.v, values))
        x = self.proj(ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, self.dim)))
        return ops.reshape(x, (-1, side(queries, 1), self.dim)), weights

    def call(self, queries, keys, values, padded=None, training=None):
        return self.attend(queries, keys, values, padded, training)[0]

    def compute_output_shape(self, queries_shape, keys_shape, values_shape, padded_shape=None):
        return queries_shape

    def macs(self, queries_shape, keys_shape, values_shape, padded_shape=None):
        """Multiply-accumulates of the two products between tokens (the projections count themselves)."""
        return 2 * queries_shape[1] * keys_shape[1] * self.dim


@keras.saving.register_keras_serializable(package="kzoo")
class FeedForward(ZooLayer):
    """Dense, ReLU, Dense on the last axis, dropout after both: (B, N, D) -> (B, N, D), hidden_dim between."""

    def __init__(self, dim, hidden_dim, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.fc1 = linear(dim, hidden_dim, policy, "fc1", xavier=True)
        self.fc2 = linear(hidden_dim, dim, policy, "fc2", xavier=True)
        self.drop1 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop1")
        self.drop2 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop2")

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, x, training=None):
        rows = ops.relu(self.fc1(ops.reshape(x, (-1, x.shape[-1]))))
        rows = self.drop2(self.fc2(self.drop1(rows, training=training)), training=training)
        return ops.reshape(rows, (-1, side(x, 1), x.shape[-1]))


@keras.saving.register_keras_serializable(package="kzoo")
class PostNormBlock(Remat):
    """An encoder's block with its norms after the sums: x (B, N, D), positions (B, N, D), padded (B, N) bool -> (B, N,
    D).

    Positions are added to queries and keys, not to values. drop_rate: of the attention's weights, of both branches and
    inside the second. remat: as `Remat` has it.
    """

    def __init__(self, dim, num_heads, mlp_dim, drop_rate=0.0, norm_eps=1e-5, remat=False, **kwargs):
        super().__init__(remat, **kwargs)
        policy = self.dtype_policy
        self.self_attn = QueryAttention(dim, num_heads, drop_rate, dtype=policy, name="self_attn")
        self.drop = keras.layers.Dropout(drop_rate, dtype=policy, name="drop")
        self.norm1 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm1")
        self.mlp = FeedForward(dim, mlp_dim, drop_rate, dtype=policy, name="mlp")
        self.norm2 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm2")

    def build(self, x_shape, positions_shape, padded_shape):
        self.self_attn.build(x_shape, x_shape, x_shape, padded_shape)
        for part in (self.norm1, self.mlp, self.norm2):
            part.build(x_shape)

    def compute_output_shape(self, x_shape, positions_shape, padded_shape):
        return x_shape  # told, not traced: models are built several times faster

    def call(self, x, positions, padded, training=None):
        return self.computed(x, positions, padded, training=training)

    def compute(self, x, positions, padded, training):
        placed = x + positions
        attended = self.self_attn(placed, placed, x, padded, training=training)
        x = self.norm1(x + self.drop(attended, training=training))
        return self.norm2(x + self.mlp(x, training=training))

    def attend(self, x, positions, padded):
        """The attention's weights (B, heads, N, N), outside of training."""
        return self.self_attn.attend(x + positions, x + positions, x, padded, training=False)[1]


class QueryBlock(Remat):
    """A block of a decoder whose queries look at all cells of one map, as `kzoo.attention` shows it.

    A subclass defines `attend`, which takes what its `call` does: the weights (B, heads, Q, N) by which each query
    looks at the cells, outside of training.
    """

    def attend(self, *inputs):
        raise NotImplementedError
