"""Reading weights, fitting them into a model with a receipt, and writing them in the layouts that others read."""

from kzoo.weights.fit import LoadReport, build_and_fill, fit, load_weights, transfer
from kzoo.weights.read import load
from kzoo.weights.save import save_weights

__all__ = ["LoadReport", "build_and_fill", "fit", "load", "load_weights", "save_weights", "transfer"]
