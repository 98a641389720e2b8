"""Pictures to answers, by whatever holds the model: a run, a .keras file, an artifact, or a name with weights.

Keras is imported where a model is opened: an artifact needs its own runtime alone.
"""

import functools
import pathlib

import numpy as np

from kzoo import data, registry, tasks, zoo
from kzoo.errors import UsageError, UserError, require, require_backend, unknown
from kzoo.exporting.artifact import open_artifact
from kzoo.exporting.papers import read_card
from kzoo.recipe_files import is_run, read_recipe
from kzoo.settings import override, plain, tupled, typed
from kzoo.specs import Preprocessing
from kzoo.system import output_folder, printable, say


class ModelPredictor:
    """The answers of a Keras model: by the task of its family or, of a run, by the recipe's, with its view where that
    has weights.
    """

    def __init__(self, model, task=None, view=None, asked=None):
        self.model, self.labels, self.task, self.view = model, model.spec.class_names, task or tasks.of(model), view
        self.channels, self._asked = model.take.channels, _checked(self.task, asked or {}, self.task.asks)

    @functools.cached_property
    def _predicted(self):
        return self.task.predictor(self.model, self.view, self.model.take, **self._asked)

    def __call__(self, picture):
        return self._predicted(picture)


def _checked(task, asked, known):
    """{name: value} of what a task is asked beside the picture, as values or text. Raises UsageError for what is not
    among the `known` of its names.
    """
    for name in set(asked) - set(known):
        if not known:
            raise UsageError(f"the task {task.settings.kind} is asked nothing beside the picture; leave {name} out.")
        raise unknown(f"question to the task {task.settings.kind}", name, known)
    return {name: typed(plain(value), task.asks[name], name) for name, value in asked.items()}


class ArtifactPredictor:
    """The answers of an exported artifact, by the task on its card; one of one fixed size is given the resized picture,
    as uint8.
    """

    def __init__(self, artifact, asked=None):
        self.artifact, self.labels, self.channels = artifact, artifact.labels, artifact.channels
        self.task = tasks.named(artifact.card.get("task", "classify"))
        if asked and not self.task.reads:
            raise UsageError(
                "--set and --threshold go with a run or a model; an artifact of the task "
                f"{self.task.settings.kind} is asked nothing beside the picture."
            )
        self._asked = _checked(self.task, asked or {}, self.task.reads)
        self.task.reading({}, **self._asked)  # which refuses what it cannot be asked before the first picture
        self.preprocessing = override(Preprocessing(), tupled(artifact.card["preprocessing"]))

    def __call__(self, picture):
        outputs = self._outputs(picture) if self.artifact.any_size else self._of_one_size(picture)
        return self.task.reading(outputs, **self._asked)

    def _outputs(self, picture, *size):
        return {name: array[0] for name, array in self.artifact.predict(picture[None], *size).items()}

    def _of_one_size(self, picture):
        """The outputs for the picture as it is, of one that is brought to the artifact's size."""
        given = self.artifact.image_size
        if self.artifact.takes_sizes:
            fitted, given = data.in_upper_left(picture, given, self.preprocessing)
            outputs = self._outputs(fitted, [given])
        else:
            fitted = data.resized(picture, given, self.preprocessing)
            outputs = self._outputs(np.clip(np.rint(fitted), 0, 255).astype("uint8"))
        return self.task.rescaled(outputs, picture.shape[:2], given)


def open_model(target, weights=None, random_weights=False, best=False):
    """The model of a run, a .keras file, a NAME.TAG, or a NAME with weights (random ones only where allowed); best: a
    run's best.
    """
    path = pathlib.Path(target)
    if path.exists():
        _refuse_weights("a run or a file", weights, random_weights)
        require_backend()
        from kzoo.weights import load

        return load(path, best)
    _refuse_best(target, best)
    if not registry.is_name(target) and (path.suffix or len(path.parts) > 1):
        raise UserError(
            f"{target} does not exist; give the folder of a run or an artifact, a .keras file or the name of a model."
        )
    row, tag = registry.split(target)
    if tag and random_weights:
        raise UsageError(f"{target} names published weights; --random-weights goes with the name alone, {row.name}.")
    if not tag and not weights and not random_weights:
        tags = f", its tag (kzoo info {target} lists them)" if registry.list_models(f"{target}.*") else ""
        raise UsageError(
            f"{target} is a bare name: add --weights FILE (or hf://org/repo){tags}, or --random-weights to go without."
        )
    require_backend()
    from kzoo.weights import require_trained

    model = zoo.get(target, weights=weights)
    require_trained(model)
    return model


def _refuse_weights(what, weights, random_weights):
    given = "--weights" if weights else "--random-weights"
    if weights or random_weights:
        raise UsageError(f"{given} goes with the NAME of a model; {what} has weights of its own.")


def _refuse_best(target, best):
    if best:
        raise UsageError(f"--best goes with the folder of a run, which {str(target)!r} is not; leave it out.")


def open_target(target, weights=None, random_weights=False, dtype=None, best=False, asked=None):
    """A callable from one uint8 picture (h, w, c) to its {name: array}, with the `task` that reads them, `labels` and
    `channels`.

    dtype: the reduced precision to compute in ("bfloat16"), whose accuracy, on a run's own pictures, is then said.
    best: a run's best weights. asked: what its task takes beside the picture, {name: value}.
    """
    if pathlib.Path(target).is_dir() and read_card(target) is not None:
        _refuse_weights("an artifact", weights, random_weights)
        _refuse_best(target, best)
        if dtype:
            raise UsageError(
                "--dtype goes with a run or a model; an artifact has the precision that it was exported with."
            )
        return ArtifactPredictor(open_artifact(target), asked)
    model = open_model(target, weights, random_weights, best)
    if dtype:
        from kzoo.precision import reduce_precision

        model = reduce_precision(model, dtype, **run_pictures(target))
        say(model.precision_report)
    recipe = _recipe_of(target)
    if recipe is None:
        return ModelPredictor(model, asked=asked)
    task = tasks.make(recipe.task)
    return ModelPredictor(model, task, tasks.trained_view(task, model, target, best), asked)


def _recipe_of(target):
    """The Recipe of a run; None for other targets."""
    return read_recipe(target)[0] if is_run(target) else None


def run_pictures(target, count=8):
    """{"pictures", "pictures_from"} of a run's own evaluation data, to verify an export with; {} for other targets."""
    recipe = _recipe_of(target)
    if recipe is None:
        return {}
    try:
        source = data.open_data(recipe.data, recipe.data.eval_split)
        pictures = [source.read(i)[0] for i in range(min(count, len(source)))]
    except UserError as error:  # the data may live on another machine: the embedded pictures serve
        say(f"verifying with the embedded pictures, the run's own cannot be read: {error}")
        return {}
    return {"pictures": pictures, "pictures_from": printable(f"{recipe.data.source}, {recipe.data.eval_split} split")}


def check_top(top):
    """Raises UsageError for a number of classes to show that shows none."""
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}.")


def check_drawing(predictor, attention):
    """Raises what `draw` and `draw_attention` would, for a reason that is known before any picture is predicted."""
    require("matplotlib", why="drawing")
    if attention and not isinstance(predictor, ModelPredictor):
        raise UserError(
            "an artifact keeps no attention weights; give --attention the run or model that it was exported from."
        )


class Answer(dict):
    """{"image": path, ...the task's answer}, with the `outputs` that it was read from."""


def predict(predictor, images, top=5):
    """The Answer about each of some picture files, of a classifier {"classes": [{"label", "index", "probability"},
    ...best first]}.

    Raises UserError that names a file that is missing or no picture.
    """
    check_top(top)
    results = []
    for path in map(pathlib.Path, images):
        outputs = predictor(_picture(path, predictor.channels))
        results.append(Answer({"image": str(path)} | predictor.task.answer(outputs, predictor.labels, top)))
        results[-1].outputs = outputs
    return results


def _picture(path, channels=3):
    return data.decode(data.read_picture(path), str(path), channels=channels)


def draw(predictor, results, folder):
    """Writes each picture with its answer, as `predict` gave it, into `folder` (PNG). Needs the extra "plots"."""
    folder = output_folder(folder)
    for number, result in enumerate(results):
        path = pathlib.Path(result["image"])
        predictor.task.draw(folder / f"{number:03d}_{path.stem}.png", _picture(path), result.outputs, result)


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
        path = pathlib.Path(result["image"])
        picture = _picture(path, predictor.channels)
        drawings = {"attention": task.explained(model, picture, result.outputs, predictor.labels)}
        if points:
            drawings["points"] = task.explained_at(model, picture, points)
        for name, drawing in drawings.items():
            if isinstance(drawing, str):
                say(f"{path}: {drawing}")
                continue
            paths.append(output_folder(folder) / f"{number:03d}_{path.stem}.{name}.png")
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
