"""Activations that survive every export."""

import math

from keras import ops


def gelu(x):
    """The exact (erf) GELU of any-shaped `x`. Keras' own becomes an `Erfc` node, which no ONNX runtime knows."""
    return 0.5 * x * (1.0 + ops.erf(x * (1.0 / math.sqrt(2.0))))
