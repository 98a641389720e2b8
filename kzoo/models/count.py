"""Parameters and multiply-accumulates of models, counted without memory for their weights."""

import math

import keras

from kzoo.keras_private import layers_in, skeleton


def count(build):
    """(parameters, multiply-accumulates of one picture's forward pass) of the model that `build()` returns.

    Parameters are what training changes by gradients: running statistics and frozen norms, torch's buffers, do not
    count.
    """
    model = skeleton(build)
    return sum(math.prod(w.shape) for w in model.trainable_weights), macs(model)


def macs(model):
    """Sum over the leaf layers, each used once, from the shapes they were built for. Norms and activations count
    nothing.

    A layer of ours that multiplies tokens with each other says so itself by `macs` of the shapes that it was built for.
    """
    return sum(_layer_macs(layer) for layer in layers_in(model) if layer.built)


def _layer_macs(layer):
    if isinstance(layer, keras.layers.Dense):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(shape[1:]) * layer.units
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(layer.compute_output_shape(shape)[1:3]) * math.prod(layer.kernel.shape)
    if hasattr(layer, "macs"):
        told = layer.get_build_config()
        return layer.macs(*told.get("shapes_dict", told).values())
    return 0
