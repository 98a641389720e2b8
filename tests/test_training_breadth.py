"""The toolbox inside whole runs: several image sizes, several devices, recomputed activations, frozen and accumulated
steps.
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.special
import torch

import kzoo
from kzoo import recipe_files, schema, settings
from kzoo.errors import UserError
from kzoo.keras_private import averages
from kzoo.layers.embed import PositionEmbedding
from kzoo.tasks import make
from kzoo.tasks.views.base import View
from kzoo.training.evaluation import loader_for
from kzoo.training.optimizer import Rate, make_optimizer
from kzoo.training.plan import Plan
from kzoo.training.stage import Stage
from kzoo.training.state import carry
from kzoo.weights.read import read_checkpoint
from kzoo.weights.surgery import Table, resize_table
from tests.test_plugins import plug
from tests.test_training_run import RECIPE, assert_same_end, interrupt_after, learned, train

ROOT = pathlib.Path(__file__).parent.parent
# the third epoch has another size than the first two
GROWING = settings.override(RECIPE, {"progressive": (8, 16), "optim.accumulate": 2})
STILL = settings.override(RECIPE, {f"overrides.{key}": 0.0 for key in RECIPE.overrides if "drop" in key})


def planned(recipe):
    return Plan(recipe, kzoo.data.open_source(recipe.data.source, recipe.data.train_split))


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return train(tmp_path_factory.mktemp("grown") / "run", GROWING)


@pytest.mark.slow
def test_a_run_ends_at_the_models_own_size(grown):
    assert [planned(GROWING).side_at(epoch) for epoch in range(4)] == [8, 8, 16, 16]
    assert grown.model.input_shape == (None, 16, 16, 3)
    assert kzoo.evaluate(grown.workdir) == grown.metrics


# Between two steps of the optimizer, and at the border of two stages.
@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 6])
def test_an_interrupted_growing_run_ends_as_if_nothing_had_happened(grown, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, step)
        train(tmp_path / "run", GROWING)
    assert read_checkpoint(tmp_path / "run")[1]["side"] == 8
    assert_same_end(train(tmp_path / "run", GROWING).workdir, grown.workdir)


def test_the_next_stage_takes_over_tables_and_their_moments():
    plan = planned(GROWING)
    small, large = Stage(plan, 8), Stage(plan, 16)
    for stage in (small, large):
        stage.compile()
    rng = np.random.default_rng(0)
    for variable in small.view.optimizer.variables:
        if variable.ndim:
            variable.assign(rng.uniform(size=variable.shape))
    large.follow(small)
    before, after = (s.view.optimizer._velocities for s in (small, large))
    index = next(i for i, w in enumerate(small.network.trainable_weights) if w.path == "pos_embed/table")
    table, grown = (np.asarray(v[index]) for v in (before, after))
    grid = torch.tensor(table[:, 1:].reshape(1, 2, 2, -1)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (4, 4), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    np.testing.assert_allclose(grown[:, 1:], expected.reshape(1, 16, -1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(grown[:, :1], table[:, :1])
    np.testing.assert_array_equal(np.asarray(after[index - 1]), np.asarray(before[index - 1]))


class Placed(View):
    """Two position tables of one shape in the network, (1, 1 + rows * columns, 4), and one of its own, each of another
    grid.
    """

    def __init__(self, *grids, wide=4):
        inputs = keras.Input((1 + math.prod(grids[0]), 4))
        x = PositionEmbedding(grids[0], 1, name="a")(inputs)
        x = PositionEmbedding(grids[1], 1, name="b")(x)
        super().__init__(keras.Model(inputs, keras.layers.Dense(2, name="head")(x)), schema.Classify())
        self.place = PositionEmbedding(grids[2], name="b")
        self.place.build((None, math.prod(grids[2]), 4))
        self.plain = keras.layers.Dense(1)
        self.plain.build((None, wide))
        recipe = settings.override(GROWING, {"optim.ema": 0.9, "optim.layer_decay": None})
        self.compile(optimizer=make_optimizer(recipe, Rate(recipe, 3, 8), self))
        self.optimizer.build(self.trainable_variables)

    def remembered(self):
        """[{slot: value}] of its trained weights."""
        o = self.optimizer
        slots = {"average": averages(o), "mean": o._momentums, "square": o._velocities, "sum": o._accumulated_gradients}
        columns = {"weight": self.trainable_variables} | slots
        return [
            {name: keras.ops.convert_to_numpy(column[i]) for name, column in columns.items()}
            for i in range(len(columns["weight"]))
        ]


@pytest.mark.backends
def test_tables_of_one_shape_and_other_grids_are_told_apart():
    rng = np.random.default_rng(0)
    before, after = Placed((2, 8), (4, 4), (2, 6)), Placed((4, 16), (8, 8), (3, 4))
    # of the trained weights; the head lies between
    grids = {0: ((2, 8), (4, 16), 1), 1: ((4, 4), (8, 8), 1), 4: ((2, 6), (3, 4), 0)}
    for variable in (*before.trainable_variables, *before.optimizer.variables):
        if len(variable.shape) > 1:
            variable.assign(rng.uniform(size=variable.shape))
    carry(before, after)
    for i, (given, found) in enumerate(zip(before.remembered(), after.remembered(), strict=True)):
        for name, value in given.items():
            if i in grids:
                old, new, prefix = grids[i]
                method = "bicubic" if name in ("weight", "average") else "bilinear"
                value = resize_table(value, Table(old, prefix), Table(new, prefix), method)
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} of {i}")
    with pytest.raises(
        UserError, match=r"the weight task/plain/kernel is \(4, 1\) and \(5, 1\) at two of the sizes of progressive"
    ):
        carry(before, Placed((4, 16), (8, 8), (3, 4), wide=5))


FLAT = """
import kzoo
from keras import Input, layers
from kzoo.models.base import ModelConfig, ZooModel, classifier

VARIANTS = {"plugged_flat_toy": ModelConfig(image_size=16)}

@kzoo.register
def build(config):
    images = Input((*config.size, config.in_channels), name="images")
    return ZooModel(images, classifier(layers.Flatten(name="flat")(images), config.num_classes), name="plugged_flat")
"""


def test_a_model_whose_weights_count_its_pixels_trains_at_one_size(tmp_path, seen):
    plug(tmp_path, "plugged-flat", "plugged_flat", FLAT)
    seen(tmp_path)
    recipe = dataclasses.replace(GROWING, model="plugged_flat_toy", overrides={})
    with pytest.raises(UserError, match=r"head/kernel is \(192, 4\) and \(768, 4\) .* train at one size"):
        train(tmp_path / "run", recipe)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert train(tmp_path / "run", dataclasses.replace(recipe, progressive=(), steps=2)).metrics["images"] == 26


def test_progressive_must_end_at_the_models_own_size(tmp_path):
    with pytest.raises(UserError, match="progressive ends at 12 pixels.*16 x 16"):
        train(tmp_path / "run", settings.override(GROWING, {"progressive": (8, 12)}))


@pytest.mark.slow
def test_recomputed_activations_change_nothing(tmp_path):
    """Dropout on: what is computed again draws the same numbers again."""
    histories = [learned(train(tmp_path / str(remat), RECIPE, remat=remat).history) for remat in (False, True)]
    for plain, again in zip(*histories, strict=True):
        assert again == pytest.approx(plain, rel=1e-4)
    assert "remat" not in kzoo.load(tmp_path / "True").spec.overrides


def test_mixed_pictures_train(tmp_path):
    """Targets are probabilities: the loss of a first step, when all classes are alike, is still the logarithm of their
    number.
    """
    changes = {"data.augment.mixup": 0.8, "data.augment.cutmix": 1.0, "optim.lr": 0.0, "steps": 1}
    run = train(tmp_path / "run", settings.override(RECIPE, changes | {"schedule.min_lr": 0.0}))
    assert run.history[0]["loss"] == pytest.approx(np.log(4), rel=1e-3)


# Trains the recipe argv[1] on one device and on all of this process's, in the folder argv[2]; prints both histories.
CHILD = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from kzoo import recipe_files
from kzoo.training import engine
recipe, _ = recipe_files.parse(open(sys.argv[1]).read())
runs = [engine.train(recipe, f"{sys.argv[2]}/{p}", {"data_parallel": p}) for p in (False, True)]
print(json.dumps([run.history for run in runs]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_several_devices_have_the_losses_of_one(tmp_path, backend):
    """Two logical CPU devices under TensorFlow's MirroredStrategy, eight under Keras' DataParallel on JAX."""
    changes = {"data.augment.shift": 0, "optim.clip_norm": 0.05, "optim.name": "sgd", "optim.lr": 0.5, "xla": "auto"}
    changes["overrides.depth"] = 1
    (tmp_path / "recipe.txt").write_text(recipe_files.dump(settings.override(STILL, changes)))
    environment = {
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", CHILD, str(tmp_path / "recipe.txt"), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, several = map(learned, json.loads(done.stdout.splitlines()[-1]))
    assert one[0]["loss"] != one[-1]["loss"]
    for alone, together in zip(one, several, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    record = (tmp_path / "True" / "recipe.txt").read_text()
    assert f'record.compiled = "{"xla" if backend == "jax" else "graph"}"' in record


def test_a_batch_that_does_not_split_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("kzoo.training.devices._devices", lambda: ["cpu:0", "cpu:1", "cpu:2"])
    with pytest.raises(UserError, match="8 does not split over 3 devices"):
        train(tmp_path / "run", data_parallel=True)


def test_a_transfer_keeps_the_architecture_that_it_starts_from(grown, tmp_path):
    """Another model's recipe, other classes, another size: the network is the run's own, its head new, its table
    resized.
    """
    changes = {
        "data.source": "fake:size=16,n=26,classes=3",
        "overrides.image_size": 24,
        "xla": "off",
        "steps": 1,
        "data.batch_size": 8,
    }
    recipe = schema.Recipe(model="vit_base_patch16_224", init_from=str(grown.workdir), keep_architecture=True)
    run = train(tmp_path / "run", settings.override(recipe, changes))
    spec = run.model.spec
    assert (spec.name, spec.overrides["patch_size"], spec.overrides["drop_path_rate"]) == ("vit_toy", 4, 0.2)
    assert run.model.input_shape == (None, 24, 24, 3) and run.model.output_shape == (None, 3)
    receipt = json.loads((run.workdir / "init_from.json").read_text())
    assert receipt["resized"] == ["pos_embed/table"] and set(receipt["reinitialised"]) == {"head/kernel", "head/bias"}
    # already done: nothing is trained
    assert train(run.workdir, settings.override(recipe, changes)).metrics == run.metrics


def test_frozen_weights_of_a_run_are_the_initial_ones_and_stay_frozen(tmp_path):
    keras.utils.set_random_seed(RECIPE.seed)
    frozen = ("patch_embed", "blocks_0", "blocks_1/attn/proj/bias", "head/bias")
    run = train(tmp_path / "run", settings.override(STILL, {"optim.freeze": frozen, "optim.ema": None}))
    for saved in (run.model, kzoo.load(run.workdir / "model.keras")):
        assert [w.path for w in saved.trainable_weights] == [
            w.path for w in saved.weights if not w.path.startswith(frozen)
        ]
    arrays = read_checkpoint(run.workdir)[0]
    one = train(tmp_path / "one", settings.override(STILL, {"optim.lr": 0.0, "optim.ema": None, "steps": 1}))
    first = read_checkpoint(one.workdir)[0]
    same = {key: np.array_equal(arrays[key], first[key]) for key in arrays if key.startswith("weights/")}
    assert all(same[key] == ("patch_embed" in key or "blocks_0" in key) for key in same if "kernel" in key)


def test_state_is_whole_with_accumulation(grown):
    """The accumulators, half full between two steps of the optimizer, are part of the checkpoint."""
    arrays, _ = read_checkpoint(grown.workdir)
    weights = [k for k in arrays if k.startswith("average/")]
    slots = [k for k in arrays if k.startswith("optimizer/")]
    assert len(slots) >= 3 * len(weights)  # two moments and one sum each


def test_crops_are_averaged_as_probabilities(grown):
    """Against SciPy's softmax of every view, in float64."""
    source, data = kzoo.data.open_source(RECIPE.data.source, "test"), schema.Data(batch_size=8, eval_crops=5)
    preprocessing = schema.Preprocessing(crop_pct=0.8)
    model = grown.model
    model.spec = dataclasses.replace(model.spec, preprocessing=preprocessing)
    task = make(schema.Classify())
    loader, meter = loader_for(task, model, source, data), task.meter(model, source)
    images, labels, _ = map(np.asarray, next(iter(loader.evaluation())))
    each = np.asarray(model(images), "float64").reshape(8, 5, -1)
    expected = scipy.special.softmax(each, axis=-1).mean(axis=1)
    meter.update(np.asarray(model(images)), labels, np.full(8, True))
    assert meter.result()["loss"] == pytest.approx(-np.log(expected[np.arange(8), labels]).mean(), abs=1e-6)
    assert np.abs(each - each[:, :1]).max() > 1e-4
    assert task.evaluate(None, model, loader, None)["images"] == len(source)
