"""The pre-norm transformer block and its parts (https://arxiv.org/abs/2010.11929).

Softmax and norms compute in float32 under mixed precision; token counts are static, so that no export has to compute shapes.
"""

import math

import keras
from keras import ops


def gelu(x):
    """The exact (erf) GELU of any-shaped `x`. Keras' own becomes an `Erfc` node, which no ONNX runtime knows."""
    return 0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))


def _dense(units, policy, name, use_bias=True, bias_stddev=None, kernel_scale=1.0):
    """Dense with the original ViT's init: Xavier-uniform kernel (`kernel_scale` corrects the fans of a fused kernel)."""
    bias = keras.initializers.RandomNormal(stddev=bias_stddev) if bias_stddev else "zeros"
    kernel = keras.initializers.VarianceScaling(kernel_scale, "fan_avg", "uniform")
    return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=kernel, bias_initializer=bias, dtype=policy, name=name)


@keras.saving.register_keras_serializable(package="kzoo")
class Attention(keras.layers.Layer):
    """Multi-head self-attention: (B, N, D) -> (B, N, D). One fused projection, columns q | k | v, each heads x head_dim."""

    def __init__(self, dim, num_heads, qkv_bias=True, attn_drop_rate=0.0, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        policy = self.dtype_policy
        # Four times the columns fan in the average: a scale of 2 gives q, k and v the limits they would have apart.
        self.qkv = _dense(3 * dim, policy, "qkv", use_bias=qkv_bias, kernel_scale=2.0)
        self.attn_drop = keras.layers.Dropout(attn_drop_rate, dtype=policy, name="attn_drop")
        self.proj = _dense(dim, policy, "proj")
        self.proj_drop = keras.layers.Dropout(drop_rate, dtype=policy, name="proj_drop")

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.proj.build(input_shape)

    def call(self, x, training=None):
        tokens, dim = x.shape[1:]
        # Projections see all tokens of the batch as rows of one matrix: the plain product is the fast one on CPU.
        qkv = ops.reshape(self.qkv(ops.reshape(x, (-1, dim))), (-1, tokens, 3, self.num_heads, self.head_dim))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # each (B, heads, N, head_dim)
        scores = ops.matmul(q * self.head_dim**-0.5, ops.transpose(k, (0, 1, 3, 2)))
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), self.compute_dtype)
        x = ops.matmul(self.attn_drop(weights, training=training), v)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, dim))
        return ops.reshape(self.proj_drop(self.proj(x), training=training), (-1, tokens, dim))

    def macs(self, input_shape):
        """Multiply-accumulates of the two products between tokens (the projections count themselves)."""
        _, tokens, dim = input_shape
        return 2 * tokens * tokens * dim


@keras.saving.register_keras_serializable(package="kzoo")
class Mlp(keras.layers.Layer):
    """Dense, GELU, Dense on the last axis: (..., D) -> (..., D), `hidden_dim` in between; dropout after both."""

    def __init__(self, dim, hidden_dim, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.fc1 = _dense(hidden_dim, policy, "fc1", bias_stddev=1e-6)
        self.fc2 = _dense(dim, policy, "fc2", bias_stddev=1e-6)
        self.drop1 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop1")
        self.drop2 = keras.layers.Dropout(drop_rate, dtype=policy, name="drop2")

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, x, training=None):
        shape = (-1, *x.shape[1:])
        x = self.drop1(gelu(self.fc1(ops.reshape(x, (-1, x.shape[-1])))), training=training)
        return ops.reshape(self.drop2(self.fc2(x), training=training), shape)


@keras.saving.register_keras_serializable(package="kzoo")
class DropPath(keras.layers.Layer):
    """Stochastic depth: in training, zeroes a sample's whole branch with probability `rate`, the rest scaled to keep the mean.

    https://arxiv.org/abs/1603.09382, per sample as timm does it.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(seed) if rate > 0 else None

    def call(self, x, training=None):
        if not training or self.seed_generator is None:
            return x
        keep = 1.0 - self.rate
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        kept = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator) < keep
        return x * ops.cast(kept, x.dtype) / keep


@keras.saving.register_keras_serializable(package="kzoo")
class TransformerBlock(keras.layers.Layer):
    """x + Attention(LN(x)), then x + Mlp(LN(x)): (B, N, D) -> (B, N, D)."""

    def __init__(
        self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0, norm_eps=1e-6, **kwargs
    ):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm1")
        self.attn = Attention(dim, num_heads, qkv_bias, attn_drop_rate, drop_rate, dtype=policy, name="attn")
        self.drop_path1 = DropPath(drop_path_rate, dtype=policy, name="drop_path1")
        self.norm2 = keras.layers.LayerNormalization(epsilon=norm_eps, dtype=policy, name="norm2")
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate, dtype=policy, name="mlp")
        self.drop_path2 = DropPath(drop_path_rate, dtype=policy, name="drop_path2")

    def build(self, input_shape):
        for part in (self.norm1, self.attn, self.norm2, self.mlp):
            part.build(input_shape)

    def call(self, x, training=None):
        x = x + self.drop_path1(self.attn(self.norm1(x), training=training), training=training)
        return x + self.drop_path2(self.mlp(self.norm2(x), training=training), training=training)
