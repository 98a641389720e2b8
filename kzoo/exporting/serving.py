"""The serving view of a model: pictures in, named outputs out, preprocessing included. Needs the TensorFlow backend."""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from kzoo.data import Take
from kzoo.exporting.encoded import decode
from kzoo.tasks import of


class Serving:
    """What an artifact computes: the outputs that its model's task names."""

    def __init__(self, model):
        self.task = of(model)
        self.model = self.task.served(model)
        self.spec = self.model.spec
        self.image_size, self.channels = model.take[:2]
        self._sizes = self.task.inputs(
            np.zeros((1, *self.image_size, self.channels), np.uint8), self.take(self.normalisation)
        )[1]

    def take(self, preprocessing):
        """The Take of pictures to be prepared so."""
        return Take(self.image_size, self.channels, preprocessing)

    @property
    def taken(self):
        """The signature of what `outputs` takes: (structure of the model's inputs,), and the pictures' sizes where the
        task needs them.
        """
        inputs = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), self.model.input)
        return (inputs,) if self._sizes is None else (inputs, tf.TensorSpec((None, 2), self._sizes.dtype))

    @functools.cached_property
    def raw_shapes(self):
        """{name: shape} of the raw outputs, {} where there are none."""
        return {name: list(tensor.shape) for name, tensor in self.task.raw_outputs(self.model.output).items()}

    @functools.cached_property
    def shapes(self):
        """{name: shape} of the outputs, the model's own first; the batch is None."""
        sizes = (
            None
            if self._sizes is None
            else keras.KerasTensor((None, 2), keras.backend.standardize_dtype(self._sizes.dtype))
        )
        return {
            name: list(tensor.shape) for name, tensor in self.task.outputs(self.model, self.model.output, sizes).items()
        }

    @property
    def normalisation(self):
        """The preprocessing of pictures that already have the model's size: nothing but normalising is left."""
        return dataclasses.replace(self.spec.preprocessing, crop_pct=1.0)

    def outputs(self, inputs, sizes=None):
        """What the model takes, with the pictures' own sizes -> the named outputs, all float32."""
        return self.task.outputs(self.model, self.model(inputs, training=False), sizes)

    def raw_outputs(self, inputs, sizes=None):
        """The same -> what the model itself gives, by name, float32."""
        return self.task.raw_outputs(self.model(inputs, training=False))

    def reference(self, inputs, sizes=None):
        """The same -> (outputs, with what the task judges them by; raw outputs)."""
        raw = self.model(inputs, training=False)
        return self.task.reference(self.model, raw, sizes), self.task.raw_outputs(raw)

    def endpoints(self, any_size):
        """{signature: (function, [the signatures of what it takes])}: of pictures of any size and, where they can be
        decoded, of encoded ones, or of pictures of the model's own size, with what they fill of it where the task asks.
        """
        prepare = self._prepare if any_size else self._own_size
        given = [self.any_size_spec()] if any_size else self.own_size_specs()

        def endpoint(outputs):
            return (lambda *tensors: outputs(*prepare(*tensors))), given

        found = {"serving_default": endpoint(self.outputs)}
        if self.raw_shapes:
            found["serving_raw"] = endpoint(self.raw_outputs)
        if any_size and self.decodes:
            found["serving_jpeg"] = self.encoded, [self.encoded_spec()]
        return found

    def _own_size(self, images, *sizes):
        """What `outputs` takes, of uint8 (B, H, W, C) of the model's own size."""
        return self.task.inputs(images, self.take(self.normalisation), *sizes)

    def encoded(self, encoded):
        """Encoded pictures, string (B,), each of any size -> outputs."""
        one = keras.tree.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), self.taken)
        return self.outputs(*tf.map_fn(self._prepare_encoded, encoded, fn_output_signature=one))

    def _prepare(self, images):
        """What `outputs` takes, by the signature `taken`."""
        prepared = self.task.inputs(images, self.take(self.spec.preprocessing))[: len(self.taken)]
        return keras.tree.map_structure(lambda tensor, spec: tf.ensure_shape(tensor, spec.shape), prepared, self.taken)

    def _prepare_encoded(self, encoded):
        return keras.tree.map_structure(lambda tensor: tensor[0], self._prepare(decode(encoded, self.channels)[None]))

    @property
    def decodes(self):
        """Whether encoded pictures can be taken: they are grey or colour."""
        return self.channels in (1, 3)

    def own_size_specs(self):
        """The signatures of pictures of the model's own size and, where the task asks, of `sizes`; the batch is
        open.
        """
        images = tf.TensorSpec((None, *self.image_size, self.channels), tf.uint8, name="images")
        return [images] + [tf.TensorSpec((None, 2), tf.int32, name="sizes")] * self.task.sized

    def any_size_spec(self):
        """The signature of pictures of any size."""
        return tf.TensorSpec((None, None, None, self.channels), tf.uint8, name="images")

    def encoded_spec(self):
        """The signature of `encoded`."""
        return tf.TensorSpec((None,), tf.string, name="encoded")
