"""What a report says of a detector: AP of each class and size, curves of precision, what it missed and what it made
up.
"""

import json

import numpy as np

from kzoo.figures import new_figure
from kzoo.tasks.box_meter import found_in
from kzoo.tasks.reports.base import (
    Drawing,
    Reporter,
    Section,
    Sheet,
    Table,
    Tile,
    Worst,
    legible,
    names_of,
    shown,
    write_rows,
)
from kzoo.tasks.reports.classes import rates
from kzoo.tasks.reports.drawn import with_boxes

SCORE, IOU = 0.5, 0.5  # from which a detection counts as told, and covers an object
SIZES = ("all", "small", "medium", "large")  # of pycocotools' areas
FEW = 8  # classes up to which each has a curve of its own
TRUE, FOUND = "#12b5cb", "#ff7a1a"  # colours of boxes


class BoxReporter(Reporter):
    """Of a detector's outputs and the targets of ObjectBatching.evaluate."""

    def __init__(self, network, source):
        super().__init__(network, source)
        self.names = names_of(network, source, network.config.num_classes)
        self.hits, self.made_up, self.missed = np.zeros((3, len(self.names)), np.int64)
        self.ids, self.worst, self.wrong = [], Worst(), 0

    def update(self, x, y, outputs, real):
        found = found_in(outputs, y["size"])
        for place, row in self.count(real):
            alone = ({key: value[row] for key, value in each.items()} for each in (y, found))
            self._picture(x, *alone, row, place)
            self.ids.append(int(y["image_id"][row]))

    def _picture(self, x, y, found, row, place):
        told = found["scores"] >= SCORE
        found = {key: value[told] for key, value in found.items()}
        true = {"boxes": y["original"][y["valid"]], "labels": y["labels"][y["valid"]]}
        crowd = {"boxes": y["original"][y["crowd"]], "labels": y["labels"][y["crowd"]]}
        hit, made_up, missed = paired(found, true, crowd)
        for counts, labels, which in (
            (self.hits, found["labels"], hit),
            (self.made_up, found["labels"], made_up),
            (self.missed, true["labels"], missed),
        ):
            np.add.at(counts, labels[which].astype(np.int64), 1)
        errors = int(made_up.sum() + missed.sum())
        self.wrong += errors > 0
        if errors:
            certain = float(found["scores"][made_up].sum())
            value = errors + certain / (1 + len(found["scores"]))
            self.worst.offer(value, place, lambda: self._drawn(x, y, row, found, true, made_up, missed))

    def _drawn(self, x, y, row, found, true, made_up, missed):
        """(the picture with its boxes, what is wrong in it, in words)."""
        height, width = ((~x["mask"][row]).any(axis=side).sum() for side in (1, 0))
        picture = shown(x["image"][row, :height, :width], self.network.take.preprocessing)
        scale = np.tile([width, height], 2) / np.tile(y["size"][::-1], 2)
        boxes, there = found["boxes"] * scale, true["boxes"] * scale
        groups = (
            (there[~missed], TRUE, 1),
            (boxes[~made_up], FOUND, 1),
            (there[missed], TRUE, 3),
            (boxes[made_up], FOUND, 3),
        )
        words = [f"missed {self.names[label]}" for label in true["labels"][missed].astype(int)]
        pairs = zip(found["labels"][made_up].astype(int), found["scores"][made_up], strict=True)
        words += [f"false {self.names[label]} at {score:.2f}" for label, score in pairs]
        return with_boxes(picture, groups), words

    def close(self, meter):
        self.judge = meter.judge

    def figures(self):
        precision, recall, f1 = rates(*(counts.sum() for counts in self._counts()))
        return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}

    def _counts(self):
        """Of each class: right detections, detections, objects."""
        return self.hits, self.hits + self.made_up, self.hits + self.missed

    def sections(self):
        said = (
            f"A detection counts from a score of {SCORE}, and covers an object of its class from an IoU of {IOU}: "
            f"{self.hits.sum():,} objects are found, {self.missed.sum():,} missed, and {self.made_up.sum():,} "
            "detections are false."
        )
        tiles = [Tile(made[0], self._lines(made[1], place)) for _, place, made in self.worst.ranked()]
        sheet = (
            f"In {self.wrong:,} of {len(self.ids):,} pictures something is missed or false; here the worst. "
            "True boxes are blue, found ones orange; thick lines are what was missed and what is false."
        )
        areas = (
            "AP is the mean over IoU .50 to .95; small objects have less than 32 x 32 pixels, large ones more than "
            "96 x 96."
        )
        return [
            Section("Average precision", (areas,), (self._precisions(), *self._curves())),
            Section(f"Found, missed and false at a score of {SCORE}", (said,), (self._told(),)),
            Section("Worst pictures", (sheet,), (Sheet("worst_pictures", tiles),) if tiles else ()),
        ]

    def _lines(self, words, place):
        more = [f"and {len(words) - 5} more"] if len(words) > 5 else []
        return f"image {self.ids[place]}", *words[:5], *more

    def _precisions(self):
        """AP of each class, at several IoU and of several sizes of objects."""
        precision, recall = (self.judge.curves[name] for name in ("precision", "recall"))

        def row(name, classes):
            of_sizes = [mean(precision[:, :, classes, size, -1]) for size in range(len(SIZES))]
            at = [mean(precision[iou, :, classes, 0, -1]) for iou in (0, 5)]
            return name, of_sizes[0], *at, *of_sizes[1:], mean(recall[:, classes, 0, -1])

        heads = ("class", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR")
        rows = [row(name, slice(i, i + 1)) for i, name in enumerate(self.names[: precision.shape[2]])]
        return Table(heads, rows, "average_precision", ("AP",), [row("mean of classes", slice(None))], most=200)

    def _told(self):
        each = np.stack(rates(*self._counts()), axis=1)
        columns = zip(self.names, each, *(c.tolist() for c in (self.hits, self.missed, self.made_up)), strict=True)
        rows = [(name, *map(float, row), *counts) for name, row, *counts in columns]
        whole = map(float, rates(*(counts.sum() for counts in self._counts())))
        foot = ("all", *whole, *(int(counts.sum()) for counts in (self.hits, self.missed, self.made_up)))
        heads = ("class", "precision", "recall", "F1", "found", "missed", "false")
        return Table(heads, rows, "per_class", heads[1:4], [foot], most=200)

    def _curves(self):
        says = "Precision over recall at an IoU of 0.5, of all classes and of each or of the best and the worst."
        yield Drawing("precision_recall", lambda: draw_curves(self.judge.curves["precision"], self.names), says)

    def write(self, folder):
        """predictions.json, rows as COCO's evaluation reads them, and predictions.csv."""
        kinds = self.source.category_ids
        kinds = kinds if len(kinds) == len(self.names) else range(len(self.names))
        rows, lines = [], []
        for place, (image, found) in enumerate(zip(self.ids, self.judge.found, strict=True)):
            called = self.called(place)
            columns = (np.asarray(found[key]).tolist() for key in ("boxes", "scores", "labels"))
            for box, score, label in zip(*columns, strict=True):
                x0, y0, x1, y1 = (round(side, 3) for side in box)
                told = {"image_id": image, "category_id": kinds[int(label)]}
                rows.append(told | {"bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)], "score": round(score, 6)})
                lines.append((called, image, self.names[int(label)], f"{score:.6f}", x0, y0, x1, y1))
        (folder / "predictions.json").write_text(json.dumps(rows) + "\n")
        heads = ("picture", "image_id", "class", "score", "x0", "y0", "x1", "y1")
        write_rows(folder / "predictions.csv", heads, lines)


def paired(found, true, crowd):
    """(which detections are right, which false, which objects are missed), bool, of one picture: best score first, each
    takes the free object of its class that it covers most, by IOU at least. What lies in a crowd of its class is
    neither.

    found {"boxes" (n, 4), "scores", "labels"}, true and crowd {"boxes" (m, 4), "labels"}.
    """
    hit, free = np.zeros(len(found["scores"]), bool), np.ones(len(true["labels"]), bool)
    overlap, _ = covered(found["boxes"], true["boxes"])
    overlap = np.where(found["labels"][:, None] == true["labels"][None], overlap, 0)
    for i in np.argsort(-found["scores"], kind="stable"):
        row = np.where(free, overlap[i], 0)
        if len(row) and row.max() >= IOU:
            hit[i], free[row.argmax()] = True, False
    _, within = covered(found["boxes"], crowd["boxes"])
    ignored = (np.where(found["labels"][:, None] == crowd["labels"][None], within, 0) >= IOU).any(axis=1)
    return hit, ~hit & ~ignored, free


def covered(boxes, others):
    """(IoU (n, m) of boxes (n, 4) with others (m, 4), and the share of each of the boxes that lies in each of the
    others), float64.
    """
    a, b = (np.asarray(each, np.float64).reshape(-1, 4) for each in (boxes, others))
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    own, other = (np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (a, b))
    return (common / np.maximum(own[:, None] + other[None] - common, 1e-12), common / np.maximum(own[:, None], 1e-12))


def mean(values):
    """The mean of what pycocotools has, None of what it has not, which is -1 there."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def draw_curves(precision, names):
    """Precision (thresholds, 101 recalls, classes, sizes, limits) over recall, at an IoU of 0.5."""
    figure = new_figure(5.6, 4.6)
    axis = figure.subplots()
    recalls = np.linspace(0, 1, precision.shape[1])
    each = precision[0, :, :, 0, -1].T
    known = [i for i in range(len(each)) if (each[i] > -1).any()]
    known.sort(key=lambda i: -each[i].mean())
    if known:
        axis.plot(recalls, each[known].mean(axis=0), color="C0", linewidth=2.4, label="mean of classes")
    for place, i in enumerate(known if len(known) <= FEW else [*known[:2], *known[-2:]]):
        axis.plot(recalls, each[i], color=f"C{1 + place % 4}", linewidth=1.1, label=legible(names[i])[:24])
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="IoU 0.5")
    axis.grid()
    axis.legend(loc="lower left")
    return figure
