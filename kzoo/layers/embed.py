"""From pictures to tokens: patches, the class token, positions."""

import keras
from keras import ops

from kzoo.ops.positions import sincos_2d


@keras.saving.register_keras_serializable(package="kzoo")
class PatchEmbed(keras.layers.Layer):
    """Non-overlapping patches through one linear map: (B, H, W, C) -> (B, H // P * (W // P), D), row-major.

    A border that fills no whole patch is left out, as a strided VALID convolution does.
    """

    def __init__(self, patch_size, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        # LeCun normal is how the original initialises this convolution.
        self.proj = keras.layers.Conv2D(
            dim, patch_size, strides=patch_size, kernel_initializer="lecun_normal", dtype=self.dtype_policy, name="proj"
        )

    def build(self, input_shape):
        self.proj.build(input_shape)

    def call(self, images):
        x = self.proj(images)
        return ops.reshape(x, (-1, x.shape[1] * x.shape[2], self.dim))


@keras.saving.register_keras_serializable(package="kzoo")
class ClassToken(keras.layers.Layer):
    """Prepends one learned token: (B, N, D) -> (B, 1 + N, D)."""

    no_weight_decay = True

    def build(self, input_shape):
        self.token = self.add_weight((1, 1, input_shape[-1]), initializer="zeros", name="token")

    def call(self, x):
        token = ops.broadcast_to(ops.cast(self.token, x.dtype), (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] + 1, input_shape[2])


@keras.saving.register_keras_serializable(package="kzoo")
class PositionEmbedding(keras.layers.Layer):
    """Adds a table to the tokens: (B, prefix + rows * columns, D), the `prefix` rows being those of class tokens.

    kind "learned": one weight, `table` (1, prefix + rows * columns, D); "sincos": the fixed table of MAE, no weight, prefix rows 0.
    `grid_size` is kept so that a table can be resized to another resolution.
    """

    no_weight_decay = True

    def __init__(self, grid_size, prefix=0, kind="learned", **kwargs):
        super().__init__(**kwargs)
        self.grid_size, self.prefix, self.kind = tuple(grid_size), prefix, kind

    def build(self, input_shape):
        tokens, dim = input_shape[1:]
        if self.kind == "learned":
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.table = self.add_weight((1, tokens, dim), initializer=normal, name="table")
        else:
            self.table = None
            self.fixed = sincos_2d(self.grid_size, dim)

    def call(self, x):
        if self.table is not None:
            return x + ops.cast(self.table, x.dtype)
        fixed = ops.pad(ops.convert_to_tensor(self.fixed, dtype=x.dtype), ((self.prefix, 0), (0, 0)))
        return x + fixed[None]
