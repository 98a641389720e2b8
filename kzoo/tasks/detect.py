"""Detection: the boxes and classes of the objects in a picture, each by one query. Its view and losses are in
views/detect.py.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872.
"""

import weakref
from collections import Counter

import numpy as np

from kzoo import schema
from kzoo.data import object_report
from kzoo.data.objects import Canvases, ObjectBatching, on_canvas, placed
from kzoo.errors import UsageError, UserError, require
from kzoo.figures import boxes, new_figure, save, show
from kzoo.tasks import pairing
from kzoo.tasks.base import Task, register_task
from kzoo.tasks.box_meter import BoxMeter, found_in
from kzoo.tasks.class_names import names_for

LEARNT = 0.95  # AP50 of `overfits`, and from where a part of it counts as learnt
THRESHOLD = 0.5  # the score from which a detection is shown
LOGIT = 10.0  # the size of one
# {network of one size: the same one for any}, which is compiled once, not for every picture
_OPEN = weakref.WeakKeyDictionary()


@register_task
class Detect(Task):
    """Logits (B, Q, C + 1) and boxes (B, Q, 4) against the objects of each picture, judged by COCO's average precision.

    Artifacts give boxes (B, Q, 4), x0, y0, x1, y1 in pixels of the picture that was handed in, scores (B, Q) and labels
    (B, Q), best first.

    A run's log has AP50 twice: `ap50` of every epoch's training batches, augmented, by the way (see RunningAP50), and
    `eval_ap50` of the held-out pictures, every eval_every epochs, where the whole of COCO's figures is due.
    `eval_instability` says how many objects' query is another than at the evaluation before.
    """

    settings_class = schema.Detect
    targets = "objects"
    crops, sized = False, True
    scale = (
        "Boxes are in pixels of that part; in those of the originals, of heights and widths `original` (B, 2), they "
        "are `boxes * (original / sizes)[:, None, [1, 0, 1, 0]]`."
    )
    curves = ("loss", "ap", "ap50", "instability")
    agreements = (*Task.agreements, "score_difference", "label_agreement")
    asks = {"threshold": float}
    reads = ("threshold",)
    checks = ("overfits",)
    overfit_steps = 300  # a toy needs some 150

    @property
    def building(self):
        """Auxiliary outputs where they are learnt from, and open sides where batches come in several canvases."""
        return {"aux_outputs": self.settings.aux_loss} | ({"open_size": True} if self.settings.canvases else {})

    def headline(self, source):
        return "ap", 1

    def options(self, source):
        return super().options(source) | {"num_classes": source.num_classes}

    def accept(self, network, source):
        """The source's class names, where the network has a logit for each of its classes and no others."""
        if not _detects(network):
            raise UserError(
                f"{network.spec.name}, as built here, gives no boxes; the task detect trains kzoo list --task detect."
            )
        config = network.config
        names = names_for(network, source, config.num_classes)
        if (self.settings.max_boxes or 0) > config.num_queries:
            raise UserError(
                f"task.max_boxes is {self.settings.max_boxes}, and the model finds at most {config.num_queries} "
                "objects, one with each query; lower it, or raise overrides.num_queries."
            )
        return names

    def require(self, source, data):
        super().require(source, data)
        require("pycocotools", why="evaluating a detector")

    def require_both(self, source, held_out):
        if tuple(source.class_names) != tuple(held_out.class_names) or source.num_classes != held_out.num_classes:
            raise UserError(f"{held_out.name} has other classes than {source.name}; evaluate on data of the same ones.")

    def survey(self, loader):
        """Counts and sizes of the objects, boxes that look misread, and how much of the batches is padding."""
        told = object_report.lines(loader.source.name, object_report.survey(loader.source))
        padding = object_report.padding(loader)
        return *told, *([] if padding is None else [object_report.padding_line(padding)])

    def batching(self, take, source, data, seed, engine):
        room, canvases = self.settings.max_boxes or take.queries, self.settings.canvases
        return ObjectBatching(
            take, source, max_boxes=room, canvases=canvases, augment=data.augment, seed=seed, engine=engine
        )

    def view(self, network):
        from kzoo.tasks.views.detect import DetectView

        return DetectView(network, self.settings)

    def meter(self, network, source):
        return BoxMeter(source.class_names or tuple(map(str, range(source.num_classes))), self.settings.costs)

    def reporter(self, network, source):
        from kzoo.tasks.reports.detect import BoxReporter

        return BoxReporter(network, source)

    def inputs(self, images, take, sizes=None):
        """A picture keeps its proportions: in the upper left of the model's size, the rest of it padding."""
        from keras import ops

        from kzoo.preprocess import filled, padded

        if sizes is not None:
            return filled(images, sizes, take.preprocessing), ops.cast(sizes, "float32")
        taken = padded(images, take.image_size, take.preprocessing)
        shape = ops.shape(images)
        own = ops.stack([ops.cast(side, "float32") for side in shape[1:3]])
        return taken, ops.broadcast_to(own[None], (shape[0], 2))

    def prepared(self, pictures, take, sizes=None):
        if sizes is not None:
            pictures = [picture[:height, :width] for picture, (height, width) in zip(pictures, sizes, strict=True)]
            return placed(pictures, take.image_size, take.preprocessing), np.array(sizes, np.float32)
        sizes = np.array([picture.shape[:2] for picture in pictures], np.float32)
        return on_canvas(pictures, self._canvases(take), take.preprocessing)[0], sizes

    def _canvases(self, take):
        return Canvases(take.image_size, self.settings.canvases)

    def judged(self, view, network):
        """The network or, where pictures come in several canvases and it was built for one size, the same network of
        open sides.
        """
        if not self.settings.canvases or network.config.open_size:
            return network
        from kzoo.weights.encoder import rebuilt, refill

        if network not in _OPEN:
            _OPEN[network] = rebuilt(network, open_size=True)
        return refill(_OPEN[network], network)

    def resizing(self, image_size):
        height, width = image_size
        return f"aspect ratio kept, until it fits into the upper left of {height} x {width}; the rest is padding"

    def rescaled(self, outputs, size, image_size):
        (height, width), (tall, wide) = size, image_size
        scale = np.float32([width / wide, height / tall] * 2)
        return outputs | {"boxes": outputs["boxes"] * scale}

    def outputs(self, network, raw, sizes):
        """boxes, scores and labels; of a network that gives a map, that."""
        from kzoo.ops.detections import detections

        return detections(raw["logits"], raw["boxes"], sizes)

    def raw_outputs(self, raw):
        """logits (B, Q, C + 1), "no object" last; boxes (B, Q, 4), cx, cy, w, h in 0..1 of what the picture fills."""
        from keras import ops

        return {name: ops.cast(raw[name], "float32") for name in ("logits", "boxes")}

    def reference(self, network, raw, sizes):
        """And `shares` (B, Q, C), by which it is seen whether another label is as likely."""
        from kzoo.ops.detections import detections

        return detections(raw["logits"], raw["boxes"], sizes, shares=True)

    def agreement(self, expected, found):
        """Of pairs of detections, one to one: boxes in pixels, by which the first figures are, score_difference,
        label_agreement, the share of pairs with the same label, and label_difference, in logits, where there are
        shares.
        """
        if "scores" not in found:
            return super().agreement(expected, found)
        other = pairing.paired(expected, found)
        record = super().agreement({"boxes": expected["boxes"]}, other)
        record["score_difference"] = pairing.score_difference(expected, found, other)
        record["label_agreement"] = float(np.mean(expected["labels"] == other["labels"]))
        if "shares" in expected:
            apart = pairing.label_difference(expected["scores"], expected["shares"], other["labels"])
            record["label_difference"] = apart
        return record

    def differences(self, record):
        told = super().differences(record)
        if "score_difference" in record:
            told += [("scores", record["score_difference"], 1.0), ("labels", record["label_difference"], LOGIT)]
        return told

    def agreed(self, record):
        return f"same label for {record['label_agreement']:.1%}" if "label_agreement" in record else ""

    def unlearnt(self, view, batch, logs):
        """AP50 of the batch, where it is too low; after the last step also what keeps it there: classes, boxes or
        both.
        """
        found = logs[-1]["ap50"]
        if found >= LEARNT:
            return ""
        told = f"after {len(logs)} steps on one batch its AP50 is {found:.2f}, not {LEARNT}"
        if len(logs) < self.overfit_steps:
            return told
        from kzoo.tasks.views.detect import parts_learnt

        x, y = batch
        count, named, near, others = parts_learnt(view.network(x, training=True), y, self.settings.costs)
        parts = [] if near >= LEARNT * count else ["boxes"]
        if named < LEARNT * count or not parts:
            parts.insert(0, "classes")
        return (
            f"{told}: it does not learn the {' and the '.join(parts)} (of {count} objects {named} are named rightly by "
            f"their queries and {near} overlapped by half, and {others} other queries name one)"
        )

    def facts(self, network):
        return {"classes": network.config.num_classes}

    def example(self, network, batch, seed=0):
        """Pictures of which a part is padding."""
        inputs = super().example(network, batch, seed)
        mask = np.zeros(inputs["mask"].shape, bool)
        mask[:, :, mask.shape[2] - mask.shape[2] // 4 :] = True
        return inputs | {"mask": mask}

    def predictor(self, network, view, take, **asked):
        """Pictures are shown to the network as evaluation shows them."""
        self.reading({}, **asked)  # which refuses what it cannot be asked
        network = self.judged(view, network)
        return lambda picture: self.reading(self.predict(network, view, picture, take), **asked)

    def predictor_of_batches(self, network, view, take, **asked):
        return super().predictor_of_batches(self.judged(view, network), view, take, **asked)

    def reading(self, outputs, threshold=THRESHOLD):
        """threshold: the score from which a detection is part of the answer."""
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold is a score in 0..1, not {threshold}.")
        return outputs | {"threshold": np.float32(threshold)}

    def answer(self, outputs, labels, top):
        """{"objects": [{"label", "index", "score", "box": [x0, y0, x1, y1] in pixels}, ...best first]}, however many
        there are.
        """
        least, found = float(outputs.get("threshold", THRESHOLD)), []
        for box, score, label in zip(*(np.asarray(outputs[k]) for k in ("boxes", "scores", "labels")), strict=True):
            if score >= least:
                index = int(label)
                word = labels[index] if index < len(labels) else str(index)
                box = [round(float(side), 2) for side in box]
                found.append({"label": word, "index": index, "score": float(score), "box": box})
        return {"objects": found}

    def line(self, answer):
        told = [
            f"{o['label']} {o['score']:.4f} at {', '.join(f'{side:.0f}' for side in o['box'])}"
            for o in answer["objects"]
        ]
        return "; ".join(told) or "no object"

    def draw(self, path, picture, outputs, answer):
        """The picture with its boxes, one colour a class."""
        draw_objects(path, picture, answer["objects"])

    def shown(self, picture, take):
        canvases = self._canvases(take)
        size = canvases.shown(picture.shape[:2])
        return picture, tuple(np.divide(size, canvases.canvas([size])).tolist())

    def explained(self, network, picture, outputs, labels):
        """What the query of each object of the answer takes from the encoder's cells."""
        import keras

        from kzoo import explain
        from kzoo.ops.detections import ranked

        objects = self.answer(outputs, labels, None)["objects"]
        if not objects:
            least = float(outputs.get("threshold", THRESHOLD))
            return f"no object scores {least:g} or more, so no attention is drawn; lower the threshold to see some."
        inputs, _ = self.prepared([picture], network.take)
        network = self.judged(None, network)
        queries = ranked(network.predict_on_batch(inputs)["logits"])[2][0, : len(objects)]
        maps = explain.attention(network, inputs)[0, -1].mean(axis=0)[keras.ops.convert_to_numpy(queries)]
        shown, shares = self.shown(picture, network.take)
        return lambda path: explain.draw_objects(path, shown, shares, maps, objects, network.spec.name)

    def explained_at(self, network, picture, points):
        return super().explained_at(self.judged(None, network), picture, points)

    def captions(self, batch, names):
        """How many objects of each class a picture has."""
        told = []
        for labels, valid in zip(batch[1]["labels"], batch[1]["valid"], strict=True):
            counts = Counter(names[label] if names else str(label) for label in labels[valid])
            told.append("\n".join(f"{count} {name}" for name, count in counts.most_common(2)))
        return told

    def show_sample(self, axis, image, batch, row, names):
        """The picture without its padding, with its boxes."""
        x, y = batch
        height, width = ((~x["mask"][row]).any(axis=side).sum() for side in (1, 0))
        show(axis, image[:height, :width], vmin=0, vmax=1, extent=(0, width, height, 0))
        cx, cy, w, h = (y["boxes"][row][y["valid"][row]] * np.tile((width, height), 2)).T
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
        labels = y["labels"][row][y["valid"][row]].tolist()
        boxes(
            axis,
            [
                {"label": names[label] if names else str(label), "index": label, "box": box}
                for label, box in zip(labels, corners.tolist(), strict=True)
            ],
            fontsize=5,
        )


def draw_objects(path, picture, objects):
    """Writes the picture with a box, label and score of each of `objects`, as an answer has them, as PNG."""
    height, width = picture.shape[:2]
    figure = new_figure(6, 6 * height / width + 0.2)
    axis = figure.subplots()
    show(axis, picture)
    axis.axis("off")
    boxes(axis, objects)
    save(figure, path)


def postprocess(model, outputs, sizes):
    """What a detector gave, as `model.predict` returns it, as detections: {"boxes" (B, Q, 4), x0, y0, x1, y1 in pixels,
    "scores" (B, Q), "labels" (B, Q)}, NumPy, best first.

    sizes (B, 2): height and width of the pictures as they were, before they were resized and padded. Raises UserError
    for outputs of another kind of model.
    """
    if not _detects(model):
        raise UserError(f"{model.name} gives no boxes; postprocess takes the outputs of a detector.")
    found = found_in(outputs, np.asarray(sizes, np.float32))
    return found | {"labels": found["labels"].astype(np.int64)}


def _detects(network):
    """Whether a network gives boxes, not a feature map alone."""
    return isinstance(network.output, dict) and {"logits", "boxes"} <= set(network.output)
