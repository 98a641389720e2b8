"""Classification: softmax or sigmoid cross-entropy over logits; targets are labels (B,) or probabilities (B, C)."""

import functools
import inspect

import keras
import numpy as np
from keras import ops

from kzoo.errors import UserError
from kzoo.tasks.views.base import View

CLOSE = 0.01  # how far probabilities may be from 0..1, and their sum from 1: targets of 16 bits are that exact
_CHUNK = 1 << 16  # targets that are checked at once


def valid(targets, classes, exclusive=True):
    """Which of the targets are some for logits (B, classes): (B,) bool.

    Labels (B,) are whole numbers below `classes`, of one logit 0 and 1; probabilities (B, classes) lie in 0..1 and,
    where classes exclude each other, sum to 1. Raises UserError for another shape.
    """
    _require_shape(targets, classes)
    if len(targets.shape) == 1:
        labels = ops.cast(targets, "int32")
        whole = ops.equal(ops.cast(labels, keras.backend.standardize_dtype(targets.dtype)), targets)
        return ops.logical_and(whole, ops.logical_and(labels >= 0, labels < max(classes, 2)))
    shares = ops.cast(targets, "float32")
    within = ops.all(ops.abs(shares - 0.5) <= 0.5 + CLOSE, axis=-1)
    whole = ops.abs(ops.sum(shares, axis=-1) - 1) <= CLOSE
    return ops.logical_and(within, whole) if exclusive and classes > 1 else within


def _require_shape(targets, classes):
    """Raises UserError for targets that broadcasting would otherwise accept."""
    if len(targets.shape) != 1 and tuple(targets.shape[1:]) != (classes,):
        raise UserError(
            f"targets must be labels (B,) or probabilities (B, {classes}), not {tuple(targets.shape)}; reshape them "
            "first."
        )


def smoothed(logits, targets, label_smoothing=0.0):
    """(logits, their target probabilities), both float32 (B, C): of labels (B,) or probabilities (B, C), each mixed
    with the same share of all classes. One logit answers whether the class is 1; it becomes two, that of the other
    answer being 0.
    """
    classes = logits.shape[-1]
    _require_shape(targets, classes)
    logits = ops.cast(logits, "float32")
    if len(targets.shape) == 1:
        # torch raises for others, which `valid` sorts out
        labels = ops.clip(ops.cast(targets, "int32"), 0, max(classes, 2) - 1)
        targets = ops.one_hot(labels, max(classes, 2), dtype="float32")
    elif classes == 1:
        share = ops.cast(targets, "float32")
        targets = ops.concatenate([1.0 - share, share], axis=-1)
    if classes == 1:
        logits = ops.pad(logits, ((0, 0), (1, 0)))
    return logits, ops.cast(targets, "float32") * (1.0 - label_smoothing) + label_smoothing / max(classes, 2)


def cross_entropy(logits, targets, label_smoothing=0.0):
    """Per-sample softmax cross-entropy (B,) in nats, float32, of logits (B, C) and targets as in `smoothed`; of one
    logit, binary.
    """
    logits, targets = smoothed(logits, targets, label_smoothing)
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def binary_cross_entropy(logits, targets, label_smoothing=0.0):
    """Per-sample sigmoid cross-entropy (B,) in nats, float32, the mean over the classes, each a question of its own."""
    if logits.shape[-1] == 1:
        return cross_entropy(logits, targets, label_smoothing)
    logits, targets = smoothed(logits, targets, label_smoothing)
    return ops.mean(ops.softplus(logits) - targets * logits, axis=-1)


def binary_cross_entropy_sum(logits, targets, label_smoothing=0.0):
    """binary_cross_entropy, summed over the classes: what the ViTs of ImageNet-21k were pre-trained with."""
    return binary_cross_entropy(logits, targets, label_smoothing) * logits.shape[-1]


LOSSES = {f.__name__: f for f in (cross_entropy, binary_cross_entropy, binary_cross_entropy_sum)}


def hits(logits, targets):
    """1.0 where the best class is the target's (its largest probability), else 0.0: (B,) float32. One logit above 0
    means class 1.
    """
    best, labels = (
        answers
        if len(answers.shape) == 1
        else answers[:, 0] > bound
        if answers.shape[-1] == 1
        else ops.argmax(answers, axis=-1)
        for answers, bound in ((logits, 0), (targets, 0.5))
    )
    return ops.cast(ops.equal(ops.cast(best, "int32"), ops.cast(labels, "int32")), "float32")


def _checking(name):
    """Keras' method of that name, which looks at the targets first, where it is given arrays of them."""
    method = getattr(keras.Model, name)

    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        given = inspect.signature(method).bind(self, *args, **kwargs).arguments
        self._require_targets(given.get("y"), given.get("sample_weight"))
        if isinstance(given.get("validation_data"), (tuple, list)):
            self._require_targets(*given["validation_data"][1:])
        return method(self, *args, **kwargs)

    return checked


class ClassifyView(View):
    """Trains a classifier. Sample and class weights weigh as Keras' own: the loss is the sum of weighted losses over
    the batch's size, accuracy the weights' share that was hit.

    With a target_threshold the classes whose probability is above it count whole, the others not at all (mixed pictures
    under a binary loss). Targets that are none (a label that is no class, shares that are no probabilities) raise
    UserError where they are given as arrays; in data that only the compiled step sees they make its loss NaN. Those of
    weight 0 may be anything.
    """

    terms = ("accuracy",)
    fit, evaluate, train_on_batch, test_on_batch = map(
        _checking, ("fit", "evaluate", "train_on_batch", "test_on_batch")
    )

    def _require_targets(self, targets=None, weights=None):
        """Raises UserError for targets (N,) or (N, C), arrays or nothing, of which one is none for the network's
        logits.
        """
        shape = getattr(self.network, "output_shape", None)
        given = ops.is_tensor(targets) or isinstance(targets, list | tuple) or hasattr(targets, "__array__")
        if not given or not isinstance(shape, tuple):
            return
        targets = ops.convert_to_numpy(targets) if ops.is_tensor(targets) else np.asarray(targets)
        if targets.dtype.kind in "OSU":
            raise UserError(
                f"targets must be numbers, not {targets.dtype}: labels from 0 to {shape[-1] - 1}, or probabilities."
            )
        for start in range(0, len(targets), _CHUNK):
            some = targets[start : start + _CHUNK]
            wrong = ~ops.convert_to_numpy(valid(some, shape[-1], self._exclusive))
            if weights is not None:
                wrong &= np.asarray(weights)[start : start + _CHUNK] != 0
            if wrong.any():
                raise UserError(self._refusal(start + int(wrong.argmax()), some[wrong.argmax()], shape[-1]))

    @property
    def _exclusive(self):
        """Whether the classes exclude each other, as softmax has it."""
        return self.settings.loss == "cross_entropy"

    def _refusal(self, index, target, classes):
        if target.ndim == 0:
            last = max(classes, 2) - 1
            return (
                f"target {index} is {target!s}; the model has {classes} logits, so a label is a whole number from 0 "
                f"to {last}."
            )
        together = ", which sum to 1" if self._exclusive else ""
        return (
            f"target {index} is {np.array2string(target, threshold=6)}; it must be {classes} probabilities in "
            f"0..1{together}."
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        threshold = self.settings.target_threshold
        targets = y if threshold is None or len(y.shape) == 1 else y > threshold
        losses = LOSSES[self.settings.loss](y_pred, targets, self.settings.label_smoothing)
        losses = ops.where(valid(y, y_pred.shape[-1], self._exclusive), losses, np.nan)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, "float32")
            losses = ops.where(ops.equal(weights, 0), 0.0, losses * weights)
        return sum(self.losses, start=ops.mean(losses)) / self.replicas()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.tell(accuracy=hits(y_pred, y), weights=sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)
