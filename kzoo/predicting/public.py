"""kzoo.predict: answers about pictures in Python."""

import os

from kzoo.errors import UsageError, UserError
from kzoo.predicting.many import BATCH, answers
from kzoo.predicting.pictures import pictures_of
from kzoo.predicting.targets import ModelPredictor, open_target


def predict(target, images, *, batch_size=BATCH, top=5, split=None, errors="raise", weights=None, best=False, **asked):
    """The answers of a model about pictures, in a list: of a classifier {"image", "classes": [{"label", "index",
    "probability"}, ...best first]}, of a detector {"image", "objects": [{"label", "index", "score", "box"}, ...]}, box
    x0, y0, x1, y1 in pixels.

    target: a model, or the folder of a run or an artifact, a .keras file, a NAME.TAG, or a NAME with weights. images: a
    file, a folder with all below it, a pattern, "@LIST", a data source by name (its `split`, by default "test") or of
    kzoo.data, uint8 arrays (h, w, C) or (B, h, w, C), or a list of these; "true_label" is told where a source knows it.
    asked: what the task takes beside, as threshold=0.3 of detectors. errors: of a file that is missing or no picture,
    "raise" raises UserError, "keep" has {"image", "error"} in its place.
    """
    if errors not in ("raise", "keep"):
        raise UsageError(f"errors is 'raise' or 'keep', not {errors!r}.")
    pictures = pictures_of(images, split)
    if isinstance(target, (str, os.PathLike)):
        predictor = open_target(target, weights, best=best, asked=asked)
    else:
        from kzoo.weights import require_trained

        if weights or best:
            raise UsageError(
                "weights and best go with the name of a model or run; the model that is given has its own."
            )
        if getattr(target, "spec", None) is None:
            raise UsageError("predict takes a model that kzoo built or loaded, or what names one.")
        require_trained(target)
        predictor = ModelPredictor(target, asked=asked)
    found = []
    for answer in answers(predictor, pictures, top, batch_size):
        if errors == "raise" and "error" in answer:
            raise UserError(answer["error"])
        found.append(answer)
    return found
