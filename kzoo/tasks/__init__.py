"""What training adds to a model: a loss and metrics, as a keras.Model for `compile` and `fit`."""

import inspect

from kzoo import registry
from kzoo.errors import unknown
from kzoo.tasks.classify import Classify

_TASKS = {"classify": Classify}


def task(model, **options):
    """A keras.Model that trains `model`: call `compile(optimizer=...)` and `fit` on your own data; it brings the loss itself.

    `model` is one of kzoo's or any Keras model that gives logits (B, C); the weights trained are its own. Options of "classify":
    label_smoothing in [0, 1). Raises UsageError for an unknown option.
    """
    name = registry.find(model.spec.name).task if getattr(model, "spec", None) else "classify"
    valid = list(inspect.signature(_TASKS[name]).parameters)[1:]
    for option in set(options) - set(valid):
        raise unknown(f"option of the task {name}", option, valid)
    return _TASKS[name](model, **options)
