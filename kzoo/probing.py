"""What the frozen features of a model tell of classes: its neighbours' votes, or a linear head over them.

Features are the vectors of the model without a head, computed once of the pictures as evaluation sees them, without
augmentation. A published linear probe draws crops and flips anew in every epoch, which on ImageNet adds a point or
more: the two are not to be compared.
"""

import math

import keras
import numpy as np

from kzoo import data as kdata
from kzoo.data.randomness import permutation
from kzoo.errors import UserError, unknown
from kzoo.recipe_files import read_recipe
from kzoo.schema import Data, Masked, Optim, Recipe, Schedule
from kzoo.tasks import neighbours
from kzoo.training.evaluation import tell, told_of
from kzoo.training.optimizer import Rate, make_optimizer
from kzoo.weights import load
from kzoo.weights.encoder import encoder_of
from kzoo.weights.read import read_checkpoint

PROBES = ("knn", "linear")
EPOCHS, WARMUP, STEPS = 90, 10, 2000  # of the linear head: MAE's, and the fewest steps of a small set
BATCHES = 256, 16_384  # the smallest and the largest batch, which is a fiftieth of the pictures
# LARS' at its peak: MAE's at its batch of 16,384, whose share of a weight's norm does not depend on the batch
RATE = 6.4


def probe(run, kind, data=None, best=False):
    """{"knn_accuracy" or "linear_accuracy", "reference", "images", ...} of a run's features on its evaluation split, or
    on other `data`.

    kind: "knn", the votes of the nearest of all training pictures, or "linear", a head trained on them. `data`, a
    source's name, gives both splits, so that a run without labels can be asked about any classes. Also written to the
    run's evaluation.json, under "probes". Raises UsageError for another kind, UserError for a source without labels and
    for a model whose features are no vector.
    """
    check_kind(kind)
    recipe, model = read_recipe(run)[0], load(run, best)
    name = recipe.data.source if data is None else data
    asked = recipe.task if isinstance(recipe.task, Masked) else Masked()
    found = probe_source(model, kind, name, recipe.data, asked)
    told = (
        {"data": name, "step": read_checkpoint(run, ("none",))[1]["step"]}
        | ({"weights": "best"} if best else {})
        | found
    )
    before = told_of(run)
    tell(run, before | {"probes": before.get("probes", {}) | {kind: told}})
    return found


def check_kind(kind):
    """Raises UsageError for a kind of probe that there is not."""
    if kind not in PROBES:
        raise unknown("probe", kind, PROBES)


def probe_source(model, kind, name, data=None, asked=None):
    """{"knn_accuracy" or "linear_accuracy", "reference", "images", ...} of any model's features, by the splits of the
    source of that name.

    data: a recipe's Data, for splits, batches and folder; asked: for "knn" the Masked that has k and temperature.
    Raises as `probe`, nothing is written.
    """
    data, asked = data or Data(), asked or Masked()
    splits = (data.train_split, data.eval_split)
    sources = [kdata.open_data(data, split, name) for split in splits]
    options = {"k": asked.knn_k, "temperature": asked.knn_temperature} if kind == "knn" else {}
    return probe_model(model, kind, *sources, data.eval_batch_size or data.batch_size, **options)


def probe_model(model, kind, reference, asked, batch_size=128, limits=(None, None), **options):
    """The same of two sources, `reference` with the pictures that are learnt from, `asked` with those to be told.

    limits: of how many pictures of each, drawn from the whole; options: k and temperature for "knn".
    """
    check_kind(kind)
    for source in (reference, asked):
        if source.targets != "label" or source.multilabel:
            raise UserError(
                f"{source.name} gives no label for each picture, which a probe asks for; choose another source by "
                "--data."
            )
    neighbours.require_same_classes(reference, asked)
    encoder, classes = encoder_of(model), reference.num_classes
    given, queries = (
        neighbours.vectors(encoder, loader_of(encoder, source, batch_size), count)
        for source, count in zip((reference, asked), limits, strict=True)
    )
    told = {"reference": len(given[0]), "images": len(queries[0]), "features": given[0].shape[1]} | options
    if kind == "knn":
        return {"knn_accuracy": neighbours.accuracy(given, queries, classes, **options)} | told
    logits = linear(*given, classes)(queries[0])
    return {"linear_accuracy": float(np.mean(logits.argmax(axis=1) == queries[1]))} | told


def loader_of(encoder, source, batch_size):
    """The Loader of a source's pictures, with their labels, as the encoder takes them."""
    return kdata.Loader(source, kdata.Labels(encoder.take, source), batch_size)


def linear(vectors, labels, classes):
    """A linear head trained on vectors (N, D) and labels (N,): a function from vectors (M, D) to logits (M, classes),
    NumPy.

    As MAE's: batch norm without affine, then one layer, by LARS without decay, its rate warmed up and brought to 0
    along a cosine.
    """
    count, width = vectors.shape
    batch = min(count, max(BATCHES[0], min(count // 50, BATCHES[1])))
    steps = count // batch
    epochs = max(EPOCHS, math.ceil(STEPS / steps))
    recipe = Recipe(
        model="",
        optim=Optim(name="lars", lr=RATE, weight_decay=0.0, clip_norm=None),
        schedule=Schedule(warmup_epochs=epochs * WARMUP / EPOCHS),
    )
    head = keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.BatchNormalization(center=False, scale=False, momentum=0.9, epsilon=1e-6),
            keras.layers.Dense(classes, kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01, seed=0)),
        ]
    )
    optimizer = make_optimizer(recipe, Rate(recipe, steps, epochs * steps), head)
    head.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for epoch in range(epochs):
        order = permutation(0, epoch, count)
        for start in range(0, steps * batch, batch):
            chosen = order[start : start + batch]
            head.train_on_batch(vectors[chosen], labels[chosen])
    return lambda asked: head.predict(asked, batch_size=1024, verbose=0)
