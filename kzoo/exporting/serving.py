"""The serving view of a model: pictures in, named outputs out, preprocessing included. Needs the TensorFlow backend."""

import dataclasses

import tensorflow as tf

from kzoo.exporting.encoded import decode
from kzoo.preprocess import preprocess


class Serving:
    """What an artifact computes.

    `output` is the name of the model's own output: "logits", which come with "probabilities", or "features" without a head.
    """

    def __init__(self, model):
        self.model, self.spec = model, model.spec
        self.image_size, self.channels, _ = model.take
        self.output = "logits" if model.classes else "features"

    @property
    def normalisation(self):
        """The preprocessing of pictures that already have the model's size: nothing but normalising is left."""
        return dataclasses.replace(self.spec.preprocessing, crop_pct=1.0)

    def outputs(self, inputs):
        """Normalised float32 (B, H, W, C) -> the named outputs, all float32."""
        result = {self.output: tf.cast(self.model(inputs, training=False), tf.float32)}
        if self.output == "logits":
            binary = result["logits"].shape[-1] == 1  # one logit is that of class 1 against class 0
            result["probabilities"] = (tf.sigmoid if binary else tf.nn.softmax)(result["logits"])
        return result

    def own_size(self, images):
        """uint8 (B, H, W, C) of the model's own size -> outputs."""
        return self.outputs(preprocess(images, self.image_size, self.normalisation))

    def any_size(self, images):
        """uint8 (B, h, w, C) of any size -> outputs."""
        return self.outputs(self._prepare(images))

    def encoded(self, encoded):
        """Encoded pictures, string (B,), each of any size -> outputs."""
        shape = tf.TensorSpec((*self.image_size, self.channels), tf.float32)
        return self.outputs(tf.map_fn(self._prepare_encoded, encoded, fn_output_signature=shape))

    def _prepare(self, images):
        images = preprocess(images, self.image_size, self.spec.preprocessing)
        return tf.ensure_shape(images, (None, *self.image_size, self.channels))

    def _prepare_encoded(self, encoded):
        return self._prepare(decode(encoded, self.channels)[None])[0]

    @property
    def decodes(self):
        """Whether encoded pictures can be taken: they are grey or colour."""
        return self.channels in (1, 3)

    def own_size_spec(self):
        """The signature of `own_size`: the batch is open."""
        return tf.TensorSpec((None, *self.image_size, self.channels), tf.uint8, name="images")

    def any_size_spec(self):
        """The signature of `any_size`."""
        return tf.TensorSpec((None, None, None, self.channels), tf.uint8, name="images")

    def encoded_spec(self):
        """The signature of `encoded`."""
        return tf.TensorSpec((None,), tf.string, name="encoded")
