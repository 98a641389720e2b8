"""Classification: softmax or sigmoid cross-entropy over logits; targets are labels (B,) or (B, 1), or probabilities
(B, C).
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from kzoo.errors import UsageError, UserError
from kzoo.tasks.views import of_keras
from kzoo.tasks.views.base import View
from kzoo.tasks.views.running_f1 import RunningF1

CLOSE = 0.01  # how far probabilities may be from 0..1, and their sum from 1: targets of 16 bits are that exact
_CHUNK = 1 << 16  # targets that are checked at once


def flat(targets, classes):
    """Targets as labels (B,) or probabilities (B, classes): labels in a column, (B, 1), lose it.

    Raises UserError where TensorFlow traces a step for any number of axes: it saw batches of several.
    """
    if getattr(targets.shape, "rank", 0) is None:
        raise UserError("the targets have another number of axes than before; compile() the task again.")
    return targets[:, 0] if classes != 1 and tuple(targets.shape[1:]) == (1,) else targets


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
        else ops.cast(answers[:, 0], "float32") > bound
        if answers.shape[-1] == 1
        else ops.argmax(ops.cast(answers, "float32"), axis=-1)
        for answers, bound in ((logits, 0), (targets, 0.5))
    )
    return ops.cast(ops.equal(ops.cast(best, "int32"), ops.cast(labels, "int32")), "float32")


def _several(network):
    """Whether a picture may have several of the network's classes, by its spec."""
    return bool(getattr(network, "spec", None)) and network.config.multilabel


class ClassifyView(View):
    """Trains a classifier. Sample and class weights weigh as Keras' own: the loss is the sum of weighted losses over
    the batch's size, accuracy the weights' share that was hit.

    With a target_threshold the classes whose probability is above it count whole, the others not at all (mixed pictures
    under a binary loss). Targets that are none (a label that is no class, shares that are no probabilities) raise
    UserError where they are given as arrays; in data that only the compiled step sees they make its loss NaN. Those of
    weight 0 may be anything.

    Where a picture may have several classes, as a `multilabel` network's may, f1 (see RunningF1) is shown in place of
    accuracy; and of a user's own targets where they are (B, C) under a binary loss. A loss given to compile() takes the
    place of the task's. It is called with logits, unless it says that from_logits is False; metrics are called with
    probabilities, unless they say that from_logits is True or their threshold is 0.
    """

    weighs_classes = True
    directions = dict.fromkeys(
        ("accuracy", "f1", "mean_average_precision", "top5_accuracy", "roc_auc", "average_precision"), 1
    )
    f1 = None

    def __init__(self, network, settings):
        super().__init__(network, settings)
        self._given_loss, self._loss_of_shares, self._held = None, False, of_keras.Held()
        self._axes = {}  # of the targets that a step was traced for
        self._metrics_asked = self._accuracy_asked = False
        self.multilabel = _several(network)
        self._several = self.multilabel  # whether the last targets were of several classes a picture
        if self.multilabel:
            self.f1 = RunningF1(settings.threshold, self.total)

    @property
    def terms(self):
        return () if _several(self.network) else ("accuracy",)

    @property
    def _exclusive(self):
        """Whether the classes exclude each other, as softmax has it."""
        return (
            self.settings.loss == "cross_entropy"
            if self._given_loss is None
            else not of_keras.is_binary(self._given_loss)
        )

    def asked(self, given):
        """A loss in place of the task's own, and metrics beside its figures. Raises UsageError for a loss where the
        settings speak of the task's own, for weights of a loss that has no parts, and for two figures of one name.
        """
        loss, weights = given["loss"], given["loss_weights"]
        if loss is not None:
            self._require_one_loss()
        elif weights is not None:
            raise UsageError(
                "loss_weights weigh the losses that compile() is given, and this task brings its own; leave them out, "
                "or weigh pictures by sample_weight."
            )
        self._given_loss, self._loss_of_shares = loss, loss is not None and of_keras.of_probabilities(loss)
        if self.free and self.f1 is None and not self._exclusive:
            self.f1 = RunningF1(self.settings.threshold, self.total)
        named = keras.tree.flatten([given["metrics"], given["weighted_metrics"]])
        self._accuracy_asked = "accuracy" in [name for name in named if isinstance(name, str)]
        found = self._prepared(given)
        if any(found.values()) or self._metrics_asked:  # Keras keeps those of a compile before
            self._metrics_asked = True
        else:
            found = {}
        return ({"loss": loss, "loss_weights": weights} if loss is not None else {}) | found

    def _require_one_loss(self):
        """Raises UsageError where both the settings and compile() say what the loss is."""
        plain = type(self.settings)()
        for name in ("loss", "label_smoothing", "target_threshold"):
            if getattr(self.settings, name) != getattr(plain, name) and not (name == "loss" and self.multilabel):
                raise UsageError(
                    f"kzoo.task(..., {name}={getattr(self.settings, name)!r}) is of the task's own loss, in whose "
                    "place compile() was given another; leave one of the two out."
                )
        if type(self).compute_loss is not ClassifyView.compute_loss:
            raise UsageError(
                f"the task {self.settings.kind} computes its loss by itself, from more than logits and targets; leave "
                "loss out of compile()."
            )

    def _prepared(self, given):
        """{argument: what Keras compiles of it}."""
        own, found, seen = self.figures, {}, []
        for name in ("metrics", "weighted_metrics"):
            found[name] = of_keras.metrics_for(given[name], [*own, *seen], self._held)
            seen += [m if isinstance(m, str) else getattr(m, "name", "") for m in found[name]]
            found[name] = [
                keras.metrics.BinaryAccuracy("accuracy", threshold=self.settings.threshold) if m == "accuracy" else m
                for m in found[name]
            ]
        return found

    def look(self, name, given):
        """Also raises UserError for targets, given as arrays, that are none, and UsageError for class_weight where a
        picture may have several classes.
        """
        super().look(name, given)
        self._trace_anew(name, given)
        several = self._require_targets(given.get("y"), given.get("sample_weight"))
        if isinstance(given.get("validation_data"), (tuple, list)):
            self._require_targets(*given["validation_data"][1:])
        if given.get("class_weight") is not None and (several or self.multilabel):
            raise UsageError(
                "class_weight weighs the one class of a picture, and these may have several; leave it out, or weigh "
                "pictures by sample_weight."
            )

    def _trace_anew(self, name, given):
        """Drops the compiled step where the targets have other axes than before: TensorFlow would trace it for targets
        of any number of axes, of which no loss can be had.
        """
        targets, spec = given.get("y"), getattr(given.get("x"), "element_spec", None)
        if targets is None and isinstance(spec, tuple) and len(spec) > 1:
            targets = spec[1]
        step = "train_function" if name in ("fit", "train_on_batch") else "test_function"
        axes = len(getattr(targets, "shape", None) or np.shape(targets)) if targets is not None else None
        if axes is not None and self._axes.setdefault(step, axes) != axes:
            self._axes[step] = axes
            setattr(self, step, None)

    def _require_targets(self, targets=None, weights=None):
        """Whether the targets, arrays or nothing, (N,), (N, 1) or (N, C), give a picture several classes or none, which
        the network's spec then tells of. Raises UserError where one of them is none for the network's logits.
        """
        shape = getattr(self.network, "output_shape", None)
        given = ops.is_tensor(targets) or isinstance(targets, list | tuple) or hasattr(targets, "__array__")
        if not given or not isinstance(shape, tuple):
            return False
        classes = shape[-1]
        targets = flat(ops.convert_to_numpy(targets) if ops.is_tensor(targets) else np.asarray(targets), classes)
        if targets.dtype.kind in "OSU":
            raise UserError(
                f"targets must be numbers, not {targets.dtype}: labels from 0 to {classes - 1}, or probabilities."
            )
        shares = targets.ndim > 1 and classes > 1
        if shares and self._given_loss is not None and self._exclusive:
            return False  # what a loss of the user's takes is its own matter
        for start in range(0, len(targets), _CHUNK):
            some = targets[start : start + _CHUNK]
            wrong = ~ops.convert_to_numpy(valid(some, classes, self._exclusive))
            if weights is not None:
                wrong &= np.asarray(weights)[start : start + _CHUNK] != 0
            if wrong.any():
                raise UserError(self._refusal(start + int(wrong.argmax()), some[wrong.argmax()], classes))
        several = bool(shares and not self._exclusive and (np.abs(targets.sum(axis=-1) - 1) > CLOSE).any())
        spec = getattr(self.network, "spec", None)
        if several and self.free and spec and not _several(self.network):  # so that it serves by sigmoid
            self.network.spec = dataclasses.replace(spec, overrides=spec.overrides | {"multilabel": True})
        return several

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
        labels = flat(y, y_pred.shape[-1])
        if self._given_loss is not None:
            seen = self._shares(y_pred) if self._loss_of_shares else y_pred
            return keras.Model.compute_loss(self, x, y, seen, sample_weight, training)
        y, threshold = labels, self.settings.target_threshold
        targets = y if threshold is None or len(y.shape) == 1 else y > threshold
        losses = LOSSES[self.settings.loss](y_pred, targets, self.settings.label_smoothing)
        losses = ops.where(valid(y, y_pred.shape[-1], self._exclusive), losses, np.nan)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, "float32")
            losses = ops.where(ops.equal(weights, 0), 0.0, losses * weights)
        return sum(self.losses, start=ops.mean(losses)) / self.replicas()

    def _shares(self, logits):
        """The probabilities of logits (B, C)."""
        logits = ops.cast(logits, "float32")
        return ops.softmax(logits) if logits.shape[-1] > 1 and self._exclusive else ops.sigmoid(logits)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        targets, classes = flat(y, y_pred.shape[-1]), y_pred.shape[-1]
        shares = len(targets.shape) > 1 and classes > 1
        self._several = self.multilabel or (self.f1 is not None and shares and not self._exclusive)
        if not self._several:
            self.tell(accuracy=hits(y_pred, targets), weights=sample_weight)
        else:
            targets = targets if len(targets.shape) > 1 else ops.one_hot(ops.cast(targets, "int32"), classes)
            self.f1.update_state(y_pred, targets, sample_weight)
            if "accuracy" in self.means:
                right = ops.equal(y_pred > self.f1.bound, ops.cast(targets, "float32") > 0.5)
                self.tell(accuracy=ops.mean(ops.cast(right, "float32"), axis=-1), weights=sample_weight)
        if not self._metrics_asked:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        self._held.value = y_pred
        try:
            return keras.Model.compute_metrics(self, x, y, self._shares(y_pred), sample_weight)
        finally:
            self._held.value = None  # of a traced step, nobody else's

    def get_metrics_result(self):
        found = super().get_metrics_result()
        if self.f1 is not None:
            hidden = {"accuracy"} if self._several and not self._accuracy_asked else set()
            hidden |= set() if self._several else {"f1"}
            found = {name: value for name, value in found.items() if name not in hidden}
        return found
