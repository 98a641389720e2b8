"""Inverted bottlenecks with squeeze-and-excitation: the convolutional half of CoAtNet
(https://arxiv.org/abs/2106.04803).
"""

import math

import keras
from keras import ops

from kzoo.layers.base import Remat, ZooLayer
from kzoo.layers.conv import BatchNorm, fan_out, padded
from kzoo.layers.transformer import ACTIVATIONS, DropPath

CONV_ACTIVATIONS = ACTIVATIONS | {"silu": ops.silu, "relu": ops.relu}
POOLS = ("avg2", "max2", "max")  # mean or maximum of 2x2 cells, maximum of 3x3 cells around every other one
# where an MBConv halves the map: in its depthwise convolution, its first one, or by pooling before
STRIDES = ("dw", "1x1", "pool")


def conv(dim, size, stride, policy, name, use_bias=False):
    """A convolution with EfficientNet's init, N(0, 2 / fan_out)."""
    return keras.layers.Conv2D(
        dim, size, stride, _padding(stride), use_bias=use_bias, kernel_initializer=fan_out(), dtype=policy, name=name
    )


def _padding(stride):
    return "same" if stride == 1 else "valid"


def _prepared(x, stride):
    """The map as a 3x3 convolution of that stride wants it: padded as in torch, which "same" does for stride 1
    alone.
    """
    return x if stride == 1 else padded(x)


def strided(side, stride):
    """The cells that `side` cells become: a last one that is left over counts."""
    return -(-side // stride)


@keras.saving.register_keras_serializable(package="kzoo")
class Downsample(ZooLayer):
    """Pools by `stride` (1 or 2) and projects where the width changes: (B, H, W, in_dim) -> (B, ceil(H / s), ceil(W /
    s), dim).
    """

    def __init__(self, in_dim, dim, stride, pool_type="avg2", use_bias=True, init="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.dim, self.stride, self.pool_type = dim, stride, pool_type
        options = {
            "use_bias": use_bias,
            "kernel_initializer": fan_out() if init == "fan_out" else init,
            "dtype": self.dtype_policy,
        }
        self.expand = keras.layers.Conv2D(dim, 1, **options, name="expand") if in_dim != dim else None

    def build(self, input_shape):
        if self.expand:
            self.expand.build((*self._pooled_shape(input_shape), input_shape[-1]))

    def compute_output_shape(self, input_shape):
        return (*self._pooled_shape(input_shape), self.dim)

    def _pooled_shape(self, input_shape):
        return (input_shape[0], *(strided(side, self.stride) for side in input_shape[1:3]))

    def call(self, x):
        x = pool(x, self.pool_type) if self.stride == 2 else x
        return self.expand(x) if self.expand else x


def pool(x, kind):
    """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C); `kind` is one of POOLS."""
    if kind == "avg2":
        return ops.average_pool(x, 2, 2, "same")
    if kind == "max2":
        return ops.max_pool(x, 2, 2, "same")
    return ops.max_pool(padded(x, value=-math.inf), 3, 2)


@keras.saving.register_keras_serializable(package="kzoo")
class SqueezeExcite(ZooLayer):
    """Every channel of a map (B, H, W, C) times a gate in 0..1, computed from the means of all channels by two layers.

    https://arxiv.org/abs/1709.01507; `hidden_dim` channels between the layers, `act` one of CONV_ACTIVATIONS.
    """

    def __init__(self, dim, hidden_dim, act="silu", **kwargs):
        super().__init__(**kwargs)
        self.act = act
        options = {"kernel_initializer": fan_out(), "dtype": self.dtype_policy}
        self.fc1 = keras.layers.Dense(hidden_dim, **options, name="fc1")
        self.fc2 = keras.layers.Dense(dim, **options, name="fc2")

    def build(self, input_shape):
        self.fc1.build((input_shape[0], input_shape[-1]))
        self.fc2.build((input_shape[0], self.fc1.units))

    def call(self, x):
        gate = ops.sigmoid(self.fc2(CONV_ACTIVATIONS[self.act](self.fc1(ops.mean(x, axis=(1, 2))))))
        return x * gate[:, None, None]


@keras.saving.register_keras_serializable(package="kzoo")
class TwoConvStem(ZooLayer):
    """Two 3x3 convolutions, norm and activation between them and nothing after: (B, H, W, C) -> (B, ceil(H / s), ceil(W
    / s), dims[1]).
    """

    def __init__(self, dims, stride=2, act="gelu", norm_eps=1e-5, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.dims, self.stride, self.act = tuple(dims), stride, act
        self.conv1 = conv(dims[0], 3, stride, policy, "conv1")
        self.norm1 = BatchNorm(epsilon=norm_eps, dtype=policy, name="norm1")
        self.conv2 = conv(dims[1], 3, 1, policy, "conv2")

    def build(self, input_shape):
        self.conv1.build(_padded_shape(input_shape, self.stride))
        for part in (self.norm1, self.conv2):
            part.build((*self.compute_output_shape(input_shape)[:3], self.dims[0]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *(strided(side, self.stride) for side in input_shape[1:3]), self.dims[1])

    def call(self, images, training=None):
        x = self.norm1(self.conv1(_prepared(images, self.stride)), training=training)
        return self.conv2(CONV_ACTIVATIONS[self.act](x))


def _padded_shape(shape, stride):
    return shape if stride == 1 else (shape[0], shape[1] + 2, shape[2] + 2, shape[3])


@keras.saving.register_keras_serializable(package="kzoo")
class MBConv(Remat):
    """proj(pool(x)) + Conv(SE(act(BN(Depthwise(act(BN(Conv(BN(x)))))))): (B, H, W, in_dim) -> (B, ceil(H / s), ceil(W /
    s), dim).

    Between its 1x1 convolutions the block is `expand_ratio` times as wide as its output (expand_output) or its input,
    rounded to multiples of 8; a quarter of that output's width, or of the block's inside, squeezes. stride_mode and
    pool_type: keys of STRIDES and POOLS; "pool" takes means in the branch, whatever the shortcut does. pre_norm_act: an
    activation after the first norm too. se_early: squeeze-and-excitation before the norm of the depthwise convolution,
    not after its activation. output_bias: of the last convolution and the shortcut's. remat: as `Remat` has it.
    """

    def __init__(
        self,
        in_dim,
        dim,
        stride=1,
        expand_ratio=4.0,
        expand_output=True,
        stride_mode="dw",
        pool_type="avg2",
        act="gelu",
        pre_norm_act=False,
        se_act="silu",
        se_early=False,
        output_bias=True,
        norm_eps=1e-5,
        drop_path_rate=0.0,
        remat=False,
        **kwargs,
    ):
        super().__init__(remat, **kwargs)
        policy = self.dtype_policy
        width = (dim if expand_output else in_dim) * expand_ratio
        self.in_dim, self.dim, self.inner = in_dim, dim, max(8, int(width + 4) // 8 * 8)
        self.act, self.pre_norm_act, self.se_early = act, pre_norm_act, se_early
        strides = {mode: stride if mode == stride_mode else 1 for mode in STRIDES}
        self.dw_stride = strides["dw"]
        self.shortcut = Downsample(
            in_dim, dim, stride, pool_type, output_bias, "fan_out", dtype=policy, name="shortcut"
        )
        self.pre_norm = BatchNorm(epsilon=norm_eps, dtype=policy, name="pre_norm")
        self.down = Downsample(in_dim, in_dim, strides["pool"], dtype=policy, name="down")
        self.conv1 = conv(self.inner, 1, strides["1x1"], policy, "conv1_1x1")
        self.norm1 = BatchNorm(epsilon=norm_eps, dtype=policy, name="norm1")
        self.conv2 = keras.layers.DepthwiseConv2D(
            3,
            self.dw_stride,
            _padding(self.dw_stride),
            use_bias=False,
            depthwise_initializer=fan_out(),
            dtype=policy,
            name="conv2_kxk",
        )
        self.norm2 = BatchNorm(epsilon=norm_eps, dtype=policy, name="norm2")
        squeezed = (dim if expand_output else self.inner) // 4
        self.se = SqueezeExcite(self.inner, squeezed, se_act, dtype=policy, name="se_early" if se_early else "se")
        self.conv3 = conv(dim, 1, 1, policy, "conv3_1x1", use_bias=output_bias)
        self.drop_path = DropPath(drop_path_rate, dtype=policy, name="drop_path")

    def build(self, input_shape):
        self.shortcut.build(input_shape)
        self.pre_norm.build(input_shape)
        self.down.build(input_shape)
        shape = self.down.compute_output_shape(input_shape)
        self.conv1.build(shape)
        shape = self.conv1.compute_output_shape(shape)
        self.norm1.build(shape)
        self.conv2.build(_padded_shape(shape, self.dw_stride))
        shape = (*self.compute_output_shape(input_shape)[:3], self.inner)
        for part in (self.norm2, self.se, self.conv3):
            part.build(shape)

    def compute_output_shape(self, input_shape):
        return self.shortcut.compute_output_shape(input_shape)

    def compute(self, x, training):
        shortcut, act = self.shortcut(x), CONV_ACTIVATIONS[self.act]
        x = self.pre_norm(x, training=training)
        x = self.down(act(x) if self.pre_norm_act else x)
        x = act(self.norm1(self.conv1(x), training=training))
        x = self.conv2(_prepared(x, self.dw_stride))
        x = self.se(x) if self.se_early else x
        x = act(self.norm2(x, training=training))
        x = x if self.se_early else self.se(x)
        return shortcut + self.drop_path(self.conv3(x), training=training)
