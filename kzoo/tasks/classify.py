"""Classification: one class for each picture or, of a `multilabel` source and model, any number of them. Its loss and
view, which need Keras, are in views/classify.py.
"""

import numpy as np

from kzoo import schema
from kzoo.data import Labels
from kzoo.errors import UserError
from kzoo.figures import new_figure, save, thumbnail
from kzoo.tasks.base import Task, register_task
from kzoo.tasks.class_names import names_for
from kzoo.tasks.label_meter import LabelMeter, merged_alone
from kzoo.tasks.meters import Meter
from kzoo.tasks.ranking import average_precision, roc_auc


@register_task
class Classify(Task):
    """Logits (B, C) against labels (B,) or, mixed, probabilities (B, C); of a source whose pictures may have several
    classes against (B, C), 1 for each that there is, by a binary loss.
    """

    settings_class = schema.Classify
    curves = ("loss", "accuracy")
    agreements = (*Task.agreements, "top1_agreement")
    checks = ("heads", "overfits")

    def headline(self, source):
        return ("mean_average_precision" if source.multilabel else "accuracy"), 1

    def of_data(self, source):
        if not source.multilabel:
            return self
        task = type(self)(self.settings)
        task.curves = ("loss", "f1", "mean_average_precision")
        return task

    def options(self, source):
        told = {"multilabel": True} if source.multilabel else {}
        return super().options(source) | {"num_classes": source.num_classes} | told

    def require(self, source, data):
        super().require(source, data)
        if source.multilabel and self.settings.loss == "cross_entropy":
            raise UserError(
                f"a picture of {source.name} may have several classes, of which softmax cross-entropy allows one: "
                "--set task.loss=binary_cross_entropy."
            )

    def accept(self, network, source):
        """The source's class names, where the network has a logit for each of its classes and no others, and where both
        let a picture have one class, or both several.
        """
        if not network.classes:
            raise UserError(
                f"the overrides of {network.spec.name} leave it without a classifier's head; train it with one logit "
                "for each class."
            )
        if network.config.multilabel != source.multilabel:
            several, one = (source.name, "the model") if source.multilabel else ("the model", source.name)
            raise UserError(
                f"{several} lets a picture have several classes, {one} just one; train on, and evaluate on, data of "
                "one kind."
            )
        return names_for(network, source, network.classes)

    def batching(self, take, source, data, seed, engine):
        options = {"augment": data.augment, "crops": data.eval_crops, "class_weight": data.class_weight}
        return Labels(take, source, seed=seed, engine=engine, **options)

    def view(self, network):
        from kzoo.tasks.views.classify import ClassifyView

        return ClassifyView(network, self.settings)

    def meter(self, network, source):
        return LabelMeter(self.settings.threshold) if getattr(source, "multilabel", False) else ClassMeter()

    def reporter(self, network, source):
        """None for a task made of this one whose batches or figures are others: it tells its own."""
        if any(getattr(type(self), name) is not getattr(Classify, name) for name in ("batching", "meter")):
            return None
        if getattr(source, "multilabel", False):
            from kzoo.tasks.reports.multilabel import MultiLabelReporter

            return MultiLabelReporter(network, source, getattr(self.settings, "threshold", 0.5))
        from kzoo.tasks.reports.classify import ClassReporter

        return ClassReporter(network, source)

    def outputs(self, network, raw, sizes):
        """logits and their probabilities, of one logit that of class 1 against class 0, where a picture may have
        several classes that of each by itself; features of a network without a head.
        """
        if not network.classes:
            return super().outputs(network, raw, sizes)
        from keras import ops

        logits = ops.cast(raw, "float32")
        shares = ops.sigmoid if logits.shape[-1] == 1 or network.config.multilabel else ops.softmax
        return {"logits": logits, "probabilities": shares(logits)}

    def agreement(self, expected, found):
        """top1_agreement too, the share of pictures whose best class is the same, where there are logits."""
        record = super().agreement(expected, found)
        if "logits" in expected:
            record["top1_agreement"] = float(np.mean(_best(expected["logits"]) == _best(found["logits"])))
        return record

    def agreed(self, record):
        return f"same best class for {record['top1_agreement']:.1%}" if "top1_agreement" in record else ""

    def facts(self, network):
        return {"classes": network.classes or None}

    def finished(self, network, outputs):
        """Probabilities in float64."""
        if "logits" in outputs:
            logits = outputs["logits"].astype("float64")
            shares = np.exp(logits - logits.max())
            alone = len(logits) == 1 or network.config.multilabel
            probabilities = np.exp(-np.logaddexp(0, -logits)) if alone else shares / shares.sum()
            outputs = outputs | {"probabilities": probabilities}
        return outputs

    def answer(self, outputs, labels, top):
        """{"classes": [{"label", "index", "probability"}, ...best first]}; one logit's probability is that of class 1,
        or of the one class that has a name.
        """
        if "probabilities" not in outputs:
            raise UserError(
                "the model gives features, not classes; build or export it with a classifier's head, "
                "num_classes above 0."
            )
        probabilities = outputs["probabilities"]
        if len(probabilities) == 1 != len(labels):
            probabilities = np.append(1 - probabilities, probabilities)
        best = np.argsort(-probabilities, kind="stable")[:top]
        words = labels if len(labels) == len(probabilities) else [str(i) for i in range(len(probabilities))]
        return {"classes": [{"label": words[i], "index": int(i), "probability": float(probabilities[i])} for i in best]}

    def line(self, answer):
        return ", ".join(f"{c['label']} {c['probability']:.4f}" for c in answer["classes"])

    def draw(self, path, picture, outputs, answer):
        """The classes as bars beside the picture."""
        draw_bars(path, picture, [(c["label"], c["probability"]) for c in answer["classes"]])

    def captions(self, batch, names):
        """The label's name; of probabilities, the two largest classes that are not 0; where pictures have several, the
        first three of them.
        """
        targets = batch[1]
        words = names or [str(i) for i in range(targets.shape[-1] if targets.ndim > 1 else targets.max() + 1)]
        if targets.ndim == 1:
            return [words[label] for label in targets]
        if np.abs(targets.sum(axis=1) - 1).max() > 0.01:
            there = [np.flatnonzero(row > 0.5) for row in targets]
            return ["\n".join([words[i] for i in row[:3]] + ["..."] * (len(row) > 3)) for row in there]
        best = np.argsort(-targets, axis=1, kind="stable")[:, :2]
        return [
            "\n".join(f"{words[i]} {row[i]:.2f}" for i in pair if row[i] > 0)
            for pair, row in zip(best, targets, strict=True)
        ]


class ClassMeter(Meter):
    """accuracy, loss in nats and, above five classes, top5_accuracy of logits (B * crops, C), one or several crops a
    label. Of one logit also roc_auc and average_precision, by its scores of class 1, where there are both classes.

    Of several crops the probabilities are averaged, and their logarithms stand for logits.
    """

    def __init__(self):
        self.losses, self.ranks, self.classes = [], [], 0
        self.scores = []  # of one logit: (scores (B,), whether the class is 1 (B,))

    def update(self, outputs, y, real):
        logits, labels = _merged(outputs, len(outputs) // len(y))[real].astype("float64"), y[real]
        if logits.shape[1] == 1:  # one logit answers whether the class is 1; that of the other answer is 0
            self.scores.append((logits[:, 0], labels > 0))
            logits = np.pad(logits, ((0, 0), (1, 0)))
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        ties = (logits == own).sum(axis=1) - 1  # share their ranks: a constant model is no expert
        self.ranks.append((~(logits < own)).sum(axis=1) - 1 - ties / 2)  # counted this way, a NaN is the last
        self.losses.append(-np.take_along_axis(log_p, labels[:, None], axis=1)[:, 0])
        self.classes = logits.shape[1]

    def result(self):
        ranks = np.concatenate(self.ranks)
        figures = {"accuracy": float(np.mean(ranks == 0)), "loss": float(np.concatenate(self.losses).mean())}
        if self.scores:
            given = [np.concatenate(arrays) for arrays in zip(*self.scores, strict=True)]
            if len(np.unique(given[1])) == 2:
                figures |= {"roc_auc": roc_auc(*given), "average_precision": average_precision(*given)}
        return figures | ({"top5_accuracy": float(np.mean(ranks < 5))} if self.classes > 5 else {})


def draw_bars(path, picture, shares):
    """Writes the picture with a bar of each (word, probability) beside it, the first at the top, as PNG."""
    figure = new_figure(7, 3)
    left, right = figure.subplots(1, 2)
    left.imshow(thumbnail(picture))
    left.axis("off")
    words, probabilities = zip(*shares[::-1], strict=True)
    right.bar_label(right.barh(words, probabilities), fmt="%.3f", padding=3)
    right.set(xlim=(0, 1.15), xlabel="probability")
    save(figure, path)


def _best(logits):
    """The best class of each row; one logit decides at 0."""
    return logits[..., 0] > 0 if logits.shape[-1] == 1 else np.argmax(logits, -1)


def _merged(logits, crops):
    """Logits (B * crops, C) -> (B, C)."""
    if crops == 1:
        return logits
    if logits.shape[-1] == 1:
        return merged_alone(logits, crops)
    views = logits.reshape(-1, crops, logits.shape[-1]).astype("float64")
    log_p = views - np.logaddexp.reduce(views, axis=-1, keepdims=True)
    return np.logaddexp.reduce(log_p, axis=1) - np.log(crops)
