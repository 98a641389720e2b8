"""Parameters and multiply-accumulates, counted from a model that is built without memory for its weights."""

import contextlib
import math

import keras
from keras.src.backend.common import global_state


def count(build):
    """(parameters, multiply-accumulates of one picture's forward pass) of the model that `build()` returns.

    Parameters are what training changes by gradients: running statistics and frozen norms, torch's buffers, do not count.
    """
    model = skeleton(build)
    return sum(math.prod(w.shape) for w in model.trainable_weights), macs(model)


def skeleton(build):
    """The model that `build()` returns, with shapes and no values: to be looked at, never called."""
    with _without_memory():
        return build()


@contextlib.contextmanager
def _without_memory():
    """Within it, weights have shapes and no values.

    Keras keeps the unfilled weights in a list and fills all of them when the next model is built: gigabytes for models long gone.
    No public call empties that list.
    """
    before = list(global_state.get_global_attribute("uninitialized_variables", []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", before)


def macs(model):
    """Sum over the leaf layers, each used once, from the shapes they were built for. Norms and activations count nothing.

    A layer of ours that multiplies tokens with each other says so itself by `macs(input_shape)`.
    """
    return sum(_layer_macs(layer) for layer in model._flatten_layers(include_self=False) if layer.built)


def _layer_macs(layer):
    if isinstance(layer, keras.layers.Dense):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(shape[1:]) * layer.units
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        shape = layer.get_build_config()["input_shape"]
        return math.prod(layer.compute_output_shape(shape)[1:3]) * math.prod(layer.kernel.shape)
    if hasattr(layer, "macs"):
        return layer.macs(layer.get_build_config()["input_shape"])
    return 0
