"""Whether probabilities are to be believed: reliability by bins of confidence, and the error that sums it up.

"On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
"""

from typing import NamedTuple

import numpy as np

from kzoo.figures import new_figure
from kzoo.tasks.reports.base import Drawing, Section, Table, share

BINS = 15


class Reliability(NamedTuple):
    """Of bins of equal width over 0..1, each with its upper edge: how many answers, the mean probability that they were
    given, and the share of them that was right; both 0 where there are none. Arrays (BINS,).
    """

    counts: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @property
    def error(self):
        """The expected calibration error: the mean distance of the two, each answer counting the same."""
        return float(np.sum(self.counts * np.abs(self.right - self.confidence)) / max(self.counts.sum(), 1))


def reliability(probabilities, right, bins=BINS):
    """The Reliability of probabilities (N,) in 0..1 that something is so, and whether it was, bool (N,), in float64."""
    probabilities = np.asarray(probabilities, np.float64)
    place = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=each, minlength=bins) for each in (probabilities, np.asarray(right, np.float64)))
    return Reliability(counts, *(share(total, counts) for total in sums))


def section(found, answers="answers", probability="confidence", outcome="share that is right"):
    """The part of a page about a Reliability: its curve, its error and its bins."""
    edges = np.linspace(0, 1, len(found.counts) + 1)
    rows = [
        (f"{low:.3f} – {high:.3f}", int(count), float(c), float(r), float(r - c))
        for low, high, count, c, r in zip(edges[:-1], edges[1:], *found, strict=True)
        if count
    ]
    mean = float(np.sum(found.counts * found.confidence) / max(found.counts.sum(), 1))
    hits = float(np.sum(found.counts * found.right) / max(found.counts.sum(), 1))
    leaning = "more" if mean > hits else "less"
    text = (
        f"Expected calibration error {found.error:.4f} over {len(found.counts)} bins: mean {probability} {mean:.4f}, "
        f"{outcome} {hits:.4f}. On average the model is {leaning} certain than it is right."
    )
    says = f"Reliability curve: {outcome} against mean {probability}; the diagonal is perfect calibration."
    drawing = Drawing("reliability", lambda: draw(found, answers, probability, outcome), says)
    table = Table((probability, answers, f"mean {probability}", outcome, "difference"), rows, "reliability")
    return Section("Calibration", (text,), (drawing, table))


def draw(found, answers, probability, outcome):
    """The reliability curve over a histogram of the probabilities."""
    figure = new_figure(5.2, 6.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4.5, 1))
    edges = np.linspace(0, 1, len(found.counts) + 1)
    there = found.counts > 0
    upper.plot((0, 1), (0, 1), color="C1", linewidth=1, linestyle="--", label="perfect")
    upper.plot(found.confidence[there], found.right[there], marker="o", markersize=4, color="C0", label="this model")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel=outcome, title=f"Expected calibration error {found.error:.4f}")
    upper.set_box_aspect(1)
    lower.set_box_aspect(0.22)
    upper.grid()
    upper.legend(loc="upper left")
    lower.bar(edges[:-1], found.counts, width=np.diff(edges) * 0.92, align="edge", color="C0", alpha=0.75)
    lower.set(xlabel=probability, ylabel=answers)
    return figure
