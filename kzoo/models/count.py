"""Parameters and multiply-accumulates, counted from a model that is built without memory for its weights."""

import math

import keras


def count(build):
    """(parameters, multiply-accumulates of one picture's forward pass) of the model that `build()` returns."""
    with keras.StatelessScope(initialize_variables=False):
        model = build()
        return sum(math.prod(w.shape) for w in model.weights), macs(model)


def macs(model):
    """Sum over the leaf layers, each used once, from the shapes they were built for. Norms and activations count nothing.

    A layer of ours that multiplies tokens with each other says so itself by `macs(input_shape)`.
    """
    return sum(_layer_macs(layer) for layer in model._flatten_layers(include_self=False) if layer.built)


def _layer_macs(layer):
    if isinstance(layer, keras.layers.Dense):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(shape[1:]) * layer.units
    if isinstance(layer, keras.layers.Conv2D):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(layer.compute_output_shape(shape)[1:3]) * math.prod(layer.kernel.shape)
    if hasattr(layer, "macs"):
        return layer.macs(layer.get_build_config()["input_shape"])
    return 0
