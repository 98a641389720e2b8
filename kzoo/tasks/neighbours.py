"""Which class a vector's nearest neighbours vote for: how well a network tells classes apart that it was never told
of. NumPy alone.
"""

import numpy as np

from kzoo.data.part import part_of
from kzoo.errors import UserError

_VALUES = 1 << 25  # of a matrix of similarities, computed at once


def votes(reference, labels, queries, classes, k=20, temperature=0.07):
    """(Q, classes) float64: what the k nearest of reference (N, D), labels (N,) in 0..classes-1, vote for each of
    queries (Q, D).

    Nearest by cosine; a vote weighs exp(cosine / temperature), as in DINO's eval_knn
    (https://arxiv.org/abs/2104.14294). Of fewer than k references all vote.
    """
    reference, queries = _unit(reference), _unit(queries)
    k, found = min(k, len(reference)), np.zeros((len(queries), classes))
    step = max(1, _VALUES // len(reference))
    for start in range(0, len(queries), step):
        cosines = queries[start : start + step] @ reference.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1).astype("float64") / temperature)
        np.add.at(found[start : start + step], (np.arange(len(nearest))[:, None], labels[nearest]), weights)
    return found


def accuracy(reference, queries, classes, k=20, temperature=0.07):
    """The share of queries, a pair of vectors (Q, D) and labels (Q,), whose neighbours among such a pair of
    references vote for them.
    """
    found = votes(*reference, queries[0], classes, k, temperature)
    return float(np.mean(found.argmax(axis=1) == queries[1]))


def vectors(encoder, loader, count=None, between=lambda: None):
    """(vectors float32 (N, D), labels int (N,)) of a loader's pictures as evaluation sees them, of `count` of them at
    most.

    The loader's batches have labels, and pictures alone or under "image". between() is called before every batch.
    """
    found, labels, left = [], [], np.inf if count is None else count
    part = part_of(loader, count)
    with part.plain_errors():
        for x, y, weights in part.evaluation():
            between()
            real = np.flatnonzero(np.asarray(weights) > 0)[: int(min(left, len(weights)))]
            images = np.asarray(x["image"] if isinstance(x, dict) else x)
            found.append(np.asarray(encoder.predict_on_batch(images))[: len(images)][real])
            labels.append(np.asarray(y)[real])
            left -= len(real)
            if left <= 0:
                break
    return np.concatenate(found), np.concatenate(labels)


def require_same_classes(reference, queries):
    """Raises UserError unless labels of the two sources mean the same, as far as they tell."""
    known = reference.class_names and queries.class_names and tuple(reference.class_names) != tuple(queries.class_names)
    if reference.num_classes != queries.num_classes or known:
        raise UserError(
            f"{queries.name} has other classes than {reference.name}, whose pictures are its neighbours; evaluate on "
            "data of the same ones."
        )


def _unit(rows):
    """float32 (N, D) of length 1; what is 0 stays so."""
    rows = np.asarray(rows, "float64")
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype("float32")
