"""Reading weights and fitting them into a model, with a receipt."""

from kzoo.weights.fit import LoadReport, fit_for_get, load_weights, transfer
from kzoo.weights.read import load

__all__ = ["LoadReport", "fit_for_get", "load", "load_weights", "transfer"]
