"""The conformance list that every model, ours or a plugin's, has to pass: `kzoo check`, and the tests of each family.

A check is a function of a model's name and of the Task that trains it; it raises on failure, and may return why it does
not apply here.
"""

import pathlib
import tempfile
import time

import keras
import numpy as np

from kzoo import registry, zoo
from kzoo.data import open_source
from kzoo.errors import UserError, require, unknown
from kzoo.exporting.formats import FORMATS
from kzoo.keras_private import compiled_as, layers_in
from kzoo.models.base import computing_in
from kzoo.schema import Data, Recipe
from kzoo.tasks import named, of
from kzoo.training.plan import Plan


class CheckFailed(UserError):
    """A model does not keep one of the promises; the text says which and by how much."""


def _expect(condition, text):
    if not condition:
        raise CheckFailed(text)


def _inputs(model, batch=2):
    return of(model).example(model, batch)


def outputs_of(model, inputs):
    """The model's outputs, as NumPy arrays in a list. Under JAX they are compiled whole: one compilation, not one for
    every operation.
    """
    call = model.predict_on_batch if keras.backend.backend() == "jax" else model
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(call(inputs))]


def randomise(model, seed=0):
    """Moves every weight a little, so that no zero-initialised one hides a mistake; returns the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(keras.ops.convert_to_numpy(weight) + 0.05 * rng.normal(size=weight.shape).astype("float32"))
    return model


def build(name, task):
    """Finite outputs of the announced shape, float32 where they are no whole numbers, at two batch sizes; the batch
    does not mix.
    """
    model = randomise(zoo.get(name))
    inputs = _inputs(model, 3)
    first = keras.tree.map_structure(lambda array: array[:1], inputs)
    for whole, one, told in zip(outputs_of(model, inputs), outputs_of(model, first), model.outputs, strict=True):
        _expect(_is_exact(whole, told) and np.isfinite(whole).all(), f"outputs are {whole.dtype} or not finite")
        fits = len(whole.shape) == len(told.shape) and all(
            b in (None, a) for a, b in zip(whole.shape, told.shape, strict=True)
        )
        _expect(fits and len(whole) == 3, f"outputs have shape {whole.shape}, announced {told.shape}")
        _close(one, whole[:1], 1e-4, "a picture alone and in a batch")


def _is_exact(output, told):
    """Whether an output is float32 or, where the model announces whole numbers, of their type."""
    return output.dtype == ("float32" if keras.backend.is_float_dtype(told.dtype) else told.dtype)


def _close(value, reference, tolerance, what):
    difference = float(np.abs(value - reference).max() / max(1.0, np.abs(reference).max()))
    _expect(difference <= tolerance, f"{what} differ by {difference:.1e}, allowed {tolerance:.0e}")


def reload(name, task):
    """A saved and loaded model gives equal outputs and carries its spec and its layers' names; each layer rebuilds from
    its own config.
    """
    model = randomise(zoo.get(name))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        again = keras.models.load_model(path)
    _expect(again.spec == model.spec, f"the spec came back as {again.spec}")
    for a, b in zip(outputs_of(model, _inputs(model)), outputs_of(again, _inputs(model)), strict=True):
        _close(b, a, 0.0, "outputs before and after saving")
    names, kept = ([layer.name for layer in one.layers] for one in (model, again))
    _expect(kept == names, f"layers came back under other names, {sorted(set(kept) - set(names))[:3]}")
    for layer in model.layers:
        config = layer.get_config()
        twin = type(layer).from_config(config)
        _expect(_plain(twin.get_config()) == _plain(config), f"layer {layer.name} does not rebuild from its config")


def _plain(config):
    return keras.saving.serialize_keras_object(config)


def _plan(name, task):
    recipe = Recipe(model=name, task=task.settings, data=Data(source=task.settings.smoke_source))
    return Plan(recipe, open_source(recipe.data.source, "train"))


def _network(name, task):
    """The model as the task builds it to train on generated data of its sort."""
    return _plan(name, task).network()


def _fit(view, name, task, optimizer, steps=1, xla=False):
    """Trains a view on one batch of that data, under JAX always compiled (as in outputs_of), and yields (the batch, the
    figures of each step so far, before its change of the weights).
    """
    loader, logs = _plan(name, task).loader(batch_size=4), []
    with loader.plain_errors():
        batch = keras.tree.map_structure(np.asarray, next(iter(loader.epoch(0))))
    view.compile(optimizer=optimizer, jit_compile=xla or keras.backend.backend() == "jax")
    for _ in range(steps):
        view.reset_metrics()
        logs.append({key: float(value) for key, value in view.train_on_batch(*batch, return_dict=True).items()})
        _expect(np.isfinite(logs[-1]["loss"]), "the loss is not finite")
        yield batch, logs


def _steps(*arguments, **options):
    """All steps of _fit."""
    for _ in _fit(*arguments, **options):
        pass


def gradients(name, task):
    """One step moves every trainable weight, the view's own among them, but for what its config calls `still`."""
    network = _network(name, task)
    view, exempt = task.view(randomise(network)), network.config.still
    before = [keras.ops.convert_to_numpy(w) for w in view.trainable_weights]
    _steps(view, name, task, keras.optimizers.SGD(1.0))
    still = [
        w.path
        for w, old in zip(view.trainable_weights, before, strict=True)
        if np.array_equal(keras.ops.convert_to_numpy(w), old) and not w.path.startswith(exempt)
    ]
    _expect(not still, f"no gradient reaches {', '.join(still[:5])}")


def xla_step(name, task):
    """The whole training step compiles under XLA, by the step's own word."""
    if keras.backend.backend() == "torch":
        return "torch has no XLA"
    view = task.view(_network(name, task))
    _steps(view, name, task, keras.optimizers.SGD(0.01), steps=2, xla=True)
    _expect((compiled := compiled_as(view)) == "xla", f"the step runs as {compiled}")


def bfloat16(name, task):
    """With products in bfloat16, and with weights too, outputs are float32 and near those of float32; a step of the
    first is finite.
    """
    reference = randomise(_network(name, task))
    inputs = _inputs(reference)
    exact, twins = outputs_of(reference, inputs), []
    for policy in ("mixed_bfloat16", "bfloat16"):
        with computing_in(policy):
            twins.append(_network(name, task))
        twins[-1].set_weights(reference.get_weights())
        for a, b, told in zip(exact, outputs_of(twins[-1], inputs), reference.outputs, strict=True):
            _expect(_is_exact(b, told), f"outputs are {b.dtype}")
            _close(b, a, 0.1, f"{policy} and float32")
    _steps(task.view(twins[0]), name, task, keras.optimizers.SGD(0.01))


def overfits(name, task):
    """One batch, trained on again and again without dropout, is learnt as its task asks."""
    view, lacking = task.view(_network(name, task)), ""
    for layer in layers_in(view):
        if isinstance(layer, keras.layers.Dropout):  # with it a toy learns a batch slowly or never
            layer.rate = 0.0
    for batch, logs in _fit(view, name, task, keras.optimizers.Adam(3e-3), task.overfit_steps):
        lacking = task.unlearnt(view, batch, logs)
        if not lacking:
            break
    _expect(not lacking, lacking)


def sizes(name, task):
    """Another, non-square size builds and runs."""
    height, width = registry.config_of(name)[1].size
    model = zoo.get(name, image_size=(height, width * 3 // 2))
    _expect(all(np.isfinite(y).all() for y in outputs_of(model, _inputs(model))), "outputs are not finite")


def channels(name, task):
    """One and four input channels build and run, with a preprocessing that fits."""
    for count in (1, 4):
        model = zoo.get(name, in_channels=count)
        _expect(len(model.spec.preprocessing.mean) == count, f"the preprocessing does not follow in_channels={count}")
        _expect(all(np.isfinite(y).all() for y in outputs_of(model, _inputs(model))), "outputs are not finite")


def heads(name, task):
    """Any number of classes, and none: the pooled vector."""
    seven, pooled = zoo.get(name, num_classes=7), zoo.get(name, num_classes=0)
    _expect(seven.output_shape == (None, 7), f"num_classes=7 gives {seven.output_shape}")
    _expect(len(pooled.output_shape) == 2, f"num_classes=0 gives {pooled.output_shape}, not a vector")
    _expect(len(pooled.weights) < len(seven.weights), "num_classes=0 still has a head")


def features(name, task):
    """features_only gives the maps that feature_info announces, finest first, with gradients for all that they use."""
    facts = {stage["index"]: stage for stage in registry.config_of(name)[1].feature_info()}
    if not facts:
        return "it announces no feature maps"
    model = zoo.get(name, features_only=True, out_indices=tuple(facts))
    height, width = model.take.image_size
    outputs = outputs_of(model, _inputs(model))
    _expect(len(outputs) == len(facts), f"{len(outputs)} maps, announced {len(facts)}")
    for output, stage in zip(outputs, facts.values(), strict=True):
        wanted = (2, height // stage["stride"], width // stage["stride"], stage["channels"])
        _expect(output.shape == wanted, f"{stage['name']} has shape {output.shape}, announced {wanted}")
    strides = [stage["stride"] for stage in facts.values()]
    _expect(strides == sorted(strides), "the maps are not ordered from fine to coarse")


def _exports(format):
    def check(name, task):
        from kzoo.exporting import export

        try:
            require("tensorflow", "tensorflow_datasets", why="exporting")
        except UserError as error:
            return str(error)
        if keras.backend.backend() != "tensorflow":
            return "exports are checked under the TensorFlow backend"
        with tempfile.TemporaryDirectory() as folder:
            export(randomise(zoo.get(name)), pathlib.Path(folder) / format, format)

    check.__name__ = f"export_{format}"
    check.__doc__ = f"The {format} artifact agrees with Keras in its own runtime."
    return check


OF_MODEL = (build, reload, sizes, channels, features, *map(_exports, FORMATS))
OF_TASK = (gradients, xla_step, bfloat16)
NAMED = {"heads": heads, "overfits": overfits}  # of the tasks whose `checks` name them


def checks_of(task, model=True):
    """The checks of a task and, with `model`, of any model. Raises UsageError for a task that names a check which is
    none.
    """
    for name in set(task.checks) - set(NAMED):
        raise unknown(f"check of the task {task.settings.kind}", name, NAMED)
    return (*(OF_MODEL if model else ()), *OF_TASK, *(NAMED[name] for name in task.checks))


def run_checks(name, kind=None, show=True):
    """Runs every check on a model or, with the kind of a task, those of it training this model, printing a line each.

    Returns [{"model", "check", "result": passed | failed | not applicable, "seconds", "reason"}].
    """
    task = named(kind or registry.find(name).task)
    results = []
    for check in checks_of(task, model=kind is None):
        began = time.monotonic()
        try:
            reason = check(name, task)
            result = "not applicable" if reason else "passed"
        except Exception as error:  # a plugin's model may fail in any way; the list goes on and tells
            result, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = round(time.monotonic() - began, 1)
        results.append({"model": name, "check": check.__name__, "result": result, "seconds": seconds, "reason": reason})
        if show:
            print(f"{check.__name__:<20} {result:<15} {seconds:6.1f} s  {reason or ''}".rstrip(), flush=True)
    return results
