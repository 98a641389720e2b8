"""Figures of a classifier whose pictures may have several classes each, or none."""

import numpy as np

from kzoo.tasks.meters import Meter
from kzoo.tasks.ranking import average_precision


class LabelMeter(Meter):
    """Of logits (B * crops, C) against targets (B, C), 1 for each class that a picture has, else 0.

    mean_average_precision: the mean over the classes that any picture has (macro). f1: micro, of all classes of all
    pictures together, a class being said where its probability is above `threshold`. loss: the mean binary
    cross-entropy in nats. Of several crops of a picture the probabilities are averaged.
    """

    def __init__(self, threshold):
        self.bound = np.log(threshold / (1 - threshold))
        self.logits, self.targets = [], []

    def update(self, outputs, y, real):
        self.logits.append(merged_alone(outputs, len(outputs) // len(y))[real].astype("float64"))
        self.targets.append(np.asarray(y)[real] > 0.5)

    def result(self):
        logits, true = np.concatenate(self.logits), np.concatenate(self.targets)
        precisions = [average_precision(logits[:, i], true[:, i]) for i in np.flatnonzero(true.any(axis=0))]
        said = logits > self.bound
        marked = said.sum() + true.sum()
        return {
            "mean_average_precision": float(np.mean(precisions)) if precisions else float("nan"),
            "f1": float(2 * (said & true).sum() / marked) if marked else 0.0,
            "loss": float(np.mean(np.logaddexp(0, logits) - true * logits)),
        }


def merged_alone(logits, crops):
    """Logits (B * crops, C), each of a question of its own -> those (B, C) of the mean probabilities."""
    if crops == 1:
        return logits
    views = logits.reshape(-1, crops, logits.shape[-1]).astype("float64")
    yes, no = (np.logaddexp.reduce(-np.logaddexp(0, sign * views), axis=1) for sign in (-1, 1))
    return yes - no
