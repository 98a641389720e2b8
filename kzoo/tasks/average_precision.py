"""COCO's figures of detections, by pycocotools. NumPy alone before they are asked for."""

import contextlib
import io

import numpy as np

from kzoo.errors import UserError, require

FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class AveragePrecision:
    """Detections and objects of pictures, taken up one by one, all boxes x0, y0, x1, y1 in pixels of their picture."""

    def __init__(self):
        self.objects, self.found, self.pictures = [], [], 0
        # once `result` was asked for: "precision" (IoU, recalls, classes, sizes, limits) and "recall" without recalls,
        # -1 where there was no object
        self.curves = {}

    def add(self, objects, found):
        """objects: {"boxes" (n, 4), "labels" (n,), "crowd" (n,), "area" (n,)}; found: {"boxes" (m, 4), "scores" (m,),
        "labels" (m,)}.
        """
        self.pictures += 1
        self.objects.append(objects)
        self.found.append(found)

    def result(self, class_names):
        """{figure: share in 0..1}: COCO's twelve of FIGURES, and ap/NAME of each class; those of no object are left
        out.

        ap is the mean over the IoU thresholds .5, .55, ... .95, and as ap/NAME of the class. Raises UserError where the
        pictures hold no object.
        """
        require("pycocotools", why="evaluating a detector")
        if not any((~objects["crowd"]).any() for objects in self.objects):
            raise UserError(
                "none of the pictures has an object, so that no detection can be judged; evaluate on others."
            )
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress, whoever asks
            truth = COCO()
            truth.dataset = self._dataset(len(class_names))
            truth.createIndex()
            judge = COCOeval(truth, truth.loadRes(self._rows()), "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        self.curves = {name: judge.eval[name] for name in ("precision", "recall")}
        precision = judge.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, classes) of all sizes
        told = dict(zip(FIGURES, judge.stats, strict=True))
        told |= {f"ap/{name}": _mean(precision[..., i]) for i, name in enumerate(class_names)}
        return {name: float(value) for name, value in told.items() if value > -1}

    def _dataset(self, classes):
        annotations = []
        for number, objects in enumerate(self.objects):
            for box, label, crowd, area in zip(
                *(objects[k] for k in ("boxes", "labels", "crowd", "area")), strict=True
            ):
                x0, y0, x1, y1 = map(float, box)
                told = {"image_id": number, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                # a number of 0 would count as no match
                told |= {"id": len(annotations) + 1, "area": float(area), "iscrowd": int(crowd)}
                annotations.append(told)
        pictures, kinds = ([{"id": i} for i in range(count)] for count in (self.pictures, classes))
        return {"images": pictures, "annotations": annotations, "categories": kinds, "info": {}}

    def _rows(self):
        """The detections as rows of number of the picture, x, y, width, height, score, class."""
        rows = [
            np.concatenate(
                [
                    np.full((len(found["scores"]), 1), number),
                    found["boxes"][:, :2],
                    found["boxes"][:, 2:] - found["boxes"][:, :2],
                    found["scores"][:, None],
                    found["labels"][:, None],
                ],
                axis=1,
            )
            for number, found in enumerate(self.found)
        ]
        return np.concatenate(rows).astype(np.float64)


def _mean(precision):
    """The mean over what was asked; -1 where nothing was."""
    asked = precision[precision > -1]
    return asked.mean() if asked.size else -1.0
