"""Kinds of work, found by the kind of their settings: what each adds to a model, and the keras.Model that trains it."""

import dataclasses
import importlib

from kzoo import registry
from kzoo.errors import unknown
from kzoo.schema import SETTINGS
from kzoo.tasks.base import TASKS


def make(settings):
    """The Task of a recipe's settings."""
    if settings.kind not in TASKS:
        importlib.import_module(f"kzoo.tasks.{settings.kind}")
    return TASKS[settings.kind](settings)


def of(model):
    """The Task of a model's family, which serves it; that of a Keras model which kzoo did not build is classification."""
    return named(_kind_of(model))


def named(kind):
    """The Task of a kind, with its settings as they are by default. Raises UsageError for an unknown kind."""
    if kind not in SETTINGS:
        raise unknown("task", kind, SETTINGS)
    return make(SETTINGS[kind]())


def task(model, kind=None, **settings):
    """A keras.Model that trains `model`: call `compile(optimizer=...)` and `fit` on your own data; it brings the loss itself.

    `model` is one of kzoo's or, for "classify", any Keras model that gives logits (B, C); the weights trained are its own. kind is the
    task, by default that of the model's family; settings are the fields of kzoo.schema's class of that kind, for "classify" loss,
    label_smoothing in [0, 1) and target_threshold. Raises UsageError for an unknown kind or setting.
    """
    kind = kind or _kind_of(model)
    if kind not in SETTINGS:
        raise unknown("task", kind, SETTINGS)
    valid = [field.name for field in dataclasses.fields(SETTINGS[kind])]
    for option in set(settings) - set(valid):
        raise unknown(f"option of the task {kind}", option, valid)
    return make(SETTINGS[kind](**settings)).view(model)


def _kind_of(model):
    return registry.find(model.spec.name).task if getattr(model, "spec", None) else "classify"
