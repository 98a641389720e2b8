"""What a report says of a classifier of several labels a picture: average precision and F1 per label, calibration, the
worst pictures.
"""

import numpy as np

from kzoo.tasks.ranking import average_precision
from kzoo.tasks.reports import calibration
from kzoo.tasks.reports.base import Reporter, Section, Sheet, Table, Tile, Worst, names_of, shown, write_rows
from kzoo.tasks.reports.classes import rates
from kzoo.tasks.reports.classify import COLUMNS

THRESHOLD = 0.5  # the probability above which a label counts as given


class MultiLabelReporter(Reporter):
    """Of logits (B * crops, C), each label for itself, and targets (B, C) of 0 and 1; of several crops the
    probabilities are averaged.
    """

    def __init__(self, network, source, threshold=THRESHOLD):
        super().__init__(network, source)
        self.threshold = threshold
        self.names = names_of(network, source, network.classes)
        self.shares, self.targets, self.losses, self.worst = [], [], [], Worst()

    def update(self, x, y, outputs, real):
        crops = len(outputs) // len(y)
        shares = sigmoid(np.asarray(outputs, np.float64)).reshape(len(y), crops, -1).mean(axis=1)[real]
        targets = y[real] > 0.5
        with np.errstate(divide="ignore"):
            losses = -np.log(np.where(targets, shares, 1 - shares)).mean(axis=1)
        self.shares.append(shares)
        self.targets.append(targets)
        self.losses.append(losses)
        for (place, row), loss in zip(self.count(real), losses, strict=True):
            self.worst.offer(loss, place, lambda row=row: self._shown(x[row * crops]))

    def _shown(self, image):
        return shown(image, self.network.take.preprocessing)

    def close(self, meter):
        self.shares, self.targets, self.losses = map(np.concatenate, (self.shares, self.targets, self.losses))
        self.given = self.shares > self.threshold
        self.reliability = calibration.reliability(self.shares.ravel(), self.targets.ravel())
        pairs = zip(self.shares.T, self.targets.T, strict=True)
        # None of a label that no picture has
        self.precisions = [average_precision(*pair) if pair[1].any() else None for pair in pairs]

    def figures(self):
        foot = dict(zip(self._table().heads, self._table().foot[0], strict=True))
        return {
            "mean_average_precision": foot["average precision"],
            "macro_f1": foot["F1"],
            "expected_calibration_error": self.reliability.error,
        }

    def _table(self):
        hits, found, there = ((self.given & self.targets), self.given, self.targets)
        each = rates(*(counts.sum(axis=0) for counts in (hits, found, there)))
        whole = rates(*(counts.sum() for counts in (hits, found, there)))
        support, known = there.sum(axis=0), [ap for ap in self.precisions if ap is not None]
        mean = float(np.mean(known)) if known else None
        rows = [
            (name, ap, *map(float, row), int(pictures))
            for name, ap, row, pictures in zip(
                self.names, self.precisions, np.stack(each, axis=1), support, strict=True
            )
        ]
        foot = [
            ("mean of labels", mean, *(float(column.mean()) for column in each), int(support.sum())),
            ("all answers as one", None, *map(float, whole), int(support.sum())),
        ]
        bars = ("average precision", "precision", "recall", "F1")
        return Table(("label", *bars, "pictures"), rows, "per_class", bars, foot, most=200)

    def sections(self):
        tiles = [Tile(made, self._lines(place)) for _, place, made in self.worst.ranked()]
        there, given = (each.sum(axis=1).mean() for each in (self.targets, self.given))
        text = (
            "Average precision asks the order alone; precision, recall and F1 are those of the labels of a probability "
            f"above {self.threshold:g}. A picture has {there:.2f} labels on average, and is given {given:.2f}."
        )
        return [
            Section("Labels", (text,), (self._table(),)),
            calibration.section(self.reliability, "answers", "probability", "share that is so"),
            Section("Worst pictures", ("The pictures of the highest loss.",), (Sheet("worst_pictures", tiles),)),
        ]

    def _lines(self, place):
        missed = self._told(place, self.targets[place] & ~self.given[place])
        wrong = self._told(place, self.given[place] & ~self.targets[place])
        true = ", ".join(self.names[i] for i in np.flatnonzero(self.targets[place])) or "none"
        lines = f"true {true}", f"missed {missed}" if missed else "", f"wrong {wrong}" if wrong else ""
        return *filter(None, lines), f"loss {self.losses[place]:.2f}", self.captioned(place)

    def _told(self, place, which):
        return ", ".join(f"{self.names[i]} at {self.shares[place, i]:.3f}" for i in np.flatnonzero(which))

    def write(self, folder):
        heads = "picture", "labels", "predicted", "loss"
        if len(self.names) <= COLUMNS:
            heads += self.names
        write_rows(folder / "predictions.csv", heads, map(self._row, range(len(self.numbers))))

    def _row(self, place):
        told = ("; ".join(self.names[i] for i in np.flatnonzero(e[place])) for e in (self.targets, self.given))
        shares = (f"{value:.6f}" for value in self.shares[place].tolist()) if len(self.names) <= COLUMNS else ()
        return self.called(place), *told, f"{self.losses[place]:.6f}", *shares


def sigmoid(logits):
    """1 / (1 + exp(-logits)), float64, of any size of them."""
    return np.exp(-np.logaddexp(0, -logits))
