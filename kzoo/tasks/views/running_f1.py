"""F1 of the pictures that a network with several classes a picture is trained on, inside its compiled step."""

import math

import keras
from keras import ops


class RunningF1(keras.metrics.Metric):
    """Micro F1 since the last reset: 2 * right / (said + true), each counted over all classes of all pictures.

    A class is said where its probability is above the threshold, and true where its target is above 0.5. total: the sum
    over all replicas.
    """

    def __init__(self, threshold, total=lambda value: value, name="f1"):
        super().__init__(name=name)
        self.bound, self.total = math.log(threshold / (1 - threshold)), total
        self.counts = self.add_variable((3,), "zeros", name="counts")  # right, said, true

    def update_state(self, logits, targets, sample_weight=None):
        """logits and targets (B, C); sample_weight (B,)."""
        said, true = ops.cast(logits > self.bound, "float32"), ops.cast(ops.cast(targets, "float32") > 0.5, "float32")
        counts = ops.stack([ops.sum(each, axis=-1) for each in (said * true, said, true)])  # (3, B)
        if sample_weight is not None:
            counts = counts * ops.reshape(ops.cast(sample_weight, "float32"), (1, -1))
        self.counts.assign_add(self.total(ops.sum(counts, axis=1)))

    def result(self):
        return 2 * self.counts[0] / ops.maximum(self.counts[1] + self.counts[2], 1e-12)
