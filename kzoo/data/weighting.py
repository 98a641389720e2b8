"""What classes weigh, and how often each of them comes, in training."""

import numpy as np

from kzoo.data.randomness import SAMPLING, permutation, uniforms
from kzoo.errors import UserError, unknown


def class_weights(asked, source):
    """float32 (C,): what each class of a source of labels weighs.

    asked: "balanced", n / (C * n_c) of n samples of which n_c are of the class, C being the classes that there are, as
    scikit-learn's compute_class_weight has it; or {class name: weight}, of which those that are left out weigh 1.
    Raises UserError for another name than a class's, and for a source that cannot be weighed so.
    """
    require_classes(source, "data.class_weight")
    names = source.class_names or tuple(map(str, range(source.num_classes)))
    if asked != "balanced":
        for name in asked:
            if name not in names:
                raise unknown(f"class of {source.name} in data.class_weight", name, names)
        return np.array([asked.get(name, 1.0) for name in names], np.float32)
    require_known(source, "data.class_weight='balanced'", "give it a table of weights")
    counts = np.bincount(source.all_labels(), minlength=source.num_classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0).astype(np.float32)


def balanced(labels, seed, epoch, draws):
    """(sample numbers (draws,), how often each came before in them (draws,)) of an epoch in which all classes of the
    labels (N,) come equally often, to one: a pure function of its arguments.

    Classes with more pictures than their share of an epoch go on in the next where they were; those with fewer begin
    again, in another order.
    """
    kinds, counts = np.unique(labels, return_counts=True)
    of_kind = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    share, left = divmod(draws, len(kinds))
    more = np.zeros(len(kinds), int)
    more[permutation(seed, epoch, len(kinds))[:left]] = 1
    found = []
    for number, members in enumerate(of_kind):
        place = epoch * share + np.arange(share + more[number])
        round_, within = np.divmod(place, len(members))
        first, last = (int(round_[0]), int(round_[-1])) if len(place) else (0, 0)
        drawn = uniforms(seed, number, np.arange(first, last + 1), len(members), SAMPLING)
        found.append(members[np.argsort(drawn, axis=1, kind="stable")[round_ - first, within]])
    order = np.concatenate(found)[permutation(seed, epoch, draws)]
    return order, _times(order)


def _times(order):
    """How often each entry of the order stands there before."""
    by_number = np.argsort(order, kind="stable")
    new = np.flatnonzero(np.diff(order[by_number], prepend=-1))
    times = np.empty(len(order), int)
    times[by_number] = np.arange(len(order)) - np.repeat(new, np.diff(new, append=len(order)))
    return times


def require_classes(source, key):
    """Raises UserError unless each picture of the source is of one class."""
    if source.targets != "label" or source.multilabel:
        what = "several labels a picture" if source.multilabel else "no label for each picture"
        raise UserError(f"{key} goes by the class of each picture, and {source.name} gives {what}; leave it out.")


def require_known(source, key, remedy):
    """Raises UserError for a stream, whose labels are not known before it is read."""
    if source.streams:
        raise UserError(f"{key} needs the labels of all pictures, and {source.name} is a stream; {remedy}.")
