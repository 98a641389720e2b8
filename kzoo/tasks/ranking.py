"""How well scores tell apart those that have a class from those that do not. NumPy alone, in float64."""

import numpy as np


def average_precision(scores, true):
    """The sum of precisions, each weighted by the recall that it adds, of scores (N,) against truth (N,) bool; equal
    scores are one step. NaN where nothing is true.
    """
    found, right, _ = _steps(scores, true)
    if not true.any():
        return np.nan
    return float(np.sum(np.diff(right, prepend=0) * right / found) / right[-1])


def roc_auc(scores, true):
    """The share of pairs, one true and one not, whose true one has the larger score; equal scores count half. NaN where
    there is no pair.
    """
    _, right, wrong = _steps(scores, true)
    if not true.any() or true.all():
        return np.nan
    before = np.concatenate([[0], right[:-1]])
    return float(np.sum(np.diff(wrong, prepend=0) * (before + right) / 2) / (right[-1] * wrong[-1]))


def _steps(scores, true):
    """(how many have at least that score, how many of them are true, how many not), float64, of each score that there
    is, the largest first. NaN is the least.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, true = scores[order], np.asarray(true, bool)[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    right = np.cumsum(true, dtype="float64")[last]
    return last + 1.0, right, last + 1.0 - right
