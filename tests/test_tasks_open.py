"""A task's hard ends: batches of dictionaries whose sides are open, no labels, and a loss as the figure that a run is judged by."""

import dataclasses

import keras
import numpy as np
import pytest

import kzoo
from kzoo.data import Loader, open_source
from kzoo.data.batching import Array, Batching, padded
from kzoo.data.decode import pixels
from kzoo.schema import SETTINGS, Data, Recipe, TaskSettings
from kzoo.tasks.base import TASKS, Meter, Task
from tests.test_plugins import plug

CANVASES = 70, 72
FAMILY = """
import dataclasses
import kzoo
from keras import Input, layers
from kzoo.models.base import ModelConfig, ZooModel

VARIANTS = {"plugged_open_toy": ModelConfig(image_size=72)}

@kzoo.register
def build(config):
    images = Input((None, None, config.in_channels), name="images")
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="stem")(images)
    return ZooModel(images, layers.Dense(3, name="colour")(layers.GlobalAveragePooling2D(name="pool")(x)), name="plugged_open")
"""


class Canvases(Batching):
    """{"image": float32 (B, S, S, C) in 0..1, "mask": float32 (B, S, S), 1 where a picture lies}, S the smallest that holds the batch."""

    def train(self, pictures, targets, keys, epoch, step):
        return (self._canvas(pictures),)

    def evaluate(self, pictures, targets, keys, rows):
        x = self._canvas(pictures)
        return {name: padded(array, rows) for name, array in x.items()}, (), padded(np.ones(len(keys), np.float32), rows)

    def _canvas(self, pictures):
        pictures = [pixels(picture) for picture in pictures]
        side = next(side for side in CANVASES if all(max(picture.shape[:2]) <= side for picture in pictures))
        image, mask = np.zeros((len(pictures), side, side, 3), np.float32), np.zeros((len(pictures), side, side), np.float32)
        for row, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            image[row, :height, :width], mask[row, :height, :width] = picture / np.float32(255), 1
        return {"image": image, "mask": mask}

    def signature(self, rows, *, training):
        x = {"image": Array((rows, None, None, 3), np.float32), "mask": Array((rows, None, None), np.float32)}
        return (x,) if training else (x, (), Array((rows,), np.float32))


def colours(x):
    """The mean colour of each picture (B, 3), what is padded left out."""
    return keras.ops.sum(x["image"] * x["mask"][..., None], axis=(1, 2)) / keras.ops.sum(x["mask"], axis=(1, 2))[:, None]


@pytest.fixture
def recipe(tmp_path, seen):
    """Of the toy task, whose tables are afterwards as they were."""
    tables = [(table, dict(table)) for table in (SETTINGS, TASKS)]
    plug(tmp_path, "plugged-open", "plugged_open", FAMILY)
    seen(tmp_path)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(TaskSettings):
        kind = "colour"

    from kzoo.tasks.views.base import View

    class ColourView(View):
        def call(self, inputs, training=None):
            return self.network(inputs["image"], training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean((y_pred - colours(x)) ** 2) / self.replicas()

    class ColourMeter(Meter):
        def __init__(self):
            self.errors = []

        def update(self, outputs, y, real):
            assert y == ()
            self.errors.append(np.mean(outputs[real].astype("float64") ** 2, axis=1))

        def result(self):
            return {"loss": float(np.concatenate(self.errors).mean())}

    @kzoo.register_task
    class Colour(Task):
        settings_class = Settings
        targets = "picture"

        def batching(self, take, source, data, seed, engine):
            return Canvases()

        def view(self, network):
            return ColourView(network, self.settings)

        def judged(self, view, network):
            x = {"image": keras.Input((None, None, 3), name="image"), "mask": keras.Input((None, None), name="mask")}
            return keras.Model(x, network(x["image"]) - colours(x))

        def meter(self, network, source):
            return ColourMeter()

    data = Data(source="fake:n=12", batch_size=2)
    yield Recipe(model="plugged_open_toy", task=Settings(), data=data, epochs=2, xla="off")
    for table, before in tables:
        table.clear()
        table.update(before)


@pytest.mark.backends
def test_dictionaries_of_two_canvases_without_labels_judged_by_a_loss(recipe, tmp_path, capsys):
    source = open_source(recipe.data.source, "train")
    engines = [[keras.tree.map_structure(np.asarray, b) for b in Loader(source, Canvases(), 2, 0, e).epoch(0)] for e in ("tf", "numpy")]
    for one, other in zip(*engines, strict=True):
        assert len(one) == 1 and all(np.array_equal(one[0][name], other[0][name]) for name in ("image", "mask"))
    assert {batch[0]["image"].shape for batch in engines[0]} == {(2, side, side, 3) for side in CANVASES}
    run = kzoo.train(recipe, tmp_path / "run")
    assert run.metrics.keys() == {"loss", "images"} and run.metrics["images"] == 12
    assert run.history[1]["eval_loss"] < run.history[0]["eval_loss"] and "accuracy" not in (tmp_path / "run" / "log.csv").read_text()
    assert "loss" in capsys.readouterr().err.splitlines()[-1]
    assert kzoo.evaluate(tmp_path / "run") == run.metrics
