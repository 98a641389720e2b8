"""A task's hard ends: batches of dictionaries whose sides are open, no labels, and a loss as the figure that a run is
judged by.
"""

import dataclasses

import keras
import numpy as np
import pytest

import kzoo
from kzoo import schema
from kzoo.data import Array, Batching, Labels, Loader, open_source
from kzoo.data.batching import padded
from kzoo.data.decode import pixels
from kzoo.data.randomness import uniforms
from kzoo.recipe_files import dump
from kzoo.schema import Augment, Data, Recipe, TaskSettings
from kzoo.settings import override
from kzoo.tasks import make
from kzoo.tasks.base import Meter, Task
from kzoo.tasks.classify import Classify
from kzoo.training.evaluation import loader_for
from kzoo.training.plan import Plan, settle
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fades:
    dark: float = 0.0  # share of the light that is taken away


NOISY = """
import kzoo
from keras import Input, layers
from kzoo.models.base import ModelConfig, ZooModel, classifier

VARIANTS = {"plugged_noisy_toy": ModelConfig(image_size=(16, 12), num_classes=3)}

@kzoo.register
def build(config):
    x = {"image": Input((*config.size, config.in_channels), name="image"), "noise": Input((4,), name="noise")}
    pooled = layers.GlobalAveragePooling2D(name="pool")(x["image"])
    return ZooModel(x, classifier(layers.Concatenate(name="both")([pooled, x["noise"]]), config.num_classes), name="plugged_noisy")
"""


class Noisy(Labels):
    """x = {"image", "noise" float32 (B, 4)}, the noise of each sample drawn by its key."""

    def train(self, pictures, targets, keys, epoch, step):
        images, labels = super().train(pictures, targets, keys, epoch, step)
        return {"image": images, "noise": uniforms(self.seed, epoch, keys, 4)}, labels

    def evaluate(self, pictures, targets, keys, rows):
        images, *rest = super().evaluate(pictures, targets, keys, rows)
        return {"image": images, "noise": padded(uniforms(self.seed, 0, keys, 4), rows)}, *rest

    def signature(self, rows, *, training):
        images, *rest = super().signature(rows, training=training)
        return {"image": images, "noise": Array((rows, 4), np.float32)}, *rest


class Canvases(Batching):
    """{"image": float32 (B, S, S, C) in 0..1, "mask": float32 (B, S, S), 1 where a picture lies}, S the smallest that
    holds the batch.
    """

    def __init__(self, augment=None):
        self.light = np.float32(1 - augment.dark if augment else 1)

    def train(self, pictures, targets, keys, epoch, step):
        x = self._canvas(pictures)
        return (x | {"image": x["image"] * self.light},)

    def evaluate(self, pictures, targets, keys, rows):
        x = self._canvas(pictures)
        return (
            {name: padded(array, rows) for name, array in x.items()},
            (),
            padded(np.ones(len(keys), np.float32), rows),
        )

    def _canvas(self, pictures):
        pictures = [pixels(picture) for picture in pictures]
        side = next(side for side in CANVASES if all(max(picture.shape[:2]) <= side for picture in pictures))
        image, mask = (
            np.zeros((len(pictures), side, side, 3), np.float32),
            np.zeros((len(pictures), side, side), np.float32),
        )
        for row, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            image[row, :height, :width], mask[row, :height, :width] = picture / np.float32(255), 1
        return {"image": image, "mask": mask}

    def signature(self, rows, *, training):
        x = {"image": Array((rows, None, None, 3), np.float32), "mask": Array((rows, None, None), np.float32)}
        return (x,) if training else (x, (), Array((rows,), np.float32))


def colours(x):
    """The mean colour of each picture (B, 3), what is padded left out."""
    return (
        keras.ops.sum(x["image"] * x["mask"][..., None], axis=(1, 2)) / keras.ops.sum(x["mask"], axis=(1, 2))[:, None]
    )


@pytest.fixture
def recipe(tmp_path, seen, apart):
    plug(tmp_path, "plugged-open", "plugged_open", FAMILY)
    seen(tmp_path)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(TaskSettings):
        kind = "colour"
        augments = Fades

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
            return Canvases(data.augment)

        def view(self, network):
            return ColourView(network, self.settings)

        def judged(self, view, network):
            x = {"image": keras.Input((None, None, 3), name="image"), "mask": keras.Input((None, None), name="mask")}
            return keras.Model(x, network(x["image"]) - colours(x))

        def meter(self, network, source):
            return ColourMeter()

    data = Data(source="fake:n=12", batch_size=2)
    return Recipe(model="plugged_open_toy", task=Settings(), data=data, epochs=2, xla="off")


@pytest.mark.backends
def test_dictionaries_of_two_canvases_without_labels_judged_by_a_loss(recipe, tmp_path, capsys):
    source = open_source(recipe.data.source, "train")
    engines = [
        [keras.tree.map_structure(np.asarray, b) for b in Loader(source, Canvases(), 2, 0, e).epoch(0)]
        for e in ("tf", "numpy")
    ]
    for one, other in zip(*engines, strict=True):
        assert len(one) == 1 and all(np.array_equal(one[0][name], other[0][name]) for name in ("image", "mask"))
    assert {batch[0]["image"].shape for batch in engines[0]} == {(2, side, side, 3) for side in CANVASES}
    run = kzoo.train(recipe, tmp_path / "run")
    assert run.metrics.keys() == {"loss", "images"} and run.metrics["images"] == 12
    assert (
        run.history[1]["eval_loss"] < run.history[0]["eval_loss"]
        and "accuracy" not in (tmp_path / "run" / "log.csv").read_text()
    )
    assert "loss" in capsys.readouterr().err.splitlines()[-1]
    assert kzoo.evaluate(tmp_path / "run") == run.metrics


@pytest.mark.backends
def test_a_network_of_two_inputs_trains_and_is_evaluated_as_its_config_tells(tmp_path, seen, apart):
    plug(tmp_path, "plugged-noisy", "plugged_noisy", NOISY)
    seen(tmp_path)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(schema.Classify):
        kind = "noisy"

    @kzoo.register_task
    class Task(Classify):
        settings_class = Settings

        def batching(self, take, source, data, seed, engine):
            assert take == ((16, 12), 3, schema.Preprocessing(), 3, None, None)
            return Noisy(take, source, augment=data.augment, seed=seed, engine=engine)

    data = Data(source="fake:n=12,size=16,classes=3", batch_size=4, eval_batch_size=8)
    run = kzoo.train(Recipe(model="plugged_noisy_toy", task=Settings(), data=data), tmp_path / "run")
    head = keras.ops.convert_to_numpy(run.model.get_layer("head").kernel)
    assert head.shape == (7, 3) and head.all()
    assert run.metrics["images"] == 12 and kzoo.evaluate(run.workdir) == run.metrics


def test_an_augmentation_of_the_tasks_own_is_recorded_overridden_and_batched(recipe, tmp_path):
    assert recipe.data.augment == Fades()
    (tmp_path / "recipe.txt").write_text(dump(override(recipe, {"data.augment.dark": "0.5"})))
    assert (
        "data.augment.dark = 0.5\n" in (tmp_path / "recipe.txt").read_text()
        and "flip" not in (tmp_path / "recipe.txt").read_text()
    )
    dark, darker = (settle(tmp_path / "recipe.txt", changes)[1] for changes in ({}, {"data.augment.dark": "0.75"}))
    assert (dark.data.augment, darker.data.augment) == (Fades(dark=0.5), Fades(dark=0.75))
    assert override(dark, {"data.augment": "None"}) == override(dark, {"data.augment": Fades()}) == recipe
    source = open_source(recipe.data.source, "train")
    network = Plan(recipe, source).network()
    plain, half, quarter = (next(iter(Plan(r, source).loader().epoch(0)))[0]["image"] for r in (recipe, dark, darker))
    assert np.array_equal(np.asarray(plain) / 2, half) and np.array_equal(np.asarray(plain) / 4, quarter)
    seen = [
        next(iter(loader_for(make(r.task), network, source, r.data).evaluation()))[0]["image"] for r in (recipe, dark)
    ]
    assert np.array_equal(*seen)

    with pytest.raises(kzoo.UserError, match="unknown recipe key 'data.augment.flip'"):
        override(recipe, {"data.augment.flip": 0.5})
    with pytest.raises(
        kzoo.UserError, match="data.augment is Augment, and the task colour takes Fades; give it that, or none"
    ):
        dataclasses.replace(recipe, data=Data(augment=Augment(flip=0.5)))
    flipped = override(dark, {"data.augment.flip": "0.5", "task.kind": "classify"})
    assert flipped.data.augment == Augment(flip=0.5)
    assert override(flipped, {"task.kind": "colour"}).data == recipe.data
