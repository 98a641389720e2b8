"""The figures of a detector on pictures whose objects are known."""

import numpy as np

from kzoo.tasks.average_precision import AveragePrecision
from kzoo.tasks.instability import Instability
from kzoo.tasks.meters import Meter


class BoxMeter(Meter):
    """COCO's twelve figures, and ap/NAME of each class, in pixels of the pictures as they are; of a run's second
    evaluation and those after it `instability`, the share of objects that the matching now gives another query.

    costs: the weights of the matching's costs, by their names in matching_cost.
    """

    def __init__(self, class_names, costs):
        self.class_names, self.judge, self.instability = class_names, AveragePrecision(), Instability(costs)

    def update(self, outputs, y, real):
        self.instability.update(outputs, y, real)
        found = found_in(outputs, y["size"])
        for i in np.flatnonzero(real):
            there = y["valid"][i] | y["crowd"][i]
            objects = {key: y[key][i][there] for key in ("labels", "crowd", "area")}
            self.judge.add(
                objects | {"boxes": y["original"][i][there]}, {key: value[i] for key, value in found.items()}
            )

    def result(self):
        return self.judge.result(self.class_names)

    def since(self, memory):
        share = self.instability.share(memory.get("queries", []))
        memory["queries"] = self.instability.queries
        return {} if share is None else {"instability": share}


def found_in(outputs, sizes):
    """The detections of a batch's outputs, NumPy."""
    import keras

    from kzoo.ops.detections import detections

    found = detections(outputs["logits"], outputs["boxes"], sizes)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, found)
