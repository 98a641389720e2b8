"""Batches: the two engines agree bit for bit, epochs replay and resume, fit() and evaluate() take them, TensorFlow may
be absent.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from kzoo import data
from kzoo.data.batching import padded
from kzoo.data.sources import ArraySource
from kzoo.errors import UsageError, UserError
from kzoo.schema import Augment, RandAugment
from kzoo.specs import Preprocessing
from tests.loaders import labels_loader

RNG = np.random.default_rng(4)
PREPROCESSING = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
AUGMENTS = {
    "none": None,
    "flip and shift": Augment(flip=0.5, shift=3),
    "crop": Augment(crop_scale=(0.3, 1.0), flip=0.5, shift=1),
    "DeiT III": Augment(crop_pad=2, flip=0.5, three_augment=True, color_jitter=0.3, repeats=3, mixup=0.8, cutmix=1.0),
    "AugReg": Augment(
        crop_scale=(0.3, 1.0), rand_augment=RandAugment(magnitude_std=0.5), erase=0.5, mixup=0.2, mix_probability=0.7
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    for i in range(22):
        path = root / "train" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (14 + i % 5, 12 + i % 7, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(params=["array", "resized array", "folder"])
def source(request, folder):
    if request.param == "folder":
        return data.open_source(f"folder:{folder}", "train")
    side = 12 if request.param == "array" else 17
    images = np.random.default_rng(5).integers(0, 256, (22, side, side, 3), dtype=np.uint8)
    return ArraySource(request.param, images, np.arange(22) % 2, 2)


def loader(source, **options):
    return labels_loader(
        source, **{"image_size": (12, 12), "channels": 3, "preprocessing": PREPROCESSING, "batch_size": 4, **options}
    )


def listed(batches):
    return [tuple(np.asarray(array) for array in batch) for batch in batches]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for array, expected in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_engines_agree_and_epochs_replay_and_resume(source, augment):
    tf, numpy = (loader(source, augment=augment, seed=3, engine=engine) for engine in ("tf", "numpy"))
    whole = listed(tf.epoch(1))
    assert len(whole) == tf.steps_per_epoch == 5
    targets = ((4, 2), np.float32) if augment and augment.mixes else ((4,), np.int32)
    for images, labels in whole:
        assert images.shape == (4, 12, 12, 3) and images.dtype == np.float32 and (labels.shape, labels.dtype) == targets
    assert_equal(listed(numpy.epoch(1)), whole)
    assert_equal(listed(loader(source, augment=augment, seed=3, engine="tf").epoch(1)), whole)
    for start in (2, 5):
        assert_equal(listed(tf.epoch(1, start_step=start)), whole[start:])
        assert_equal(listed(numpy.epoch(1, start_step=start)), whole[start:])
    for other in (numpy.epoch(2), loader(source, augment=augment, seed=4, engine="numpy").epoch(1)):
        assert any((a[0] != b[0]).any() for a, b in zip(whole, listed(other), strict=True))


class Parts(data.Batching):
    """Structures without targets: a dictionary, in it a pair, and a side that grows with the sample's number."""

    def _x(self, pictures, keys):
        side = int(keys.max()) + 1
        wide = np.zeros((len(keys), side, 2), np.float32)
        wide[:, -1] = keys[:, None]
        return {"wide": wide, "image": np.stack(pictures), "both": (keys.astype(np.int32), np.float32(keys) / 2)}

    def train(self, pictures, targets, keys, epoch, step):
        return (self._x(pictures, keys) | {"epoch": np.full(len(keys), epoch, np.int32)},)

    def evaluate(self, pictures, targets, keys, rows):
        x = {name: value for name, value in self._x(pictures, keys).items() if name != "both"}
        return (
            {name: padded(array, rows) for name, array in x.items()},
            (),
            padded(np.ones(len(keys), np.float32), rows),
        )

    def signature(self, rows, *, training):
        array = data.Array
        x = {"image": array((rows, 12, 12, 3), np.uint8), "wide": array((rows, None, 2), np.float32)}
        if training:
            return (
                x | {"both": (array((rows,), np.int32), array((rows,), np.float32)), "epoch": array((rows,), np.int32)},
            )
        return x, (), array((rows,), np.float32)


def test_batches_of_any_structure_go_through_both_engines():
    images = np.random.default_rng(5).integers(0, 256, (10, 12, 12, 3), dtype=np.uint8)
    source = ArraySource("set", images, np.arange(10) % 2, 2)
    given = {}
    for engine in ("tf", "numpy"):
        batches = data.Loader(source, Parts(), 4, seed=2, engine=engine)
        given[engine] = [
            keras.tree.map_structure(np.asarray, batch) for batch in (*batches.epoch(3), *batches.evaluation())
        ]
    keras.tree.map_structure(np.testing.assert_array_equal, given["tf"], given["numpy"])
    assert [len(batch) for batch in given["tf"]] == [1, 1, 3, 3, 3]
    (first,), last = given["tf"][0], given["tf"][-1]
    assert set(first) == {"wide", "image", "both", "epoch"} and first["epoch"].tolist() == [3] * 4
    np.testing.assert_array_equal(first["image"], images[first["both"][0]])
    assert first["wide"].shape == (4, first["both"][0].max() + 1, 2)
    assert last[1] == () and last[2].tolist() == [1, 1, 0, 0] and not last[0]["image"][2:].any()


@pytest.mark.parametrize("engine", ["tf", "numpy"])
def test_evaluation_is_every_sample_once_in_order(source, engine):
    batches = listed(loader(source, engine=engine, augment=AUGMENTS["crop"]).evaluation())
    images, labels, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert [len(batch[0]) for batch in batches] == [4] * 6
    assert weights.dtype == np.float32 and weights.tolist() == [1] * 22 + [0] * 2
    read = [source.read(i) for i in range(22)]
    np.testing.assert_allclose(
        images[:22], [data.prepare(image, (12, 12), PREPROCESSING) for image, _ in read], atol=1e-5
    )
    assert labels[:22].tolist() == [label for _, label in read]


def test_an_augmented_picture_is_one_of_its_flips_and_shifts():
    images = RNG.integers(0, 256, (64, 6, 5, 3), dtype=np.uint8)
    source = ArraySource("set", images, np.arange(64), 64)
    made = loader(source, image_size=(6, 5), batch_size=64, augment=Augment(flip=0.5, shift=1), engine="numpy")
    batch, labels = next(iter(made.epoch(0)))
    normal = np.pad(
        (images / 255.0 - PREPROCESSING.mean) / PREPROCESSING.std, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"
    )
    kinds = set()
    for image, label in zip(batch, labels, strict=True):
        options = {
            (flip, y, x): (normal[label][:, ::-1] if flip else normal[label])[y : y + 6, x : x + 5]
            for flip, y, x in np.ndindex(2, 3, 3)
        }
        match = [kind for kind, option in options.items() if np.abs(option - image).max() < 1e-5]
        assert len(match) == 1
        kinds.update(match)
    assert len(kinds) > 12


def test_channels_are_converted_where_that_has_a_meaning(folder):
    grey = data.open_source("digits", "test")
    images, _ = next(iter(loader(grey, image_size=(8, 8), preprocessing=Preprocessing(), engine="numpy").epoch(0)))
    assert images.shape == (4, 8, 8, 3) and (images == images[..., :1]).all()
    colour = data.open_source(f"folder:{folder}", "train")
    for augment in (None, AUGMENTS["crop"]):
        images, _ = next(iter(loader(colour, channels=1, augment=augment, engine="numpy").epoch(0)))
        assert images.shape == (4, 12, 12, 1)
    with pytest.raises(UserError, match="has 3 channels and the model takes 4; build the model with in_channels=3"):
        loader(colour, channels=4)


def test_wrong_arguments_are_told(folder):
    source = data.open_source(f"folder:{folder}", "train")
    with pytest.raises(UserError, match="has 22 samples, fewer than one batch; set data.batch_size to 22 or less"):
        loader(source, batch_size=23).epoch(0)
    assert len(listed(loader(source, batch_size=23, engine="numpy").evaluation())) == 1
    with pytest.raises(UserError, match="augment.shift must be smaller than the model's input"):
        loader(source, augment=Augment(shift=12))
    with pytest.raises(UsageError, match="unknown engine 'tff'; did you mean tf"):
        loader(source, engine="tff")


@pytest.mark.parametrize("engine", ["tf", "numpy"])
def test_a_bad_picture_stops_fit_with_its_name(tmp_path, engine):
    for i in range(8):
        path = tmp_path / "train" / "a" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture") if i == 5 else Image.new("RGB", (12, 12)).save(path)
    made = loader(data.open_source(f"folder:{tmp_path}", "train"), engine=engine)
    with pytest.raises(UserError, match="5.png cannot be decoded"), made.plain_errors():
        linear_model().fit(made.epoch(0), shuffle=False, verbose=0)


def linear_model():
    import keras

    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="zeros")(keras.layers.Flatten()(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, weighted_metrics=["accuracy"])
    return model


@pytest.mark.slow
def test_fit_and_evaluate_take_both_engines(source):
    fitted = []
    for engine in ("tf", "numpy"):
        made, model = loader(source, engine=engine, augment=AUGMENTS["flip and shift"]), linear_model()
        for epoch in range(2):
            model.fit(made.epoch(epoch), shuffle=False, verbose=0)
        fitted.append(model.get_weights())
        images, labels = zip(*map(source.read, range(22)), strict=True)
        inputs = np.stack([data.prepare(image, (12, 12), PREPROCESSING) for image in images])
        right = model.predict(inputs, verbose=0).argmax(axis=1) == labels
        assert model.evaluate(made.evaluation(), verbose=0, return_dict=True)["accuracy"] == pytest.approx(right.mean())
    for first, second in zip(*fitted, strict=True):
        np.testing.assert_array_equal(first, second)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from kzoo import data
from kzoo.schema import Augment, RandAugment
from kzoo.specs import Preprocessing
assert "keras" not in sys.modules
data.pack("digits", sys.argv[1])
source = data.open_source("npz:" + sys.argv[1], "train")
take = data.Take((16, 16), 3, Preprocessing())
loader = data.Loader(source, data.Labels(take, source, augment=Augment(crop_scale=(0.5, 1.0), flip=0.5)), batch_size=500)
assert loader.engine == "numpy"
shapes = [(images.shape, labels.shape) for images, labels in loader.epoch(0)]
assert shapes == [((500, 16, 16, 3), (500,))] * 2, shapes
import keras
model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
assert np.isfinite(model.fit(loader.epoch(0), shuffle=False, verbose=0).history["loss"][0])
assert np.isfinite(model.evaluate(loader.evaluation(), verbose=0))
try:
    data.open_source("tfds:cifar10", "train")
except data.sources.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_jax_without_tensorflow(tmp_path):
    root = pathlib.Path(__file__).parent.parent
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)}
    arguments = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path / "digits.npz")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'tfds:cifar10 needs tensorflow: pip install "kzoo[tensorflow]"' in done.stdout
