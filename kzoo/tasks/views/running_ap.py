"""AP50 of the batches that a detector is trained on, inside its compiled step."""

import keras
import numpy as np
from keras import ops

from kzoo.ops.boxes import box_iou, cxcywh_to_xyxy

BINS, MOST = 240, 12.0  # of scores, whose log-odds are counted from -MOST to MOST
OVERLAP = 0.5  # from which a box is found
RECALLS = np.linspace(0, 1, 101)  # COCO's


class RunningAP50(keras.metrics.Metric):
    """COCO's AP at an IoU of 0.5, the mean over the classes that had an object, of all batches since the last reset.

    It needs no pass of its own and no crowds, which training leaves out. Counts are kept by class and score, so that
    scores within one of `BINS` are a tie. Of the detections of a class, each goes to the object that it overlaps most,
    and the best of an object's is right, where COCO lets another take an object that it overlaps less. Both lower the
    figure, by less than 0.01.

    total: the sum over all replicas.
    """

    def __init__(self, classes, total=lambda value: value, name="ap50"):
        super().__init__(name=name)
        self.total = total
        self.counts = self.add_variable((2, classes, BINS), "zeros", name="counts")  # all detections, the right ones
        self.objects = self.add_variable((classes,), "zeros", name="objects")

    def update_state(self, logits, boxes, targets, sample_weight=None):
        """logits (B, Q, C + 1), boxes (B, Q, 4) and targets as targets_of gives them; pictures of weight 0 are left
        out.
        """
        classes = self.objects.shape[0]
        kinds = ops.argmax(logits[..., :-1], axis=-1)
        scores = _log_odds(logits, kinds)
        valid, labels = targets["valid"], targets["labels"]
        counted = ops.ones_like(scores)
        if sample_weight is not None:
            there = ops.cast(sample_weight, "float32") > 0
            valid, counted = ops.logical_and(valid, there[:, None]), ops.where(there[:, None], counted, 0.0)

        overlap = box_iou(cxcywh_to_xyxy(targets["boxes"]), cxcywh_to_xyxy(boxes))  # (B, T, Q)
        near = ops.logical_and(valid[..., None], ops.cast(labels[..., None], kinds.dtype) == kinds[:, None])
        overlap = ops.where(ops.logical_and(near, overlap >= OVERLAP), overlap, 0.0)
        aimed = ops.logical_and(overlap > 0, overlap >= ops.max(overlap, axis=1, keepdims=True))
        best = ops.argmax(ops.where(aimed, scores[:, None], -2 * MOST), axis=-1)  # (B, T)
        best = best[..., None] == ops.arange(scores.shape[1], dtype=best.dtype)
        right = ops.cast(ops.any(ops.logical_and(best, aimed), axis=1), "float32")  # (B, Q)

        place = ops.minimum(ops.cast((scores / MOST + 1) * BINS / 2, "int32"), BINS - 1)
        place = ops.reshape(_one_hot(place, BINS), (-1, BINS))
        kinds = ops.reshape(_one_hot(kinds, classes) * counted[..., None], (-1, classes))
        told = [ops.matmul(ops.transpose(each), place) for each in (kinds, kinds * ops.reshape(right, (-1, 1)))]
        self.counts.assign_add(self.total(ops.stack(told)))
        objects = _one_hot(labels, classes) * ops.cast(valid, "float32")[..., None]
        self.objects.assign_add(self.total(ops.sum(objects, axis=(0, 1))))

    def result(self):
        found, right = (ops.cumsum(ops.flip(self.counts[i], axis=-1), axis=-1) for i in (0, 1))  # the best score first
        objects = ops.maximum(self.objects, 1.0)[:, None]
        precision, recall = right / ops.maximum(found, 1.0), right / objects
        reached = recall[..., None] >= ops.convert_to_tensor(RECALLS - 1e-6, "float32")  # (C, BINS, 101)
        precision = ops.mean(ops.max(ops.where(reached, precision[..., None], 0.0), axis=1), axis=-1)
        some = ops.cast(self.objects > 0, "float32")
        return ops.sum(precision * some) / ops.maximum(ops.sum(some), 1.0)


def _log_odds(logits, kinds):
    """The log-odds of the class of that number (B, Q), in -MOST..MOST: near 1 scores themselves have no digits left."""
    chosen = kinds[..., None] == ops.arange(logits.shape[-1], dtype=kinds.dtype)
    own = ops.max(ops.where(chosen, logits, -1e30), axis=-1)
    others = ops.logsumexp(ops.where(chosen, -1e30, logits), axis=-1)
    return ops.clip(own - others, -MOST, MOST)


def _one_hot(numbers, count):
    return ops.cast(numbers[..., None] == ops.arange(count, dtype=numbers.dtype), "float32")
