"""From pictures to tokens: patches, the class token, positions."""

import functools

import keras
import numpy as np
from keras import ops

from kzoo.errors import UsageError
from kzoo.layers.base import ZooLayer, framed, side

_MOST_FIXED = 1 << 25  # values of a computed table: a ViT-g's for pictures of 2,000 pixels a side


def require_table(rows, columns, dim):
    """Raises UsageError for a computed table of more values than any model needs, which would take gigabytes to
    make.
    """
    if rows * columns * dim > _MOST_FIXED:
        raise UsageError(f"a table of {rows} x {columns} x {dim} values is too large; choose a smaller image_size.")


def sincos_2d(grid_size, dim, closed=False):
    """A fixed 2-D sine-cosine table: (rows * columns, dim) float32, tokens row-major.

    The first half of the channels encodes the column, the second the row; each half is all sines, then all cosines, of
    the position divided by wavelengths that grow geometrically from 1 towards 10000: without reaching it, 10000^(i /
    (dim / 4)), in MAE (https://arxiv.org/abs/2111.06377, official code); `closed`, up to it, 10000^(i / (dim / 4 - 1)),
    in big_vision (https://arxiv.org/abs/2205.01580). `dim` must be divisible by 4.
    """
    rows, columns = grid_size
    require_table(rows, columns, dim)
    omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4 - closed))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(axis.reshape(-1), omega) for axis in (column, row)]
    return np.concatenate([part for a in angles for part in (np.sin(a), np.cos(a))], axis=1).astype("float32")


@keras.saving.register_keras_serializable(package="kzoo")
class PatchEmbed(ZooLayer):
    """Patches through one linear map: (B, H, W, C) -> (B, rows * columns, D), row-major; `stride` < `patch_size` lets
    them overlap.

    rows = (H - patch_size) // stride + 1: a border that fills no whole patch is left out, as a VALID convolution does.
    """

    def __init__(self, patch_size, dim, stride=None, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        # LeCun normal is how the original initialises this convolution.
        self.proj = keras.layers.Conv2D(
            dim,
            patch_size,
            strides=stride or patch_size,
            use_bias=use_bias,
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name="proj",
        )

    def build(self, input_shape):
        self.proj.build(input_shape)

    def call(self, images):
        x = self.proj(images)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.dim))


@keras.saving.register_keras_serializable(package="kzoo")
class ConvStem(ZooLayer):
    """Patches by 3x3 convolutions of stride 2 instead of one cut: (B, H, W, C) -> (B, H / P * (W / P), D), P a power of
    two.

    The width doubles up to D; each convolution is followed by a norm and ReLU, then one linear map. It learns from far
    fewer pictures (https://arxiv.org/abs/2106.14881; layer norms here, so that a batch does not mix).
    """

    def __init__(self, patch_size, dim, norm_eps=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        count = patch_size.bit_length() - 1
        policy = self.dtype_policy
        self.convs = [
            keras.layers.Conv2D(
                dim // 2 ** (count - 1 - i),
                3,
                2,
                padding="same",
                kernel_initializer="he_normal",
                dtype=policy,
                name=f"conv_{i}",
            )
            for i in range(count)
        ]
        self.norms = [
            keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name=f"norm_{i}") for i in range(count)
        ]
        self.proj = keras.layers.Conv2D(dim, 1, kernel_initializer="lecun_normal", dtype=policy, name="proj")

    def build(self, input_shape):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            conv.build(input_shape)
            input_shape = conv.compute_output_shape(input_shape)
            norm.build(input_shape)
        self.proj.build(input_shape)

    def call(self, images):
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = ops.relu(norm(conv(x)))
        x = self.proj(x)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.dim))


@keras.saving.register_keras_serializable(package="kzoo")
class NormedConv(ZooLayer):
    """A convolution with bias, then a layer norm: (B, H, W, C) -> (B, h, w, dim), from maps to maps of another width.

    reach: cells of zeros on every side of the map; None: as many behind it alone as make its sides multiples of the
    stride, so that nothing is left out. Otherwise h = (H + 2 reach - kernel_size) // stride + 1.
    """

    def __init__(self, dim, kernel_size, stride, reach=None, norm_eps=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size, self.stride, self.reach = kernel_size, stride, reach
        policy = self.dtype_policy
        self.conv = keras.layers.Conv2D(
            dim, kernel_size, stride, kernel_initializer="lecun_normal", dtype=policy, name="conv"
        )
        self.norm = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm")

    def build(self, input_shape):
        batch, *sides, channels = input_shape
        padded = (batch, *(n and n + sum(self._added(n)) for n in sides), channels)
        self.conv.build(padded)
        self.norm.build(self.conv.compute_output_shape(padded))

    def _added(self, side):
        """(zeros before, zeros behind) an axis of that length."""
        return (0, -side % self.stride) if self.reach is None else (self.reach, self.reach)

    def compute_output_shape(self, input_shape):
        lengths = (n and (n + sum(self._added(n)) - self.kernel_size) // self.stride + 1 for n in input_shape[1:3])
        return (input_shape[0], *lengths, self.conv.filters)

    def call(self, x):
        x = self.conv(framed(x, *(self._added(side(x, axis)) for axis in (1, 2))))
        sides, dim = (side(x, 1), side(x, 2)), x.shape[3]
        # as tokens: ONNX would move the convolution's transposition behind the norm, and take it apart
        return ops.reshape(self.norm(ops.reshape(x, (-1, sides[0] * sides[1], dim))), (-1, *sides, dim))


@keras.saving.register_keras_serializable(package="kzoo")
class LearnedTokens(ZooLayer):
    """Prepends `count` learned tokens: (B, N, D) -> (B, count + N, D). Several must not start equal, or they would stay
    so: `stddev`.
    """

    no_weight_decay = True

    def __init__(self, count=1, stddev=0.0, **kwargs):
        super().__init__(**kwargs)
        self.count, self.stddev = count, stddev

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.token = self.add_weight((1, self.count, input_shape[-1]), initializer=normal, name="token")

    def call(self, x):
        token = ops.broadcast_to(ops.cast(self.token, x.dtype), (ops.shape(x)[0], self.count, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count + input_shape[1], input_shape[2])


def _as_made(values, shape, dtype=None):
    """An initializer once its first argument is given: those values."""
    return ops.convert_to_tensor(values, dtype)


@keras.saving.register_keras_serializable(package="kzoo")
class PositionEmbedding(ZooLayer):
    """Adds a table to the tokens: (B, prefix + rows * columns, D), the `prefix` rows being those of class and register
    tokens.

    kind "learned": one weight, `table` (1, prefix + rows * columns, D); "sincos" and "sincos2d": a fixed table, no
    weight, prefix rows 0; "sincos_kept": that of "sincos" as a weight that is not trained, as MAE's files hold it, for
    models that start from it to learn on. `grid_size` is kept so that a table can be resized to another resolution.
    """

    no_weight_decay = True
    kept = "sincos_kept"
    # MAE's and big_vision's
    fixed_tables = {"sincos": sincos_2d, "sincos2d": functools.partial(sincos_2d, closed=True)}

    def __init__(self, grid_size, prefix=0, kind="learned", **kwargs):
        super().__init__(**kwargs)
        self.grid_size, self.prefix, self.kind = tuple(grid_size), prefix, kind

    def build(self, input_shape):
        tokens, dim = input_shape[1:]
        if self.kind == "learned":
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.table = self.add_weight((1, tokens, dim), initializer=normal, name="table")
        elif self.kind == self.kept:
            fixed = np.pad(sincos_2d(self.grid_size, dim), ((self.prefix, 0), (0, 0)))[None]
            as_made = functools.partial(_as_made, fixed)
            self.table = self.add_weight(fixed.shape, initializer=as_made, trainable=False, name="table")
        else:
            self.table = None
            self.fixed = self.fixed_tables[self.kind](self.grid_size, dim)

    def call(self, x):
        if self.table is not None:
            return x + ops.cast(self.table, x.dtype)
        fixed = ops.pad(ops.convert_to_tensor(self.fixed, dtype=x.dtype), ((self.prefix, 0), (0, 0)))
        return x + fixed[None]
