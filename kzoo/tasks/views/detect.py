"""Detection as set prediction (DETR, arXiv:2005.12872): every object is given one query, of which class and box are
then judged; all other queries are to say "no object". In float32.

Boxes, predicted and true, are cx, cy, w, h in 0..1 of the picture without its padding: the loss compares them as they
are, and it is the network that learns the frame from its padding mask. So it is in the official code, which divides by
a picture's own sides before it pads.
"""

import numpy as np
from keras import ops

from kzoo.ops.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from kzoo.ops.matching import linear_sum_assignment
from kzoo.tasks.average_precision import FIGURES
from kzoo.tasks.views.base import View
from kzoo.tasks.views.running_ap import RunningAP50


def layers_of(outputs, aux_loss=True):
    """(logits (B, L, Q, C+1), boxes (B, L, Q, 4)), float32, of a detector's outputs: those of the auxiliary layers
    where there are any and `aux_loss`, and then the last layer's.
    """
    found = []
    for name in ("logits", "boxes"):
        last, earlier = outputs[name][:, None], outputs.get(f"aux_{name}")
        layers = [last] if earlier is None or not aux_loss else [earlier, last]
        found.append(ops.concatenate([ops.cast(x, "float32") for x in layers], axis=1))
    return tuple(found)


def targets_of(y, classes):
    """{"boxes" (B, T, 4) float32, "labels" (B, T) int32, "valid" (B, T) bool}: where not valid a label of 0 and a box
    of the whole picture, whatever stood there. A label that is none of 0..classes-1 makes its box NaN, and so the loss.
    """
    valid, labels = ops.cast(y["valid"], "bool"), ops.cast(y["labels"], "int32")
    known = ops.logical_and(labels >= 0, labels < classes)
    boxes = ops.where(known[..., None], ops.cast(y["boxes"], "float32"), float("nan"))
    whole = ops.convert_to_tensor([0.5, 0.5, 1.0, 1.0], "float32")
    return {
        "boxes": ops.where(valid[..., None], boxes, whole),
        "labels": ops.where(ops.logical_and(valid, known), labels, 0),
        "valid": valid,
    }


def matching_cost(logits, boxes, targets, *, cost_class=1.0, cost_bbox=5.0, cost_giou=2.0):
    """What it costs to give a target a query, (B, L, T, Q), of layers_of and targets_of: minus the probability of its
    class, the L1 distance of the boxes, minus their generalised IoU, each with its weight.
    """
    wanted = targets["boxes"][:, None]  # (B, 1, T, 4)
    near = generalized_box_iou(cxcywh_to_xyxy(wanted), cxcywh_to_xyxy(boxes))
    distance = ops.sum(ops.abs(wanted[:, :, :, None] - boxes[:, :, None]), axis=-1)
    # (B, L, C+1, Q), of which the rows of the targets' labels are taken
    likely = ops.swapaxes(ops.softmax(logits, axis=-1), 2, 3)
    labels = ops.broadcast_to(targets["labels"][:, None], ops.shape(distance)[:3])
    likely = ops.take_along_axis(likely, labels[..., None], axis=2)
    return cost_bbox * distance - cost_class * likely - cost_giou * near


def match(cost, valid):
    """The query (B, L, T) int32 of each target by its layer's cost (B, L, T, Q); -1 where not valid (B, T).

    All layers and pictures are one call of the assignment.
    """
    layers, room, queries = cost.shape[1:]
    valid = ops.repeat(valid, layers, axis=0)
    found = linear_sum_assignment(ops.reshape(cost, (-1, room, queries)), valid)
    return ops.reshape(found, (-1, layers, room))


def class_losses(logits, targets, matched, no_object=0.1):
    """(losses (B, L), weights (B,)): the cross-entropies of a picture's queries, summed, "no object" weighing
    `no_object`; and the sum of those weights. A batch's loss is the quotient of both sums.
    """
    queries, classes = logits.shape[2:]
    number = ops.arange(queries, dtype="int32")
    mine = matched[..., None] == number  # (B, L, T, Q), one target a query at most
    # as many as there are classes: the last, "no object", where nobody came
    labels = ops.max(ops.where(mine, targets["labels"][:, None, :, None], -1), axis=2)
    labels = ops.where(labels < 0, classes - 1, labels)
    chosen = labels[..., None] == ops.arange(classes, dtype="int32")
    losses = -ops.sum(ops.where(chosen, ops.log_softmax(logits, axis=-1), 0.0), axis=-1)  # (B, L, Q)
    losses = ops.where(labels == classes - 1, no_object, 1.0) * losses
    objects = ops.sum(ops.cast(targets["valid"], "float32"), axis=-1)
    return ops.sum(losses, axis=-1), objects + no_object * (queries - objects)


def box_losses(boxes, targets, matched):
    """(L1 (B, L), GIoU (B, L)): the sums over a picture's objects of |box - target| and of 1 - generalised IoU."""
    given = _taken(boxes, ops.maximum(matched, 0))  # (B, L, T, 4)
    wanted, valid = targets["boxes"][:, None], targets["valid"][:, None]
    distance = ops.sum(ops.abs(given - wanted), axis=-1)
    # a pair at a time: sets of one box each
    pairs = [cxcywh_to_xyxy(each)[..., None, :] for each in (given, wanted)]
    apart = 1.0 - generalized_box_iou(*pairs)[..., 0, 0]
    return tuple(ops.sum(ops.where(valid, each, 0.0), axis=-1) for each in (distance, apart))


def _taken(boxes, matched):
    """The boxes (B, L, T, 4) of the matched queries: as rows, whose gradient then is of rows too."""
    layers, queries = boxes.shape[1:3]
    first = ops.reshape(ops.arange(ops.shape(boxes)[0] * layers, dtype="int32") * queries, (-1, layers, 1))
    return ops.take(ops.reshape(boxes, (-1, 4)), first + matched, axis=0)


def cardinality_error(logits, targets):
    """By how much the number of queries (B, Q, C+1) that name an object is wrong, float32 (B,)."""
    named = ops.argmax(logits, axis=-1) != logits.shape[-1] - 1
    counts = [ops.sum(ops.cast(each, "float32"), axis=-1) for each in (named, targets["valid"])]
    return ops.abs(counts[0] - counts[1])


def parts_learnt(outputs, y, costs):
    """(objects, those that the query of the last layer's matching names rightly, those that its box overlaps by half,
    queries of no object that name one), counts.
    """
    logits, boxes = layers_of(outputs, aux_loss=False)
    targets = targets_of(y, logits.shape[-1] - 1)
    matched = match(matching_cost(logits, boxes, targets, **costs), targets["valid"])
    given = _taken(boxes, ops.maximum(matched, 0))[:, 0]  # (B, T, 4)
    overlap = box_iou(*(cxcywh_to_xyxy(each)[..., None, :] for each in (given, targets["boxes"])))[..., 0, 0]
    told = overlap, ops.argmax(logits[:, 0], axis=-1), matched[:, 0], targets["valid"], targets["labels"]
    overlap, names, matched, valid, labels = map(ops.convert_to_numpy, told)
    theirs = np.take_along_axis(names, np.maximum(matched, 0), axis=1)[valid]
    none = logits.shape[-1] - 1
    others = (names != none).sum() - (theirs != none).sum()
    return len(theirs), *map(int, ((theirs == labels[valid]).sum(), (overlap[valid] >= 0.5).sum(), others))


class DetectView(View):
    """Trains a detector on {"image", "mask"} and {"boxes" (B, T, 4), "labels" (B, T), "valid" (B, T)}, T at most its
    number of queries.

    The loss is the weighted sum of classification (over the weights of all queries), L1 and GIoU (over the number of
    objects, at least 1), both counted over all replicas; the auxiliary layers' are added, each by its own matching.
    Sample weights weigh those of a picture; a label that is no class makes it NaN.

    Its terms: loss_ce, loss_bbox and loss_giou of the last layer without their weights, loss_aux the auxiliary layers'
    share of the loss, matching_cost_N an object's mean cost at layer N (from 1), cardinality_error by how many queries
    more or fewer than there are objects the last layer names one, a picture's mean. And ap50, of the last layer on the
    batches as they are trained on, augmented (see RunningAP50).
    """

    def __init__(self, network, settings):
        super().__init__(network, settings)
        self.ap50 = RunningAP50(network.output["logits"].shape[-1] - 1, self.total)

    @property
    def terms(self):
        earlier = self.network.output.get("aux_logits") if self.settings.aux_loss else None
        layers = 1 if earlier is None else 1 + earlier.shape[1]
        sums = ("loss_ce", "loss_bbox", "loss_giou", *(["loss_aux"] if layers > 1 else []))
        return (*sums, *(f"matching_cost_{n + 1}" for n in range(layers)), "cardinality_error")

    @property
    def directions(self):
        return dict.fromkeys((*self.terms, "instability"), -1) | dict.fromkeys(FIGURES, 1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        settings = self.settings
        logits, boxes = layers_of(y_pred, settings.aux_loss)
        targets = targets_of(y, logits.shape[-1] - 1)
        cost = matching_cost(ops.stop_gradient(logits), ops.stop_gradient(boxes), targets, **settings.costs)
        matched = match(cost, targets["valid"])

        ce, weights = class_losses(logits, targets, matched, settings.no_object)
        l1, giou = box_losses(boxes, targets, matched)
        objects = ops.maximum(self.total(ops.sum(ops.cast(targets["valid"], "float32"))), 1.0)
        parts = {  # each (L,), this replica's share
            name: _weighed(sums, sample_weight) / count
            for name, sums, count in (
                ("loss_ce", ce, self.total(ops.sum(weights))),
                ("loss_bbox", l1, objects),
                ("loss_giou", giou, objects),
            )
        }
        layers = sum(getattr(settings, name) * part for name, part in parts.items())
        self._report(parts, layers, cost, matched, objects)
        self.tell(cardinality_error=cardinality_error(logits[:, -1], targets))
        self.ap50.update_state(
            ops.stop_gradient(logits[:, -1]), ops.stop_gradient(boxes[:, -1]), targets, sample_weight
        )
        return ops.sum(layers) + sum(self.losses) / self.replicas()

    def _report(self, parts, layers, cost, matched, objects):
        """Tells the terms that are sums over all replicas."""
        told = {name: part[-1] for name, part in parts.items()}
        if layers.shape[0] > 1:
            told["loss_aux"] = ops.sum(layers[:-1])
        paid = ops.take_along_axis(cost, ops.maximum(matched, 0)[..., None], axis=-1)[..., 0]
        paid = ops.sum(ops.where(matched < 0, 0.0, paid), axis=(0, 2)) / objects
        told |= {f"matching_cost_{n + 1}": paid[n] for n in range(layers.shape[0])}
        self.tell(**{name: value * self.replicas() for name, value in told.items()})


def _weighed(sums, weights):
    """The sums (B, L), each picture's times its weight (B,) where there are any, added up: (L,). Those of weight 0 may
    be anything.
    """
    if weights is not None:
        weights = ops.cast(weights, "float32")[:, None]
        sums = ops.where(weights == 0, 0.0, sums * weights)
    return ops.sum(sums, axis=0)
