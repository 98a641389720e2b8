"""Two sets of detections of the same pictures, compared as pairs: near-equal scores may stand in another order."""

import numpy as np

TINY = np.finfo(np.float32).tiny


def paired(expected, found):
    """`found` in the order of `expected`, both {"boxes" (B, Q, 4), "scores" (B, Q), "labels" (B, Q)}, NumPy: one to
    one, so that over each picture the sum of distances is the smallest there is.

    A distance is that of the corners, in units of the largest coordinate expected, and that of the scores, and 1 where
    the labels differ.
    """
    import keras

    from kzoo.ops.matching import linear_sum_assignment

    (boxes, scores, labels), (b, s, n) = (
        [np.asarray(one[name], np.float64) for name in ("boxes", "scores", "labels")] for one in (expected, found)
    )
    unit = max(1.0, float(np.abs(boxes).max()))
    cost = np.abs(boxes[:, :, None] - b[:, None]).sum(axis=-1) / unit
    cost += np.abs(scores[:, :, None] - s[:, None]) + (labels[:, :, None] != n[:, None])
    order = linear_sum_assignment(cost.astype(np.float32), np.ones(scores.shape, bool))
    order = keras.ops.convert_to_numpy(order)
    whole = {"boxes": order[..., None], "scores": order, "labels": order}
    return {name: np.take_along_axis(np.asarray(found[name]), index, axis=1) for name, index in whole.items()}


def score_difference(expected, found, other):
    """The largest difference of scores: of pairs, `other` being `found` in their order, and of those of one rank."""
    scores = np.asarray(expected["scores"], np.float64)
    return max(float(np.max(np.abs(scores - each["scores"]))) for each in (other, found))


def label_difference(scores, shares, labels):
    """How far the labels (B, Q) are from the likeliest: the largest difference of two logits, 0 where they are those,
    infinite where one is no class. scores (B, Q) are of the likeliest, shares (B, Q, C) of every class.

    It is 1e-5 where two classes are all but equally likely, and either is right.
    """
    labels, classes = np.asarray(labels, np.float64), shares.shape[-1]
    if not ((labels >= 0) & (labels < classes) & (labels == np.floor(labels))).all():
        return float("inf")
    own = np.take_along_axis(np.asarray(shares, np.float64), labels.astype(int)[..., None], axis=-1)[..., 0]
    return float(np.max(np.log(np.maximum(scores, TINY)) - np.log(np.maximum(own, TINY))))
