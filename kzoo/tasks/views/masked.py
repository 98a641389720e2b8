"""Masked autoencoding: the squared error of the patches that were hidden, in float32."""

import keras
from keras import ops

from kzoo.tasks.masked import EPSILON
from kzoo.tasks.views.base import View


def cut(images, patch):
    """Pictures (B, H, W, C) -> their whole patches (B, N, patch * patch * C), row by row, each row by row, channels
    last.
    """
    height, width, channels = images.shape[1:]
    rows, columns = height // patch, width // patch
    x = ops.reshape(images[:, : rows * patch, : columns * patch], (-1, rows, patch, columns, patch, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, patch * patch * channels))


def errors(images, painted, patch, norm_pix):
    """The mean squared error of each patch, float32 (B, N), of painted ones (B, N, patch * patch * C).

    norm_pix: against each patch of the picture less its mean, over its standard deviation; the variance is the unbiased
    one.
    """
    targets = cut(ops.cast(images, "float32"), patch)
    if norm_pix:
        targets = targets - ops.mean(targets, axis=-1, keepdims=True)
        variance = ops.sum(ops.square(targets), axis=-1, keepdims=True) / max(targets.shape[-1] - 1, 1)
        targets = targets / ops.sqrt(variance + EPSILON)
    return ops.mean(ops.square(ops.cast(painted, "float32") - targets), axis=-1)


def judged(network, norm_pix):
    """{"image", "noise"} -> {"error", "hidden"}, float32 (B,): of each picture the sum of its hidden patches'
    errors, and their number.
    """
    outputs, mask = network.output, ops.cast(network.output["mask"], "float32")
    found = errors(network.input["image"], outputs["pred"], network.config.patch_size, norm_pix)
    return keras.Model(network.input, {"error": ops.sum(found * mask, axis=-1), "hidden": ops.sum(mask, axis=-1)})


class MaskedView(View):
    """Trains an autoencoder on {"image" (B, H, W, C), "noise" (B, N)}, or on pictures alone, whose noise it then draws
    itself.

    The loss is the mean error of all hidden patches of the batch; sample weights weigh those of a picture. Targets are
    not looked at.
    """

    directions = {"knn_accuracy": 1}

    def __init__(self, network, settings):
        super().__init__(network, settings)
        self.autocast = False  # noise in 16 bits would hide other patches
        self.patch_size, self.patches = network.config.patch_size, network.input["noise"].shape[1]
        self.masks = keras.random.SeedGenerator()

    def call(self, inputs, training=None):
        return self.network(self._noisy(inputs), training=training)

    def _noisy(self, inputs):
        if isinstance(inputs, dict):
            return inputs
        inputs = ops.convert_to_tensor(inputs)
        return {"image": inputs, "noise": keras.random.uniform((ops.shape(inputs)[0], self.patches), seed=self.masks)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        images, mask = x["image"] if isinstance(x, dict) else x, ops.cast(y_pred["mask"], "float32")
        found = errors(images, y_pred["pred"], self.patch_size, self.settings.norm_pix) * mask
        if sample_weight is not None:
            found = found * ops.cast(sample_weight, "float32")[:, None]
        return ops.sum(found) / self.total(ops.sum(mask)) + sum(self.losses) / self.replicas()
