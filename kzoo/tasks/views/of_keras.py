"""Losses and metrics of Keras, and of users, over a network that gives logits: which of them get probabilities."""

import inspect

import keras

from kzoo.errors import UsageError


def of_probabilities(loss):
    """Whether a loss (a name, a function, an object) says that it is made for probabilities: from_logits is False."""
    if loss in ("crossentropy", "ce"):  # which Keras makes one by the targets' shape
        return True
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return _config(loss).get("from_logits") is False
    parameter = inspect.signature(loss).parameters.get("from_logits")
    return parameter is not None and parameter.default is False


def is_binary(loss):
    """Whether a loss, as compile() has it, asks about each class by itself, as those that Keras calls binary do."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return name.lower().startswith("binary") or name.lower() == "bce"


def _of_logits(metric):
    """Whether a metric says that it is made for logits: from_logits is True, or its threshold is 0."""
    config = _config(metric) if isinstance(metric, keras.metrics.Metric) else {}
    thresholds = keras.tree.flatten([config.get(name) for name in ("threshold", "thresholds")])
    return config.get("from_logits") is True or any(isinstance(t, int | float) and t == 0 for t in thresholds)


def _config(thing):
    """What a loss or metric tells of itself; one of a user's that tells nothing says nothing."""
    try:
        return thing.get_config()
    except (NotImplementedError, TypeError):
        return {}


class Held:
    """What is handed from a step to the metrics in it."""

    value = None


@keras.saving.register_keras_serializable("kzoo")
class OfLogits(keras.metrics.Metric):
    """A metric that is given the logits which `held` has, where all others are given probabilities."""

    def __init__(self, metric, held=None):
        super().__init__(name=metric.name)
        self.metric, self.held = metric, held
        if hasattr(metric, "_direction"):  # by which Keras' callbacks know what is better
            self._direction = metric._direction

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.metric.update_state(y_true, self.held.value, sample_weight=sample_weight)

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()

    def get_config(self):
        return {"metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["metric"]))


def metrics_for(given, own, held):
    """What Keras compiles of the metrics that a user gave: names, functions and objects, those of logits as OfLogits.

    "accuracy", where the view shows it itself, is left out. Raises UsageError for two of one name.
    """
    found, names = [], set()
    for metric in filter(None, keras.tree.flatten(given)):
        if metric == "accuracy" and metric in own:
            continue
        name = metric if isinstance(metric, str) else getattr(metric, "name", getattr(metric, "__name__", None))
        if name in {*own, *names}:
            whose = "the task shows itself" if name in own else "another metric has"
            raise UsageError(
                f"a metric is called {name!r}, a name that {whose}; give it one of its own, name='my_{name}'."
            )
        names.add(name)
        metric = metric.metric if isinstance(metric, OfLogits) else metric
        found.append(OfLogits(metric, held) if _of_logits(metric) else metric)
    return found
