"""How a set without splits of its own is divided, where a recipe says so: by a hash of each sample's name, class by
class.
"""

import hashlib
import os
from typing import NamedTuple

import numpy as np

from kzoo.errors import UsageError, UserError

SYNONYMS = ("test", "validation", "val", "valid")  # words for the part that is held out; "train" is the rest


class Division(NamedTuple):
    """A share that is held out, or one of several folds, numbered from 0.

    Each class is put in the order of its samples' hashes (BLAKE2b, of 8 bytes, of a name such as the path below the
    root). holdout: the first round(holdout * n) of its n samples are held out, at least one and at most all but one; a
    class of one sample is trained on. folds: the order is cut into that many runs as equal as can be, and each class
    begins to count the folds at one of its own; every sample is in one fold alone.

    So what is added to one class, or taken from it, moves none of another's samples, and of its own those alone that
    lie where the order is cut.
    """

    holdout: float | None = None
    folds: int | None = None
    fold: int | None = None

    def held_out(self, names, classes=None):
        """bool (N,) of N names; classes: the name of the class of each, None: all are of one."""
        names = list(names)
        if not names:
            return np.zeros(0, bool)
        kinds, group = np.unique(["" for _ in names] if classes is None else list(classes), return_inverse=True)
        order = np.lexsort((np.array([_hash(name) for name in names], np.uint64), group))
        counts = np.bincount(group)
        rank = np.empty(len(names), int)
        rank[order] = np.arange(len(names)) - np.repeat(np.cumsum(counts) - counts, counts)
        if self.folds is None:
            wanted = np.floor(self.holdout * counts + 0.5).astype(int)
            return rank < np.clip(wanted, np.minimum(counts - 1, 1), np.maximum(counts - 1, 0))[group]
        first = np.array([_hash(kind) % self.folds for kind in kinds.tolist()])
        return (rank * self.folds // counts[group] + first[group]) % self.folds == self.fold

    def chosen(self, spec, split, names, classes=None):
        """The sample numbers of a split of the source `spec`, in order. Raises UserError where it has none, or its
        name is of no split.
        """
        if split not in ("train", *SYNONYMS):
            raise UserError(f"{spec} has no split {split!r}; choose train or test.")
        found = np.flatnonzero(self.held_out(names, classes) == (split != "train"))
        if not len(found):
            told = f"data.holdout={self.holdout}" if self.folds is None else f"data.fold={self.fold} of {self.folds}"
            raise UserError(f"{spec} has too few pictures for {told}: none is left for {split!r}; add some.")
        return found


def of_data(data):
    """The Division that a recipe's Data asks for, or None."""
    if data.holdout is None and data.folds is None:
        return None
    return Division(data.holdout, data.folds, data.fold)


def refuse(spec, division, remedy="leave them out, or name a source without splits"):
    """Raises UsageError where a source that has splits of its own is to be divided."""
    if division is not None:
        raise UsageError(f"{spec} has splits of its own, which data.holdout and data.folds do not divide; {remedy}.")


def _hash(name):
    return int.from_bytes(hashlib.blake2b(os.fsencode(str(name)), digest_size=8).digest(), "big")
