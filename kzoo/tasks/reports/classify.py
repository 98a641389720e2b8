"""What a report says of a classifier, one class a picture: figures per class, confusions, calibration, the worst
pictures.
"""

import numpy as np

from kzoo.tasks.reports import calibration
from kzoo.tasks.reports.base import Reporter, Section, Sheet, Table, Tile, Worst, names_of, shown, write_rows
from kzoo.tasks.reports.classes import LARGEST, confusion, confusion_rows, confusion_section, rates

COLUMNS = 100  # classes up to which predictions.csv has the probability of each


class ClassReporter(Reporter):
    """Of logits (B * crops, C) and labels (B,); one logit is that of class 1 against class 0."""

    def __init__(self, network, source):
        super().__init__(network, source)
        self.classes = max(network.classes, 2)
        self.names = names_of(network, source, self.classes)
        self.labels, self.predicted, self.confidence, self.losses, self.shares = [], [], [], [], []
        self.worst = Worst()

    def update(self, x, y, outputs, real):
        crops = len(outputs) // len(y)
        log_p, labels = log_shares(outputs, crops)[real], y[real]
        predicted = log_p.argmax(axis=1)
        losses = -np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
        self.labels.append(labels)
        self.predicted.append(predicted)
        self.confidence.append(np.exp(log_p.max(axis=1)))
        self.losses.append(losses)
        if self.classes <= COLUMNS:
            self.shares.append(np.exp(log_p).astype(np.float32))
        for (place, row), loss in zip(self.count(real), losses, strict=True):
            self.worst.offer(loss, place, lambda row=row: self._shown(x[row * crops]))

    def _shown(self, image):
        return shown(image, self.network.take.preprocessing)

    def close(self, meter):
        kept = self.labels, self.predicted, self.confidence, self.losses
        self.labels, self.predicted, self.confidence, self.losses = map(np.concatenate, kept)
        self.shares = np.concatenate(self.shares) if self.shares else None
        self.reliability = calibration.reliability(self.confidence, self.predicted == self.labels)
        self.counts = confusion(self.labels, self.predicted, self.classes) if self.classes <= LARGEST else None

    def figures(self):
        table = self._table()
        f1 = dict(zip(table.heads, table.foot[0], strict=True))["F1"]
        return {"macro_f1": f1, "expected_calibration_error": self.reliability.error}

    def _table(self):
        """Precision, recall, F1 and the number of pictures of each class; means over the classes that occur, in the
        labels or in the answers, as scikit-learn's classification_report has them.
        """
        hits = np.bincount(self.labels[self.labels == self.predicted], minlength=self.classes)
        found, there = (np.bincount(each, minlength=self.classes) for each in (self.predicted, self.labels))
        columns = np.stack(rates(hits, found, there), axis=1)
        occurs = found + there > 0
        rows = [
            (name, *(map(float, row) if known else (None,) * 3), int(support))
            for name, row, known, support in zip(self.names, columns, occurs, there, strict=True)
        ]
        weighted = (columns * there[:, None]).sum(axis=0) / max(there.sum(), 1)
        means = (("mean of classes", columns[occurs].mean(axis=0)), ("mean of pictures", weighted))
        foot = [(name, *map(float, mean), int(there.sum())) for name, mean in means]
        bars = ("precision", "recall", "F1")
        return Table(("class", *bars, "pictures"), rows, "per_class", bars, foot, most=200)

    def sections(self):
        least = sorted((row for row in self._table().rows if row[3] is not None), key=lambda row: row[3])[:3]
        told = ", ".join(f"{row[0]} ({row[3]:.3f})" for row in least)
        found = [Section("Classes", (f"The lowest F1 have {told}.",), (self._table(),))]
        if self.counts is not None:
            found.append(confusion_section(self.counts, self.names))
        found.append(calibration.section(self.reliability, "pictures"))
        tiles = [Tile(made, self._lines(place)) for _, place, made in self.worst.ranked()]
        text = (
            "The pictures of the highest loss, as the model was given them: labels that are wrong come to light here."
        )
        return [*found, Section("Worst pictures", (text,), (Sheet("worst_pictures", tiles),))]

    def _lines(self, place):
        label, predicted = self.names[self.labels[place]], self.names[self.predicted[place]]
        taken = f"predicted {predicted} at {self.confidence[place]:.3f}"
        return f"true {label}", taken, f"loss {self.losses[place]:.2f}", self.captioned(place)

    def write(self, folder):
        heads = "picture", "label", "predicted", "probability", "loss"
        if self.shares is not None:
            heads += self.names
        write_rows(folder / "predictions.csv", heads, map(self._row, range(len(self.numbers))))
        if self.counts is not None:
            rows = confusion_rows(self.counts, self.names)
            write_rows(folder / "confusion_matrix.csv", ("true \\ predicted", *self.names), rows)

    def _row(self, place):
        names = self.names[self.labels[place]], self.names[self.predicted[place]]
        numbers = f"{self.confidence[place]:.6f}", f"{self.losses[place]:.6f}"
        shares = () if self.shares is None else (f"{value:.6f}" for value in self.shares[place].tolist())
        return self.called(place), *names, *numbers, *shares


def log_shares(logits, crops=1):
    """Logits (B * crops, C) -> log-probabilities (B, C) float64, of several crops those of their mean; one logit is
    that of class 1 against class 0, C then 2.
    """
    logits = np.asarray(logits, np.float64)
    if logits.shape[1] == 1:
        logits = np.pad(logits, ((0, 0), (1, 0)))
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return np.logaddexp.reduce(log_p.reshape(-1, crops, log_p.shape[1]), axis=1) - np.log(crops)
