"""Classification: one class for each picture. Its loss and view, which need Keras, are in views/classify.py."""

import numpy as np

from kzoo import schema
from kzoo.data import Labels
from kzoo.errors import UserError
from kzoo.figures import new_figure, save, thumbnail
from kzoo.tasks.base import Task, register_task
from kzoo.tasks.class_names import names_for
from kzoo.tasks.meters import Meter


@register_task
class Classify(Task):
    """Logits (B, C) against labels (B,) or, mixed, probabilities (B, C)."""

    settings_class = schema.Classify
    curves = ("loss", "accuracy")
    agreements = (*Task.agreements, "top1_agreement")
    checks = ("heads", "overfits")

    def headline(self, source):
        return "accuracy", 1

    def options(self, source):
        return super().options(source) | {"num_classes": source.num_classes}

    def accept(self, network, source):
        """The source's class names, where the network has a logit for each of its classes and no others."""
        if not network.classes:
            raise UserError(
                f"the overrides of {network.spec.name} leave it without a classifier's head; train it with one logit "
                "for each class."
            )
        return names_for(network, source, network.classes)

    def batching(self, take, source, data, seed, engine):
        options = {"augment": data.augment, "crops": data.eval_crops, "class_weight": data.class_weight}
        return Labels(take, source, seed=seed, engine=engine, **options)

    def view(self, network):
        from kzoo.tasks.views.classify import ClassifyView

        return ClassifyView(network, self.settings)

    def meter(self, network, source):
        return ClassMeter()

    def outputs(self, network, raw, sizes):
        """logits and their probabilities, of one logit that of class 1 against class 0; features of a network without a
        head.
        """
        if not network.classes:
            return super().outputs(network, raw, sizes)
        from keras import ops

        logits = ops.cast(raw, "float32")
        return {"logits": logits, "probabilities": (ops.sigmoid if logits.shape[-1] == 1 else ops.softmax)(logits)}

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

    def predict(self, network, view, picture, take):
        """Probabilities in float64."""
        outputs = super().predict(network, view, picture, take)
        if "logits" in outputs:
            logits = outputs["logits"].astype("float64")
            shares = np.exp(logits - logits.max())
            outputs["probabilities"] = 1 / (1 + np.exp(-logits)) if len(logits) == 1 else shares / shares.sum()
        return outputs

    def answer(self, outputs, labels, top):
        """{"classes": [{"label", "index", "probability"}, ...best first]}; one logit's probability is that of class
        1.
        """
        if "probabilities" not in outputs:
            raise UserError(
                "the model gives features, not classes; build or export it with a classifier's head, "
                "num_classes above 0."
            )
        probabilities = outputs["probabilities"]
        if len(probabilities) == 1:
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
        """The label's name; of probabilities, the two largest classes that are not 0."""
        targets = batch[1]
        words = names or [str(i) for i in range(targets.shape[-1] if targets.ndim > 1 else targets.max() + 1)]
        if targets.ndim == 1:
            return [words[label] for label in targets]
        best = np.argsort(-targets, axis=1, kind="stable")[:, :2]
        return [
            "\n".join(f"{words[i]} {row[i]:.2f}" for i in pair if row[i] > 0)
            for pair, row in zip(best, targets, strict=True)
        ]


class ClassMeter(Meter):
    """accuracy, loss in nats and, above five classes, top5_accuracy of logits (B * crops, C), one or several crops a
    label.

    Of several crops the probabilities are averaged, and their logarithms stand for logits.
    """

    def __init__(self):
        self.losses, self.ranks, self.classes = [], [], 0

    def update(self, outputs, y, real):
        logits, labels = _merged(outputs, len(outputs) // len(y))[real].astype("float64"), y[real]
        if logits.shape[1] == 1:  # one logit answers whether the class is 1; that of the other answer is 0
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
    views = logits.reshape(-1, crops, logits.shape[-1]).astype("float64")
    log_p = views - np.logaddexp.reduce(views, axis=-1, keepdims=True)
    return np.logaddexp.reduce(log_p, axis=1) - np.log(crops)
