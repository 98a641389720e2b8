"""Convolutions and norms of the ResNets: torch's and TensorFlow's padding, weight standardisation, frozen statistics,
group norm.
"""

import keras
from keras import ops

from kzoo.errors import UsageError
from kzoo.layers.base import ZooLayer


def standardised_as_timm(kernel):
    """(w - mean) / sqrt(variance + 1e-8) for every output channel of a kernel (h, w, in, out);
    https://arxiv.org/abs/1903.10520.
    """
    mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
    return (kernel - mean) * ops.rsqrt(variance + 1e-8)


def standardised_as_jax(kernel):
    """(w - mean) / (sqrt(variance) + 1e-5), the form of Google's published hybrids."""
    mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
    return (kernel - mean) / (ops.sqrt(variance) + 1e-5)


STANDARDISATIONS = {"none": lambda kernel: kernel, "timm": standardised_as_timm, "jax": standardised_as_jax}
PADDINGS = ("symmetric", "same")
NORMS = ("batch", "frozen", "group")


def fan_out():
    """He's init by the outputs, N(0, 2 / fan_out)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def padded(x, reach=1, value=0.0):
    """The map (B, H, W, C) with `reach` cells of `value` on every side: what torch's convolutions and pools see."""
    return ops.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=value)


@keras.saving.register_keras_serializable(package="kzoo")
class BatchNorm(ZooLayer, keras.layers.BatchNormalization):
    """Keras' batch norm (https://arxiv.org/abs/1502.03167), in float32, with torch's running statistics: (..., C) ->
    the same.

    They keep 0.9 of their past at each step, and average the variance of a sample: n / (n - 1) times the one that it
    normalises by.
    """

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(momentum=momentum, **kwargs)

    def call(self, x, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(x, training=training, mask=mask)
        y, mean, variance = self._normalised(ops.cast(x, "float32"))
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return ops.cast(y, x.dtype)

    def _normalised(self, x):
        """(x normalised by its own mean and variance, the mean (C,), the sample's variance (C,))."""
        gamma, beta = ops.cast(self.gamma, "float32"), ops.cast(self.beta, "float32")
        if keras.backend.backend() == "tensorflow" and len(x.shape) == 4:
            # The one kernel that keras.ops lacks: a training step of resnet_cifar10's model takes 96 ms with it, 168
            # without (CPU, graph).
            import tensorflow as tf

            return tf.raw_ops.FusedBatchNormV3(
                x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=self.epsilon
            )[:3]
        axes = tuple(range(len(x.shape) - 1))
        mean, variance = ops.moments(x, axes=axes)
        count = ops.cast(ops.prod(ops.shape(x)[:-1]), "float32")
        y = ops.batch_normalization(x, mean, variance, axis=-1, offset=beta, scale=gamma, epsilon=self.epsilon)
        return y, mean, variance * (count / ops.maximum(count - 1, 1))


@keras.saving.register_keras_serializable(package="kzoo")
class Conv(ZooLayer):
    """A convolution with a square kernel of odd size, without bias: (B, H, W, C) -> (B, ceil(H / stride), ceil(W /
    stride), filters).

    padding "symmetric" is torch's, as much before as behind; "same" is TensorFlow's, an odd pixel behind. They differ
    where stride > 1. weight_std (a key of STANDARDISATIONS): each filter is brought to mean 0 and variance 1 before it
    is used.
    """

    def __init__(self, filters, kernel_size, stride=1, dilation=1, padding="symmetric", weight_std="none", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride, self.dilation = filters, kernel_size, stride, dilation
        self.padding, self.weight_std = padding, weight_std

    def build(self, input_shape):
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        # Standardising is done in float32 under mixed precision, the convolution itself is not.
        self.kernel = self.add_weight(shape, initializer=fan_out(), autocast=False, name="kernel")

    def call(self, x):
        kernel = ops.cast(STANDARDISATIONS[self.weight_std](ops.convert_to_tensor(self.kernel)), x.dtype)
        padding, reach = "same", self.dilation * (self.kernel_size - 1) // 2
        if self.padding == "symmetric" and self.stride > 1 and reach:
            x, padding = padded(x, reach), "valid"
        return ops.conv(x, kernel, self.stride, padding, dilation_rate=self.dilation)

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        return (batch, *(side and -(-side // self.stride) for side in sides), self.filters)  # open ones stay open

    def macs(self, input_shape):
        """Multiply-accumulates for one picture."""
        _, height, width, filters = self.compute_output_shape(input_shape)
        return height * width * filters * self.kernel_size**2 * input_shape[-1]


@keras.saving.register_keras_serializable(package="kzoo")
class MaxPool(ZooLayer):
    """The largest of every 3x3 pixels, stride 2, of values >= 0: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C).

    padding as in Conv. What lies outside counts as 0: the same as -inf after a ReLU, and without infinities in an
    exported graph.
    """

    def __init__(self, padding="symmetric", **kwargs):
        super().__init__(**kwargs)
        self.padding = padding
        self.build_at_once()

    def call(self, x):
        if self.padding == "same":
            return ops.max_pool(x, 3, 2, "same")
        return ops.max_pool(padded(x), 3, 2, "valid")


@keras.saving.register_keras_serializable(package="kzoo")
class FrozenBatchNorm(ZooLayer):
    """Batch norm that never learns, in training neither: (x - mean) / sqrt(variance + epsilon) * gamma + beta, all four
    as loaded.

    Its weights are named and shaped as BatchNormalization's, so that the weights of a trained live one fit. Small
    batches, as detectors have, would spoil the statistics (https://arxiv.org/abs/2005.12872).
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        def fixed(name, start):
            return self.add_weight(input_shape[-1:], initializer=start, trainable=False, autocast=False, name=name)

        self.gamma, self.beta = fixed("gamma", "ones"), fixed("beta", "zeros")
        self.moving_mean, self.moving_variance = fixed("moving_mean", "zeros"), fixed("moving_variance", "ones")

    def call(self, x):
        gamma, beta, mean, variance = (
            ops.cast(w, "float32") for w in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        scale = gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(ops.cast(x, "float32") * scale + (beta - mean * scale), x.dtype)


@keras.saving.register_keras_serializable(package="kzoo")
class GroupNorm(ZooLayer):
    """Normalises every picture over its pixels and the channels of a group (https://arxiv.org/abs/1803.08494): (B, H,
    W, C) -> the same.

    In float32. A group's variance is put together from those of its channels, so that all large arrays keep four axes:
    twice as fast as Keras' own in a TensorFlow graph on CPU (8 x 56 x 56 x 256, 2 cores: 10 ms against 20, with the
    gradient 30 against 54).
    """

    def __init__(self, groups=32, epsilon=1e-5, gamma_initializer="ones", **kwargs):
        super().__init__(**kwargs)
        self.groups, self.epsilon, self.gamma_initializer = groups, epsilon, gamma_initializer

    def build(self, input_shape):
        if input_shape[-1] % self.groups:
            raise UsageError(
                f"group norm needs channels divisible by its {self.groups} groups, not {input_shape[-1]}; choose "
                "another width."
            )
        self.gamma = self.add_weight(input_shape[-1:], initializer=self.gamma_initializer, autocast=False, name="gamma")
        self.beta = self.add_weight(input_shape[-1:], initializer="zeros", autocast=False, name="beta")

    def call(self, x):
        wide, gamma, beta = (ops.cast(value, "float32") for value in (x, self.gamma, self.beta))
        shape = (-1, self.groups, x.shape[-1] // self.groups)
        # (B, groups, channels of each)
        means, variances = (ops.reshape(m, shape) for m in ops.moments(wide, axes=(1, 2)))
        mean = ops.mean(means, axis=-1, keepdims=True)
        variance = ops.mean(variances + ops.square(means - mean), axis=-1, keepdims=True)
        scale = ops.rsqrt(variance + self.epsilon) * ops.reshape(gamma, shape)
        shift = ops.reshape(beta, shape) - mean * scale
        scale, shift = (ops.reshape(v, (-1, 1, 1, x.shape[-1])) for v in (scale, shift))
        return ops.cast(wide * scale + shift, x.dtype)


def make_norm(kind, epsilon, policy, name, gamma="ones"):
    """The norm layer of one of NORMS, its factors starting at `gamma`."""
    if kind == "frozen":
        return FrozenBatchNorm(epsilon=epsilon, dtype=policy, name=name)
    if kind == "group":
        return GroupNorm(gamma_initializer=gamma, epsilon=epsilon, dtype=policy, name=name)
    return BatchNorm(epsilon=epsilon, gamma_initializer=gamma, dtype=policy, name=name)
