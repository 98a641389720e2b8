"""The conformance list that every model, ours or a plugin's, has to pass: `kzoo check`, and the tests of each family.

A check is a function of a model's name that raises on failure, and may return why it does not apply here.
"""

import pathlib
import tempfile
import time

import keras
import numpy as np

from kzoo import registry, zoo
from kzoo.errors import UserError, require
from kzoo.exporting.formats import FORMATS
from kzoo.models.base import computing_in
from kzoo.tasks import of
from kzoo.training.optimizer import compiled_as


class CheckFailed(UserError):
    """A model does not keep one of the promises; the text says which and by how much."""


def _expect(condition, text):
    if not condition:
        raise CheckFailed(text)


def _images(model, batch=2):
    return of(model).example(model, batch)[0]


def outputs_of(model, images):
    """The model's outputs, as NumPy arrays in a list. Under JAX they are compiled whole: one compilation, not one for every operation."""
    call = model.predict_on_batch if keras.backend.backend() == "jax" else model
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(call(images))]


def randomise(model, seed=0):
    """Moves every weight a little, so that no zero-initialised one hides a mistake; returns the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(keras.ops.convert_to_numpy(weight) + 0.05 * rng.normal(size=weight.shape).astype("float32"))
    return model


def build(name):
    """Finite float32 outputs of the announced shape, at two batch sizes; the batch does not mix."""
    model = randomise(zoo.get(name))
    images = _images(model, 3)
    for whole, one, shape in zip(outputs_of(model, images), outputs_of(model, images[:1]), _shapes(model), strict=True):
        _expect(whole.dtype == np.float32 and np.isfinite(whole).all(), f"outputs are {whole.dtype} or not finite")
        _expect(whole.shape == (3, *shape[1:]), f"outputs have shape {whole.shape}, announced {shape}")
        _close(one, whole[:1], 1e-4, "a picture alone and in a batch")


def _shapes(model):
    shapes = model.output_shape
    return shapes if isinstance(shapes, list) else [shapes]


def _close(value, reference, tolerance, what):
    difference = float(np.abs(value - reference).max() / max(1.0, np.abs(reference).max()))
    _expect(difference <= tolerance, f"{what} differ by {difference:.1e}, allowed {tolerance:.0e}")


def reload(name):
    """A saved and loaded model gives equal outputs and carries its spec; each layer rebuilds from its own config."""
    model = randomise(zoo.get(name))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        again = keras.models.load_model(path)
    _expect(again.spec == model.spec, f"the spec came back as {again.spec}")
    for a, b in zip(outputs_of(model, _images(model)), outputs_of(again, _images(model)), strict=True):
        _close(b, a, 0.0, "outputs before and after saving")
    for layer in model.layers:
        config = layer.get_config()
        twin = type(layer).from_config(config)
        _expect(_plain(twin.get_config()) == _plain(config), f"layer {layer.name} does not rebuild from its config")


def _plain(config):
    return keras.saving.serialize_keras_object(config)


def _fit_batch(model, steps=1, rate=1.0, xla=False):
    """Trains on one generated batch, under JAX always compiled (as in outputs_of), and returns the view."""
    task = of(model)
    trained, batch = task.view(model), task.example(model, 4)
    trained.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=xla or keras.backend.backend() == "jax")
    for _ in range(steps):
        logs = trained.train_on_batch(*batch, return_dict=True)
        _expect(np.isfinite(logs["loss"]), "the loss is not finite")
    return trained


def gradients(name):
    """One step moves every trainable weight."""
    model = randomise(zoo.get(name))
    before = [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]
    _fit_batch(model)
    still = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(keras.ops.convert_to_numpy(w), old)]
    _expect(not still, f"no gradient reaches {', '.join(still[:5])}")


def xla_step(name):
    """The whole training step compiles under XLA, by the step's own word."""
    if keras.backend.backend() == "torch":
        return "torch has no XLA"
    compiled = compiled_as(_fit_batch(zoo.get(name), steps=2, rate=0.01, xla=True))
    _expect(compiled == "xla", f"the step runs as {compiled}")


def bfloat16(name):
    """With products in bfloat16, and with weights too, outputs are float32 and near those of float32; a step of the first is finite."""
    reference = randomise(zoo.get(name))
    images = _images(reference)
    exact, twins = outputs_of(reference, images), []
    for policy in ("mixed_bfloat16", "bfloat16"):
        with computing_in(policy):
            twins.append(zoo.get(name))
        twins[-1].set_weights(reference.get_weights())
        for a, b in zip(exact, outputs_of(twins[-1], images), strict=True):
            _expect(b.dtype == np.float32, f"outputs are {b.dtype}")
            _close(b, a, 0.1, f"{policy} and float32")
    _fit_batch(twins[0], rate=0.01)


def sizes(name):
    """Another, non-square size builds and runs."""
    height, width = registry.config_of(name)[1].size
    model = zoo.get(name, image_size=(height, width * 3 // 2))
    _expect(all(np.isfinite(y).all() for y in outputs_of(model, _images(model))), "outputs are not finite")


def channels(name):
    """One and four input channels build and run, with a preprocessing that fits."""
    for count in (1, 4):
        model = zoo.get(name, in_channels=count)
        _expect(len(model.spec.preprocessing.mean) == count, f"the preprocessing does not follow in_channels={count}")
        _expect(all(np.isfinite(y).all() for y in outputs_of(model, _images(model))), "outputs are not finite")


def heads(name):
    """Any number of classes, and none: the pooled vector."""
    seven, pooled = zoo.get(name, num_classes=7), zoo.get(name, num_classes=0)
    _expect(seven.output_shape == (None, 7), f"num_classes=7 gives {seven.output_shape}")
    _expect(len(pooled.output_shape) == 2, f"num_classes=0 gives {pooled.output_shape}, not a vector")
    _expect(len(pooled.weights) < len(seven.weights), "num_classes=0 still has a head")


def features(name):
    """features_only gives the maps that feature_info announces, finest first, with gradients for all that they use."""
    facts = {stage["index"]: stage for stage in zoo.info(name).feature_info}
    model = zoo.get(name, features_only=True, out_indices=tuple(facts))
    height, width = model.take.image_size
    outputs = outputs_of(model, _images(model))
    _expect(len(outputs) == len(facts), f"{len(outputs)} maps, announced {len(facts)}")
    for output, stage in zip(outputs, facts.values(), strict=True):
        wanted = (2, height // stage["stride"], width // stage["stride"], stage["channels"])
        _expect(output.shape == wanted, f"{stage['name']} has shape {output.shape}, announced {wanted}")
    strides = [stage["stride"] for stage in facts.values()]
    _expect(strides == sorted(strides), "the maps are not ordered from fine to coarse")


def _exports(format):
    def check(name):
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


CHECKS = (
    build, reload, gradients, xla_step, bfloat16, sizes, channels, heads, features,
    *map(_exports, FORMATS),
)  # fmt: skip


def run_checks(name, show=True):
    """Runs every check on a model, printing a line each.

    Returns [{"model", "check", "result": passed | failed | not applicable, "seconds", "reason"}].
    """
    results = []
    for check in CHECKS:
        began = time.monotonic()
        try:
            reason = check(name)
            result = "not applicable" if reason else "passed"
        except Exception as error:  # a plugin's model may fail in any way; the list goes on and tells
            result, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = round(time.monotonic() - began, 1)
        results.append({"model": name, "check": check.__name__, "result": result, "seconds": seconds, "reason": reason})
        if show:
            print(f"{check.__name__:<20} {result:<15} {seconds:6.1f} s  {reason or ''}".rstrip(), flush=True)
    return results
