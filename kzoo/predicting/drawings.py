"""Pictures with their answers, and what the model looked at, as PNG."""

import pathlib

from kzoo.errors import UserError, require
from kzoo.predicting.targets import ModelPredictor
from kzoo.system import output_folder, say


def check_drawing(predictor, attention):
    """Raises what `draw` and `draw_attention` would, for a reason that is known before any picture is predicted."""
    require("matplotlib", why="drawing")
    if attention and not isinstance(predictor, ModelPredictor):
        raise UserError(
            "an artifact keeps no attention weights; give --attention the run or model that it was exported from."
        )


def draw(predictor, results, folder, first=0):
    """Writes each picture with its answer into `folder` (PNG), numbered from `first` on. Needs the extra "plots"."""
    folder = output_folder(folder)
    for number, result in enumerate(results, first):
        picture = result.picture.read(3)[0]
        predictor.task.draw(folder / f"{_named(number, result)}.png", picture, result.outputs, result)


def _named(number, result):
    return f"{number:03d}_{pathlib.Path(result['image']).stem}"


def draw_attention(predictor, results, folder, points=None):
    """Writes what the model looked at, NUMBER_NAME.attention.png of each result, and positions.png and filters.png of
    the model; of points, [(y, x), ...] in 0..1 of each picture, NUMBER_NAME.points.png too.

    Returns the paths, of which each result tells its own as "attention" and "points". A picture that cannot be had, of
    no object found, or of a model without a table of positions or without patch filters, is left out, which is said.
    Raises UserError for an artifact and for a model without attention, MissingPackage without the extra "plots".
    """
    check_drawing(predictor, attention=True)

    task, folder = predictor.task, pathlib.Path(folder)
    model = task.served(predictor.model)
    paths = []
    for number, result in enumerate(results):
        picture = result.picture.read(predictor.channels)[0]
        drawings = {"attention": task.explained(model, picture, result.outputs, predictor.labels)}
        if points:
            drawings["points"] = task.explained_at(model, picture, points)
        for name, drawing in drawings.items():
            if isinstance(drawing, str):
                say(f"{result['image']}: {drawing}")
                continue
            paths.append(output_folder(folder) / f"{_named(number, result)}.{name}.png")
            drawing(paths[-1])
            result[name] = str(paths[-1])
    return paths + _draw_weights(model, folder)


def _draw_weights(model, folder):
    from kzoo import explain

    paths = []
    kinds = (
        ("positions.png", explain.position_similarity, explain.draw_positions),
        ("filters.png", explain.patch_filters, explain.draw_filters),
    )
    for name, values_of, draw in kinds:
        try:
            values = values_of(model)
        except UserError as error:
            say(f"no {name}: {error}")
            continue
        draw(output_folder(folder) / name, values, model.spec.name)
        paths.append(folder / name)
    return paths
