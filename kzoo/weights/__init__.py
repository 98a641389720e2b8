"""Reading weights, fitting them into a model with a receipt, and writing them in the layouts that others read."""

from kzoo.weights.fill import build_and_fill, fill, load_weights, transfer
from kzoo.weights.read import load
from kzoo.weights.report import LoadReport, require_trained
from kzoo.weights.save import save_weights

__all__ = [
    "LoadReport",
    "build_and_fill",
    "fill",
    "load",
    "load_weights",
    "require_trained",
    "save_weights",
    "transfer",
]
