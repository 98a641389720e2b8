"""Kinds of work, found by the kind of their settings: what each adds to a model, and the keras.Model that trains it."""

import dataclasses
import importlib
import pathlib

from kzoo import registry, schema
from kzoo.errors import UsageError, UserError, unknown
from kzoo.tasks.base import TASKS, register_task

__all__ = ["make", "of", "register_task", "task", "trained_view"]


def make(settings):
    """The Task of a recipe's settings. Raises UserError for settings whose task nobody registered."""
    kind = settings.kind
    if kind not in TASKS and schema.is_ours(type(settings)):
        importlib.import_module(f"kzoo.tasks.{kind}")
    if kind not in TASKS:
        schema.settings_class(kind)
    if kind not in TASKS:
        raise UserError(
            f"no task of the kind {kind!r} is registered; put @kzoo.register_task over it, in the module of its "
            "settings."
        )
    return TASKS[kind](settings)


def trained_view(task, network, run, best=False):
    """The task's view of a run's network, its own weights those of the run (averaged where it keeps an average), or of
    its best.

    None where the run's checkpoint holds nothing of a view's own. Raises UserError for one of another view.
    """
    from kzoo.weights.formats.npz import CHECKPOINT, Npz
    from kzoo.weights.read import best_of

    with Npz(best_of(run) if best else pathlib.Path(run) / CHECKPOINT) as file:
        file.meta()  # which compares the seal
        held = {key: file.stored(key) for key in file.tensors if key.startswith(("task/", "task_average/"))}
    if not held:
        return None
    view = task.view(network)
    own = view.own()
    if {name: weight.shape for name, weight in own.items()} != {
        k: v.shape for k, v in held.items() if k.startswith("task/")
    }:
        raise UserError(
            f"the checkpoint in {run} holds other weights of its task's view than it makes now; use the version of its "
            "recipe.txt."
        )
    for name, weight in own.items():
        weight.assign(held.get(f"task_average/{name.removeprefix('task/')}", held[name]))
    return view


def of(model):
    """The Task of a model's family, which serves it; that of a Keras model which kzoo did not build is
    classification.
    """
    return named(_kind_of(model))


def named(kind):
    """The Task of a kind, with its settings as they are by default. Raises UsageError for an unknown kind."""
    return make(schema.settings_class(kind)())


def task(model, kind=None, *, teacher=None, **settings):
    """A keras.Model that trains `model`: call `compile(optimizer=...)` and `fit` on your own data; it brings the loss
    itself.

    `model` is one of kzoo's or, for "classify", any Keras model that gives logits (B, C); the weights trained are its
    own. kind is the task, by default that of the model's family; settings are the fields of kzoo.schema's class of that
    kind, for "classify" loss, label_smoothing in [0, 1), target_threshold and threshold. teacher: of a task that learns
    from one, anything that Keras can call; it is called and never changed, and the task cannot be saved whole.

    Classification takes labels (B,) or (B, 1), or probabilities (B, C), and shows accuracy. Under a binary loss targets
    (B, C) may name any number of classes: it then shows f1, micro, of probabilities above `threshold`, in place of
    accuracy; where arrays of them name several or none, the model's spec says so from then on and it serves by sigmoid,
    as `kzoo.get(..., multilabel=True)` does from the start. compile() takes metrics, which see probabilities, or logits
    where they say from_logits=True or have a threshold of 0; and a loss in place of the task's own, which sees logits,
    or probabilities where it says from_logits=False. Other tasks refuse both.

    Keras' EarlyStopping, ReduceLROnPlateau and ModelCheckpoint know which way a figure of the task is better. `save`
    keeps the whole task, compiled, for keras.models.load_model after `import kzoo`; `save_weights` the network's
    weights as its own load_weights takes them, with the optimizer's state for the task's.

    Raises UsageError for an unknown kind or setting, for a teacher of other tasks, and for a loss that excludes what
    the model's spec allows.
    """
    kind = kind or _kind_of(model)
    chosen = schema.settings_class(kind)
    valid = [field.name for field in dataclasses.fields(chosen)]
    for option in set(settings) - set(valid):
        raise unknown(f"option of the task {kind}", option, valid)
    if getattr(model, "spec", None) and model.config.multilabel and "loss" in valid:
        settings.setdefault("loss", "binary_cross_entropy")
        if settings["loss"] == "cross_entropy":
            raise UsageError(
                "a picture may have several of this model's classes (multilabel=True), and softmax cross-entropy "
                "allows one; give loss='binary_cross_entropy', or leave loss out."
            )
    made = make(chosen(**settings))
    from kzoo.weights import require_trained

    require_trained(model)
    if teacher is not None and not made.taught:
        raise UsageError(f"the task {kind} learns from no teacher; leave teacher out.")
    view = made.view(model) if teacher is None else made.view(model, teacher=teacher)
    view.lent, view.free = teacher is not None, True
    return view


def _kind_of(model):
    return registry.find(model.spec.name).task if getattr(model, "spec", None) else "classify"
