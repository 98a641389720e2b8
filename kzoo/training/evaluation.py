"""Evaluation: every picture once, metrics in float64."""

import contextlib
import json
import pathlib

import keras
import numpy as np

from kzoo import data as kdata
from kzoo.errors import UserError
from kzoo.files import write_text
from kzoo.system import reason, say
from kzoo.tasks.classify import measure
from kzoo.training.optimizer import averages
from kzoo.training.workdir import RECORD, read_record
from kzoo.weights import load


def predictions(model, loader, between=lambda: None):
    """(logits (N, C), labels (N,)) over the loader's evaluation pass; padding left out. between() is called before every batch.

    Of several crops the probabilities are averaged, and their logarithms stand for logits.
    """
    outputs, labels = [], []
    with loader.plain_errors():
        for images, targets, weights in loader.evaluation():
            between()
            real = np.asarray(weights) > 0
            answers = np.asarray(model.predict_on_batch(np.asarray(images)))[: len(images)]  # mirrored devices repeat the batch
            outputs.append(_merged(answers, loader.crops)[real])
            labels.append(np.asarray(targets)[real])
    return np.concatenate(outputs), np.concatenate(labels)


def _merged(logits, crops):
    """Logits (B * crops, C) -> (B, C)."""
    if crops == 1:
        return logits
    views = logits.reshape(-1, crops, logits.shape[-1]).astype("float64")
    log_p = views - np.logaddexp.reduce(views, axis=-1, keepdims=True)
    return np.logaddexp.reduce(log_p, axis=1) - np.log(crops)


def loader_for(model, source, data):
    """The evaluation Loader that fits a model, with the batches and crops of a recipe's Data. Raises UserError where the classes do not."""
    classes = model.output_shape[-1]
    if source.num_classes > classes:
        raise UserError(f"{source.name} has {source.num_classes} classes, the model {classes}; evaluate on the data it was trained for.")
    known = model.spec.class_names
    if known and source.class_names and tuple(source.class_names) != tuple(known):  # the numbers would mean other classes
        raise UserError(
            f"{source.name} has the classes {_few(source.class_names)}, the model {_few(known)}; evaluate on data of the same classes."
        )
    height, width, channels = model.input_shape[1:]
    return kdata.Loader(
        source,
        image_size=(height, width),
        channels=channels,
        preprocessing=model.spec.preprocessing,
        batch_size=data.eval_batch_size or data.batch_size,
        crops=data.eval_crops,
    )


def _few(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@contextlib.contextmanager
def averaged(task):
    """Within it the task's weights are the averaged ones, where an average is kept."""
    mean = averages(task.optimizer)
    if mean is None:
        yield
        return
    # Copies: under JAX prediction consumes the very arrays it is given, which the optimizer still needs.
    raw, mean = ([keras.ops.convert_to_numpy(v) for v in variables] for variables in (task.trainable_variables, mean))
    for variable, value in zip(task.trainable_variables, mean, strict=True):
        variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(task.trainable_variables, raw, strict=True):
            variable.assign(value)


def read_recipe(run):
    """(Recipe, record) of a run's recipe.txt."""
    path = pathlib.Path(run) / RECORD
    if not path.is_file():
        raise UserError(f"{run} is not a run: it has no {RECORD}; give the --workdir of kzoo train.")
    return read_record(path)


def evaluate(run, data=None):
    """Metrics of a run on its evaluation split, or on other `data` (a source or its name); also written to the run's evaluation.json.

    accuracy, top5_accuracy (above five classes), loss in nats, images. A run that may only be read keeps none of it, which is said.
    Raises UserError where the classes are not the model's.
    """
    recipe, _ = read_recipe(run)
    model = load(run)
    source = data
    if not isinstance(data, kdata.Source):
        source = kdata.open_source(data or recipe.data.source, recipe.data.eval_split, data_dir=recipe.data.data_dir)
    loader = loader_for(model, source, recipe.data)
    metrics = measure(*predictions(model, loader))
    try:
        write_text(pathlib.Path(run) / "evaluation.json", json.dumps({"data": source.name, **metrics}, indent=1) + "\n")
    except OSError as error:  # a run that may only be read
        say(f"evaluation.json could not be written into {run}: {reason(error)}")
    return metrics
