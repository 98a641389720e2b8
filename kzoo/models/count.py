"""Models built without memory for their weights, to be counted or compared, or with no more weights than were allowed."""

import contextlib
import math

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import initialize_all_variables

_UNFILLED = "uninitialized_variables"  # Keras' own list of the weights that were declared within a StatelessScope


class TooManyWeights(Exception):
    """A model declared more weights than it was allowed."""


def count(build):
    """(parameters, multiply-accumulates of one picture's forward pass) of the model that `build()` returns.

    Parameters are what training changes by gradients: running statistics and frozen norms, torch's buffers, do not count.
    """
    model = skeleton(build)
    return sum(math.prod(w.shape) for w in model.trainable_weights), macs(model)


def skeleton(build, most=None):
    """The model that `build()` returns, with shapes and no values: to be looked at, never called. `most` as in bounded()."""
    with _declared(most):
        return build()


def bounded(build, most):
    """The model that `build()` returns, its weights filled once all of them are declared and found to be no more than `most`.

    most: (how many weights, how many values in all). Raises TooManyWeights, as soon as the model declares one too many.
    """
    with _declared(most) as unfilled:
        model = build()
    with _kept():
        global_state.set_global_attribute(_UNFILLED, unfilled)
        initialize_all_variables()
    return model


@contextlib.contextmanager
def _declared(most):
    """Within it weights have shapes and no values. Yields their list, which takes no more than `most`, or any number for None."""
    unfilled = _Counted(most) if most else []
    with _kept(), keras.StatelessScope(initialize_variables=False):
        global_state.set_global_attribute(_UNFILLED, unfilled)
        yield unfilled


@contextlib.contextmanager
def _kept():
    """Keras keeps the unfilled weights and fills all of them when the next model is built: gigabytes for models long gone.

    No public call empties that list.
    """
    before = list(global_state.get_global_attribute(_UNFILLED, []))
    try:
        yield
    finally:
        global_state.set_global_attribute(_UNFILLED, before)


class _Counted(list):
    """Unfilled weights, `most` of them."""

    def __init__(self, most):
        super().__init__()
        self.left = most

    def append(self, variable):
        self.left = self.left[0] - 1, self.left[1] - math.prod(variable.shape)
        if min(self.left) < 0:
            raise TooManyWeights
        super().append(variable)


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
