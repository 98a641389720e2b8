"""Detection: the boxes and classes of the objects in a picture, each by one query. Its view and losses are in
views/detect.py.

"End-to-End Object Detection with Transformers", https://arxiv.org/abs/2005.12872.
"""

from collections import Counter

import numpy as np

from kzoo import schema
from kzoo.data import object_report
from kzoo.data.objects import ObjectBatching, canvas_of, filled
from kzoo.errors import UsageError, UserError, require
from kzoo.figures import new_figure, save, show
from kzoo.tasks import pairing
from kzoo.tasks.average_precision import AveragePrecision
from kzoo.tasks.base import Meter, Task, names_for, register_task

THRESHOLD = 0.5  # the score from which a detection is shown
LOGIT = 10.0  # the size of one


@register_task
class Detect(Task):
    """Logits (B, Q, C + 1) and boxes (B, Q, 4) against the objects of each picture, judged by COCO's average precision.

    Artifacts give boxes (B, Q, 4), x0, y0, x1, y1 in pixels of the picture that was handed in, scores (B, Q) and labels
    (B, Q), best first.
    """

    settings_class = schema.Detect
    targets = "objects"
    crops, sized = False, True
    scale = (
        "Boxes are in pixels of that part; in those of the originals, of heights and widths `original` (B, 2), they "
        "are `boxes * (original / sizes)[:, None, [1, 0, 1, 0]]`."
    )
    curves = ("loss", "ap", "ap50")
    agreements = (*Task.agreements, "score_difference", "label_agreement")
    asks = {"threshold": float}
    reads = ("threshold",)
    checks = ("overfits",)

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
        return BoxMeter(source.class_names or tuple(map(str, range(source.num_classes))))

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
        if sizes is None:
            placed = (canvas_of(p, take.image_size, take.preprocessing)[:2] for p in pictures)
            sizes = [picture.shape[:2] for picture in pictures]
        else:
            own = (picture[:height, :width] for picture, (height, width) in zip(pictures, sizes, strict=True))
            placed = (filled(picture, take.image_size, take.preprocessing) for picture in own)
        image, mask = zip(*placed, strict=True)
        sizes = np.array(sizes, np.float32)
        return {"image": np.stack(image), "mask": np.stack(mask)}, sizes

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

    def facts(self, network):
        return {"classes": network.config.num_classes}

    def example(self, network, batch, seed=0):
        """Pictures of which a part is padding."""
        inputs = super().example(network, batch, seed)
        mask = np.zeros(inputs["mask"].shape, bool)
        mask[:, :, mask.shape[2] - mask.shape[2] // 4 :] = True
        return inputs | {"mask": mask}

    def predictor(self, network, view, take, **asked):
        return lambda picture: self.reading(self.predict(network, view, picture, take), **asked)

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

    def captions(self, batch, names):
        """How many objects of each class a picture has."""
        told = []
        for labels, valid in zip(batch[1]["labels"], batch[1]["valid"], strict=True):
            counts = Counter(names[label] if names else str(label) for label in labels[valid])
            told.append("\n".join(f"{count} {name}" for name, count in counts.most_common(2)))
        return told


class BoxMeter(Meter):
    """COCO's twelve figures, and ap/NAME of each class, in pixels of the pictures as they are."""

    def __init__(self, class_names):
        self.class_names, self.judge = class_names, AveragePrecision()

    def update(self, outputs, y, real):
        found = _found(outputs, y["size"])
        for i in np.flatnonzero(real):
            there = y["valid"][i] | y["crowd"][i]
            objects = {key: y[key][i][there] for key in ("labels", "crowd", "area")}
            self.judge.add(
                objects | {"boxes": y["original"][i][there]}, {key: value[i] for key, value in found.items()}
            )

    def result(self):
        return self.judge.result(self.class_names)


def draw_objects(path, picture, objects):
    """Writes the picture with a box, label and score of each of `objects`, as an answer has them, as PNG."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    figure = new_figure(6, 6 * height / width + 0.2)
    axis = figure.subplots()
    show(axis, picture)
    axis.axis("off")
    for found in objects:
        x0, y0, x1, y1 = found["box"]
        colour = colormaps["tab10"](found["index"] % 10)
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.5))
        axis.text(
            x0,
            y0,
            f"{found['label']} {found['score']:.2f}",
            fontsize=7,
            color="white",
            verticalalignment="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )
    save(figure, path)


def postprocess(model, outputs, sizes):
    """What a detector gave, as `model.predict` returns it, as detections: {"boxes" (B, Q, 4), x0, y0, x1, y1 in pixels,
    "scores" (B, Q), "labels" (B, Q)}, NumPy, best first.

    sizes (B, 2): height and width of the pictures as they were, before they were resized and padded. Raises UserError
    for outputs of another kind of model.
    """
    if not _detects(model):
        raise UserError(f"{model.name} gives no boxes; postprocess takes the outputs of a detector.")
    found = _found(outputs, np.asarray(sizes, np.float32))
    return found | {"labels": found["labels"].astype(np.int64)}


def _found(outputs, sizes):
    """The detections of a batch's outputs, NumPy."""
    import keras

    from kzoo.ops.detections import detections

    found = detections(outputs["logits"], outputs["boxes"], sizes)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, found)


def _detects(network):
    """Whether a network gives boxes, not a feature map alone."""
    return isinstance(network.output, dict) and {"logits", "boxes"} <= set(network.output)
