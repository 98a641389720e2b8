"""Evaluation of a run: the task's figures of every picture once."""

import contextlib
import dataclasses
import json
import pathlib

import keras

from kzoo import data as kdata
from kzoo.files import write_text
from kzoo.keras_private import averages
from kzoo.recipe_files import EVALUATION_SOURCE, read_recipe
from kzoo.system import reason, say
from kzoo.tasks import make, trained_view
from kzoo.training import logs
from kzoo.training.plan import divider, opener
from kzoo.weights import load


def loader_for(task, model, source, data):
    """The Loader of a pass over `source` as evaluation sees it, with the batches and crops of a recipe's Data.

    Raises UserError where model and source do not fit each other, as the task says.
    """
    task.accept(model, source)
    plain = dataclasses.replace(data, augment=None, class_weight={}, sampler="shuffle")
    return task.loader(model.take, source, plain, data.eval_batch_size or data.batch_size)


@contextlib.contextmanager
def averaged(view):
    """Within it the view's weights are the averaged ones, where an average is kept."""
    mean = averages(view.optimizer)
    if mean is None:
        yield
        return
    # Copies: under JAX prediction consumes the very arrays it is given, which the optimizer still needs.
    raw, mean = ([keras.ops.convert_to_numpy(v) for v in variables] for variables in (view.trainable_variables, mean))
    for variable, value in zip(view.trainable_variables, mean, strict=True):
        variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(view.trainable_variables, raw, strict=True):
            variable.assign(value)


def evaluate(run, data=None, best=False, listener=None):
    """Metrics of a run on its evaluation split, or on other `data` (of the kinds that `train` takes; of a pair the
    second, the first then being what a task compares with); also written to the run's evaluation.json.

    A run that was given its data in Python needs it again: of the very same the part is taken that was held out.

    best: of its best weights, not its last. listener: a function of (task, model, loader), called before the pass; the
    Reporter that it gives, or None, hears every batch.

    Of a classifier accuracy, top5_accuracy (above five classes), loss in nats, images. A run that may only be read
    keeps none of it, which is said. Raises UserError where the data is not for the model, for example of other classes.
    """
    recipe, record = read_recipe(run)
    model, task, of_run = load(run, best), make(recipe.task), recipe.data
    opened, other = opener(of_run), record.get(EVALUATION_SOURCE)
    reference, source = kdata.sources_of(other or of_run.source if data is None else data, opened, parts=False)
    if other is None:
        reference, source = kdata.part_for(of_run.source, reference, source, divider(of_run))
    loader = loader_for(task, model, source, of_run)

    def known():
        return loader_for(task, model, reference or opened(of_run.source, 0), of_run)

    task.listener = None if listener is None else listener(task, model, loader)
    with logs.Passing("evaluating, batch", -(-len(source) // loader.batch_size)) as passing:
        metrics = task.evaluate(trained_view(task, model, run, best), model, loader, known, passing.batch)
    kdata.tell_skipped(None, source)
    told = {key: value for key, value in told_of(run).items() if key == "probes"}
    tell(run, {"data": loader.source.name} | ({"weights": "best"} if best else {}) | metrics | told)
    return metrics


def told_of(run):
    """What the run's evaluation.json says; {} where there is none, or one that is none."""
    try:
        told = json.loads((pathlib.Path(run) / "evaluation.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def tell(run, told):
    """Writes the run's evaluation.json; of a run that may only be read it is said that it was not."""
    try:
        write_text(pathlib.Path(run) / "evaluation.json", json.dumps(told, indent=1) + "\n")
    except OSError as error:
        say(f"evaluation.json could not be written into {run}: {reason(error)}")
