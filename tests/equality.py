"""kzoo's numbers beside those of a reference, whose weights come through a file of its own format."""

import keras
import numpy as np

import kzoo
from benchmarks.numbers import result_of
from benchmarks.parity import difference
from benchmarks.references import REFERENCES
from kzoo.checking import outputs_of

# ways to compile a training step
XLA = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[keras.backend.backend()]
CLOSE = 1e-5  # ten times stricter than what is promised: the other GELU, or another epsilon, comes to 1e-4 in a toy


def pair(key, name, folder, **overrides):
    """(kzoo's model, the reference of that key) of a row with overrides in kzoo's words; the file is left in the new
    `folder`.
    """
    reference = REFERENCES[key](name, overrides)
    assert reference.covers(reference.config)
    return kzoo.get(name, weights=reference.write(folder), **overrides), reference


def assert_equal(model, reference):
    """Every block and the result on two random pictures: largest difference, relative to the largest value above 1."""
    images = reference.images(2)
    taps = keras.Model(model.input, [*(model.get_layer(name).output for name in reference.layers), result_of(model)])
    for name, ours, wanted in zip(
        [*reference.layers, "result"], outputs_of(taps, images), reference.outputs(images), strict=True
    ):
        assert difference(ours, wanted) <= CLOSE, name


def saved(model, reference, folder):
    """What kzoo writes in the reference's layout."""
    path = folder / ("ours" if reference.layout == "hf" else "ours.safetensors")
    kzoo.save_weights(model, path, layout=reference.layout)
    return path


def with_and_without(build):
    """[build(False), build(True)] under a seed of first weights and all dropping: unseeded, now and then nothing passes
    a block.
    """
    keras.utils.set_random_seed(1)
    return [build(on) for on in (False, True)]


def assert_trained_alike(models, x, y, xla):
    """Two steps of plain gradient descent from the same weights and seed, all dropout active, end in the same weights
    of both models.
    """
    plain, other = models
    for weight, twin in zip(plain.variables, other.variables, strict=True):
        twin.assign(keras.ops.convert_to_numpy(weight))
    before = [keras.ops.convert_to_numpy(weight) for weight in plain.weights]
    for model in models:
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", jit_compile=xla)
        keras.utils.set_random_seed(0)  # under torch Keras' dropout draws from torch's own state
        for _ in range(2):
            model.train_on_batch(x, y)
    after = [[keras.ops.convert_to_numpy(weight) for weight in model.weights] for model in models]
    for weight, start, one, two in zip(plain.weights, before, *after, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5, err_msg=weight.path)
        assert not np.array_equal(start, two), weight.path
