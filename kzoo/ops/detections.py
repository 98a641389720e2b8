"""A detector's outputs as detections: boxes in pixels with their scores and classes, best first."""

from keras import ops

from kzoo.ops.boxes import cxcywh_to_xyxy


def detections(logits, boxes, sizes, shares=False):
    """{"boxes" (B, Q, 4), "scores" (B, Q), "labels" (B, Q)}, float32, best first: DETR's post-processing.

    logits (B, Q, C + 1), "no object" last; boxes (B, Q, 4): cx, cy, w, h in 0..1; sizes (B, 2): height and width of
    each picture in pixels. A query's class is the likeliest beside "no object", its score that class' probability; its
    box becomes x0, y0, x1, y1 in pixels, which may lie outside of the picture. shares: also "shares" (B, Q, C), the
    probability of every class, in the same order.
    """
    scores, labels, order = ranked(logits)
    corners = cxcywh_to_xyxy(ops.take_along_axis(ops.cast(boxes, "float32"), order[..., None], axis=1))
    height, width = (ops.cast(sizes, "float32")[:, i] for i in (0, 1))
    scale = ops.stack([width, height, width, height], axis=-1)[:, None]
    found = {"boxes": corners * scale, "scores": scores, "labels": labels}
    return found | ({"shares": ops.take_along_axis(_likely(logits), order[..., None], axis=1)} if shares else {})


def ranked(logits):
    """(scores (B, Q), labels (B, Q), queries (B, Q)) of logits (B, Q, C + 1), best first; as in `detections`."""
    likely = _likely(logits)
    best, number = ops.max(likely, axis=-1, keepdims=True), ops.arange(likely.shape[-1], dtype="float32")
    # as argmax, which Keras makes of operations that ONNX and LiteRT do not have
    labels = ops.min(ops.where(likely >= best, number, float(likely.shape[-1])), axis=-1)
    scores, order = ops.top_k(best[..., 0], logits.shape[1])
    return scores, ops.take_along_axis(labels, order, axis=1), order


def _likely(logits):
    """The probability of every class (B, Q, C) of logits (B, Q, C + 1)."""
    return ops.softmax(ops.cast(logits, "float32"), axis=-1)[..., :-1]
