"""What a run says before its first step: what it trains on, how large it is, on what, for how long, and where."""

import math

import keras
import numpy as np

from kzoo.data import Source
from kzoo.system import printable
from kzoo.training.devices import names
from kzoo.training.optimizer import wants_xla

LISTED = 12  # classes whose counts are told one by one


def survey(plan, stage, held_out, workdir):
    """Lines about a Plan's run that is about to begin with a Stage, and is evaluated on that source."""
    recipe, source, view = plan.recipe, plan.source, stage.view
    own = "" if held_out.name == source.name else f" of {held_out.name}"
    yield printable(f"training on {len(source):,} pictures of {source.name}, evaluation on {len(held_out):,}{own}")
    if line := _classes(source):
        yield line
    yield from plan.task.survey(stage.training)
    given = {id(weight) for weight in view.given}
    total = _count(weight for weight in view.weights if id(weight) not in given)
    trained = _count(view.trainable_weights)
    some = "" if trained == total else f", {trained:,} of them trained"
    how = ", XLA" if wants_xla(recipe) else ""
    where = names()
    devices = f"{len(where)} devices ({', '.join(where)})" if recipe.data_parallel and len(where) > 1 else where[0]
    yield (
        f"{recipe.model}: {total:,} parameters{some}; {recipe.precision}{how} by {keras.backend.backend()} on {devices}"
    )
    every = f", the weights move every {recipe.optim.accumulate}" if recipe.optim.accumulate > 1 else ""
    length = f"{plan.total_steps:,} steps of {recipe.data.batch_size} pictures"
    epochs = "1 epoch" if plan.epochs == 1 else f"{plan.epochs} epochs"
    yield f"{length} in {epochs} of {plan.steps_per_epoch:,}{every}; written to {workdir}"


def _count(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _classes(source):
    """How many pictures of each class there are, where that is known without reading them; "" else."""
    if source.targets != "label" or source.streams:
        return ""
    if type(source).all_labels is Source.all_labels:
        return ""
    labels = source.all_labels()
    several = labels.ndim == 2
    counts = labels.sum(axis=0).astype(int) if several else np.bincount(labels, minlength=source.num_classes)
    words = source.class_names or tuple(map(str, range(len(counts))))
    told = f"{len(counts)} classes{', several a picture' if several else ''}"
    order = np.argsort(-counts, kind="stable")
    if len(counts) <= LISTED:
        return printable(f"{told}: " + ", ".join(f"{words[i]} {counts[i]:,}" for i in order))
    if counts.min() == counts.max():
        return f"{told} of {counts[0]:,} pictures each"
    ends = (f"{words[i]} {counts[i]:,}" for i in (*order[:2], *order[-2:]))
    first, second, third, last = ends
    return printable(f"{told} of {counts.min():,} to {counts.max():,} pictures: {first}, {second}, ... {third}, {last}")
