"""Who is asked about pictures: a run, a .keras file, an artifact, or a name with weights.

Keras is imported where a model is opened: an artifact needs its own runtime alone.
"""

import functools
import io
import pathlib

import numpy as np
from PIL import Image

from kzoo import data, registry, tasks, zoo
from kzoo.errors import UsageError, UserError, require_backend, unknown
from kzoo.exporting.artifact import open_artifact
from kzoo.exporting.papers import read_card
from kzoo.recipe_files import is_run, read_recipe
from kzoo.settings import override, plain, tupled, typed
from kzoo.specs import Preprocessing
from kzoo.system import printable, say
from kzoo.tasks.answers import Prepared


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

    def batches(self):
        """(prepare, predict) of Answers.predictor_of_batches; None where its task asks about a picture by itself."""
        _ = self._predicted  # which refuses what it cannot be asked before the first picture
        return self.task.batches(self.model, self.view, self.model.take, **self._asked)


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
        return self._predict([self._prepare(picture)], 1)[0]

    def batches(self):
        """(prepare, predict) of Answers.predictor_of_batches."""
        return self._prepare, self._predict

    def _prepare(self, picture):
        """The picture as it is or, of an artifact of one size, brought to it."""
        if self.artifact.any_size:
            return Prepared(() if self.artifact.takes_encoded else picture.shape, picture.size, picture)
        own, size = picture.shape[:2], self.artifact.image_size
        if self.artifact.takes_sizes:
            fitted, size = data.in_upper_left(picture, size, self.preprocessing)
        else:
            fitted = np.clip(np.rint(data.resized(picture, size, self.preprocessing)), 0, 255).astype("uint8")
        return Prepared((), fitted.size, (fitted, own, size))

    def _predict(self, pictures, rows):
        given = [one.given for one in pictures]
        found = self._of_any_sizes(given) if self.artifact.any_size else self._of_one_size(given, rows)
        return [self.task.reading(one, **self._asked) for one in found]

    def _of_any_sizes(self, pictures):
        if len({picture.shape for picture in pictures}) == 1:
            return _each(self.artifact.predict(np.stack(pictures)), len(pictures))
        return _each(self.artifact.predict_encoded(list(map(_as_bmp, pictures))), len(pictures))

    def _of_one_size(self, given, rows):
        """Filled up to so many rows: the runtimes prepare themselves for a number of them."""
        images, own, sizes = zip(*given, *given[:1] * (rows - len(given)), strict=True)
        filled = [list(sizes)] if self.artifact.takes_sizes else []
        outputs = _each(self.artifact.predict(np.stack(images), *filled), len(given))
        return [self.task.rescaled(*each) for each in zip(outputs, own, sizes, strict=False)]


def _each(outputs, count):
    """The outputs of each of the first pictures of a batch."""
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]


def _as_bmp(picture):
    """uint8 (h, w, C) as the bytes of a file that every decoder reads to the same pixels, at no cost."""
    file = io.BytesIO()
    Image.fromarray(picture if picture.shape[-1] == 3 else np.repeat(picture, 3, axis=-1)).save(file, "BMP")
    return file.getvalue()


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
