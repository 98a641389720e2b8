"""Figures of answers about classes, as pictures, CSV and tables: what classifiers' reports share."""

import numpy as np

from kzoo.figures import new_figure
from kzoo.tasks.reports.base import Drawing, Section, Table, legible, share

NUMBERED = 20  # classes up to which a matrix shows its numbers
LABELLED = 130  # and its class names
LONGEST = 24  # letters of a name in a drawing
LARGEST = 2000  # classes of a confusion matrix


def confusion(labels, predicted, classes):
    """(classes, classes) int64: how many pictures of the row's class were taken for the column's; labels, predicted
    (N,).
    """
    return np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def rates(hits, found, there):
    """(precision, recall, F1), float64, of counts: right answers, answers and those due; 0 where nothing is divided."""
    precision, recall = share(hits, found), share(hits, there)
    return precision, recall, share(2 * precision * recall, precision + recall)


def confusion_section(counts, names):
    """The part of a page about a confusion matrix: its picture, and which classes are taken for which."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:12]
    support = counts.sum(axis=1)
    rows = [
        (names[i], names[j], int(wrong[i, j]), wrong[i, j] / support[i])
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    says = "Confusion matrix: rows are true classes, columns what they were taken for; shares of the row."
    parts = (Drawing("confusion_matrix", lambda: draw_confusion(counts, names), says, len(names) > NUMBERED),)
    if rows:
        parts += (Table(("true", "taken for", "pictures", "share of its class"), rows, bars=("share of its class",)),)
    count, total = int(wrong.sum()), int(counts.sum())
    text = f"{count:,} of {total:,} pictures are taken for another class" + (
        "; below, what is taken for what most often." if rows else "."
    )
    return Section("Confusion matrix", (text,), parts)


def confusion_rows(counts, names):
    """The matrix as rows of a CSV file, each after its class."""
    return [(name, *row) for name, row in zip(names, counts.tolist(), strict=True)]


def draw_confusion(counts, names):
    """The matrix, each row in shares of its class; of few classes with their numbers, of many with every k-th name."""
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb

    classes, numbered = len(counts), len(counts) <= NUMBERED
    side = max(2.4 + 0.34 * classes, 4.2) if numbered else 9.2 if classes <= 40 else 12.5
    figure = new_figure(side, side)
    axis = figure.subplots()
    ground, full = to_rgb(matplotlib.rcParams["axes.facecolor"]), to_rgb("C0")
    colours = LinearSegmentedColormap.from_list("share", [ground, full])
    shares = share(counts, counts.sum(axis=1, keepdims=True))
    # of many classes the small shares are what there is to see
    norm = PowerNorm(1.0 if numbered else 0.45, vmin=0, vmax=1)
    axis.imshow(shares, cmap=colours, norm=norm, interpolation="nearest" if classes <= LABELLED else "auto")
    step = 1 if classes <= LABELLED else -(-classes // 40)
    places, size = range(0, classes, step), 9 if numbered else 7 if classes <= 60 else 5
    words = [_short(names[i]) for i in places]
    axis.set_xticks(places, words, rotation=90 if max(map(len, words)) > 3 or not numbered else 0, fontsize=size)
    axis.set_yticks(places, words, fontsize=size)
    axis.tick_params(length=0 if step == 1 else 2)
    axis.set(xlabel="predicted", ylabel="true")
    axis.spines[:].set_visible(True)
    if numbered:
        for i, j in zip(*np.nonzero(counts), strict=True):
            below = colours(norm(shares[i, j]))[:3]
            ink = max(matplotlib.rcParams["text.color"], ground, key=lambda colour: _contrast(to_rgb(colour), below))
            axis.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=8, color=ink)
    return figure


def _contrast(one, other):
    """WCAG's contrast of two colours in 0..1: 1 for none, 21 for black on white."""
    light = []
    for colour in (one, other):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        light.append(np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05)
    return max(light) / min(light)


def _short(name):
    name = legible(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
