"""Classification: softmax or sigmoid cross-entropy over logits; targets are labels (B,) or probabilities (B, C)."""

import keras
import numpy as np
from keras import ops

from kzoo.errors import UsageError, UserError, unknown


def smoothed(logits, targets, label_smoothing=0.0):
    """Target probabilities (B, C), float32: integer labels (B,) or probabilities (B, C), each mixed with the same share of all classes.

    Raises UserError for targets of another shape than the logits' (B, C), which broadcasting would otherwise accept.
    """
    classes = logits.shape[-1]
    if len(targets.shape) == 1:
        targets = ops.one_hot(ops.cast(targets, "int32"), classes, dtype="float32")
    elif tuple(targets.shape[1:]) != (classes,):
        raise UserError(f"targets must be labels (B,) or probabilities (B, {classes}), not {tuple(targets.shape)}; reshape them first.")
    return ops.cast(targets, "float32") * (1.0 - label_smoothing) + label_smoothing / classes


def cross_entropy(logits, targets, label_smoothing=0.0):
    """Per-sample softmax cross-entropy (B,) in nats, float32, of logits (B, C) and targets as in `smoothed`."""
    targets = smoothed(logits, targets, label_smoothing)
    return -ops.sum(targets * ops.log_softmax(ops.cast(logits, "float32")), axis=-1)


def binary_cross_entropy(logits, targets, label_smoothing=0.0):
    """Per-sample sigmoid cross-entropy (B,) in nats, float32, the mean over the classes, each a question of its own."""
    targets, logits = smoothed(logits, targets, label_smoothing), ops.cast(logits, "float32")
    return ops.mean(ops.softplus(logits) - targets * logits, axis=-1)


def binary_cross_entropy_sum(logits, targets, label_smoothing=0.0):
    """binary_cross_entropy, summed over the classes: what the ViTs of ImageNet-21k were pre-trained with."""
    return binary_cross_entropy(logits, targets, label_smoothing) * logits.shape[-1]


LOSSES = {f.__name__: f for f in (cross_entropy, binary_cross_entropy, binary_cross_entropy_sum)}


def hits(logits, targets):
    """1.0 where the best class is the target's (its largest probability), else 0.0: (B,) float32."""
    labels = ops.argmax(targets, axis=-1) if len(targets.shape) == 2 else targets
    return ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32")), "float32")


class Classify(keras.Model):
    """Trains a classifier; sample weights, where given, weight loss and accuracy alike.

    loss is one of LOSSES, label_smoothing a share in [0, 1); with a target_threshold the classes whose probability is above it count
    whole, the others not at all (mixed pictures under a binary loss). Raises UsageError for others.
    """

    def __init__(self, model, loss="cross_entropy", label_smoothing=0.0, target_threshold=None):
        super().__init__()
        if loss not in LOSSES:
            raise unknown("loss", loss, LOSSES)
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"label_smoothing must lie in [0, 1), not {label_smoothing}.")
        self.network, self.loss_name = model, loss
        self.label_smoothing, self.target_threshold = label_smoothing, target_threshold
        self.accuracy = keras.metrics.Mean(name="accuracy")
        # Else `fit` would take a batch to build with and, with a threaded PyDataset, then deliver the rest in another order.
        self.built = model.built

    def build(self, input_shape):
        self.built = True  # the model builds itself when it is first called

    def call(self, images, training=None):
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        targets = y if self.target_threshold is None or len(y.shape) == 1 else y > self.target_threshold
        losses = LOSSES[self.loss_name](y_pred, targets, self.label_smoothing)
        if sample_weight is None:
            loss = ops.mean(losses)
        else:
            weights = ops.cast(sample_weight, "float32")
            loss = ops.sum(losses * weights) / ops.maximum(ops.sum(weights), 1e-12)
        strategy = getattr(self, "distribute_strategy", None)  # TensorFlow's; Keras adds up what its replicas return
        replicas = strategy.num_replicas_in_sync if strategy else 1
        return sum(self.losses, start=loss) / replicas

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(hits(y_pred, y), sample_weight=sample_weight)
        return self.get_metrics_result()


def measure(logits, labels):
    """Metrics of a whole set in float64: logits (N, C), labels (N,) -> accuracy, top5_accuracy (above 5 classes), loss, images."""
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ties = (logits == own).sum(axis=1) - 1  # share their ranks: a constant model is no expert
    rank = (~(logits < own)).sum(axis=1) - 1 - ties / 2  # counted this way, a NaN is the last
    metrics = {"accuracy": float(np.mean(rank == 0)), "loss": float(-np.take_along_axis(log_p, labels[:, None], axis=1).mean())}
    if logits.shape[1] > 5:
        metrics["top5_accuracy"] = float(np.mean(rank < 5))
    return metrics | {"images": len(labels)}
