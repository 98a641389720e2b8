"""What training adds to a model: a loss and metrics, as a keras.Model for `compile` and `fit`."""

from kzoo import registry
from kzoo.tasks.classify import Classify

_TASKS = {"classify": Classify}


def task(model, **options):
    """A keras.Model that trains `model`: call `compile(optimizer=...)` and `fit` on your own data; it brings the loss itself.

    The weights trained are the model's own. Options of "classify": label_smoothing in [0, 1).
    """
    name = registry.find(model.spec.name).task if getattr(model, "spec", None) else "classify"
    return _TASKS[name](model, **options)
