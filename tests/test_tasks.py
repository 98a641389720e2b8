"""Tasks of plugins: found by their kind, and the example's, whose view has weights of its own, from training to
evaluation.
"""

import json
import math
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import schema
from kzoo.data.sources import FakeSource
from kzoo.predicting import open_target
from kzoo.recipe_files import dump, parse
from kzoo.schema import Augment, Classify, Data, Optim, Recipe
from kzoo.settings import override
from kzoo.tasks import make, trained_view
from kzoo.training.evaluation import loader_for
from kzoo.training.optimizer import Rate, freeze, make_optimizer, rate_scales, trained
from kzoo.weights.read import read_checkpoint
from tests.test_packaging import ROOT
from tests.test_plugins import installed, plug  # noqa: F401 (a fixture)
from tests.test_training_run import interrupt_after

BASE = Recipe(
    model="vit_toy",
    overrides={"image_size": 8, "patch_size": 2},
    data=Data(source="digits", batch_size=32, eval_batch_size=64),
    optim=Optim(ema=0.9, freeze=("^patch_embed", "^task/hidden/bias"), layer_decay=0.8),
    steps=6,
    xla="off",
)
TURNS = {"task.kind": "rotation", "task.hidden": 8, "checkpoint.every_steps": 2}


@pytest.fixture
def example(installed, seen):  # noqa: F811
    """The example package, installed, during a test; the folder that it lies in."""
    seen(installed)
    return installed


def arrays(run):
    with np.load(run / "checkpoint.npz") as file:
        return {key: file[key] for key in file.files if key not in ("meta", "kzoo_sha256")}


def fresh(example, code):
    """The return code and output of Python code in a process of its own, where the example is installed."""
    paths = os.pathsep.join((str(ROOT), str(example)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_view_with_weights_of_its_own_is_killed_resumed_and_evaluated(example, tmp_path, capsys):
    """Killed in a process of its own, resumed in this one, in which Keras has named other layers before."""
    whole = kzoo.train(BASE, tmp_path / "whole", TURNS)
    recipe = tmp_path / "recipe.txt"
    recipe.write_text(dump(override(BASE, TURNS)))
    kill = "import os, signal; from kzoo.training import state; save = state.save\n"
    kill += (
        "state.save = lambda *given: (save(*given), given[2]['step'] == 4 and os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    # Layers that were made before count up the names that Keras gives.
    train = (
        f"import keras; keras.layers.Dense(2).build((None, 2))\nimport kzoo; kzoo.train({str(recipe)!r}, "
        f"{str(tmp_path / 'killed')!r})"
    )
    assert fresh(example, kill + train)[0] == -signal.SIGKILL
    capsys.readouterr()
    kzoo.train(str(recipe), tmp_path / "killed")
    assert "from step 4 of 6" in capsys.readouterr().err
    first, second = arrays(whole.workdir), arrays(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert [key for key in first if not np.array_equal(first[key], second[key])] == []

    own = {"hidden/kernel", "hidden/bias", "head/kernel", "head/bias"}
    assert {key for key in first if key.startswith("task/")} == {f"task/{name}" for name in own}
    assert {key for key in first if key.startswith("task_average/")} == {
        f"task_average/{name}" for name in own - {"hidden/bias"}
    }
    assert not first["task/hidden/bias"].any() and first["task/head/bias"].any()

    assert whole.metrics.keys() == {"rotation_accuracy", "loss", "images"} and whole.metrics["images"] == 355
    assert kzoo.evaluate(tmp_path / "killed") == kzoo.evaluate(whole.workdir) == whole.metrics
    assert kzoo.evaluate(whole.workdir, best=True) == whole.metrics  # of one evaluation
    view = trained_view(make(override(BASE, TURNS).task), whole.model, whole.workdir)
    assert np.array_equal(view.head.kernel, first["task_average/head/kernel"])
    assert whole.model.output_shape == (None, 32) and whole.model.spec.overrides["num_classes"] == 0
    the_turns_of_a_picture_are_predicted(example, whole, tmp_path)


def the_turns_of_a_picture_are_predicted(example, run, tmp_path):
    """In a fresh process, by the averaged head: against its weights and the network's vector in float64."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["predict", str(run.workdir), str(tmp_path / "a.png"), "--top", "3", "--out", str(tmp_path / "drawn")]
    count = "from kzoo_rotation import Rotation; once, asked = Rotation.predict, []\n"
    count += "Rotation.predict = lambda *given: asked.append(given[3].shape) or once(*given)\n"
    code, told = fresh(
        example,
        f"{count}from kzoo.cli import main; main({[*words, '--attention', '--json']}); assert asked == [(8, 8, 1)]",
    )
    assert (
        code == 0
        and (tmp_path / "drawn" / "000_a.attention.png").is_file()
        and Image.open(tmp_path / "drawn" / "000_a.png").size > (200, 100)
    )
    vector = run.model.predict_on_batch(kzoo.preprocessor(run.model)(pixels[None, ..., None]))[0].astype("float64")
    held = arrays(run.workdir)
    hidden = vector @ held["task_average/hidden/kernel"] + held["task/hidden/bias"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    shares = np.exp(hidden @ held["task_average/head/kernel"] + held["task_average/head/bias"])
    expected = {90 * quarters: share for quarters, share in enumerate(shares / shares.sum())}
    ((answer,), _), found = (
        json.JSONDecoder().raw_decode(told),
        open_target(run.workdir, best=True)(pixels[..., None])["probabilities"],
    )
    turns = {turn["degrees"]: turn["probability"] for turn in answer["turns"]}
    assert list(turns) == sorted(expected, key=expected.get, reverse=True)[:3]
    assert turns == pytest.approx({degrees: expected[degrees] for degrees in turns}, abs=1e-6)
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-6)  # the best are of the one evaluation
    with pytest.raises(kzoo.UserError, match="lies in its run alone"):
        make(override(BASE, TURNS).task).predict(run.model, None, pixels[..., None], run.model.take)


SMALL = """
import kzoo
from keras import Input, layers
from kzoo.models.base import ModelConfig, ZooModel

VARIANTS = {"plugged_small_toy": ModelConfig(image_size=8)}

@kzoo.register
def build(config):
    images = Input((*config.size, config.in_channels), name="images")
    return ZooModel(images, layers.Dense(8, name="vector")(layers.Flatten(name="flat")(images)), name="plugged_small")
"""


@pytest.mark.slow
@pytest.mark.backends
def test_a_view_with_weights_of_its_own_goes_on_in_the_midst_of_an_epoch_on_any_backend(
    example, seen, tmp_path, monkeypatch
):
    """Between two steps of the optimizer. The network is small: each of the three trainings compiles its step."""
    plug(tmp_path, "plugged-small", "plugged_small", SMALL)
    seen(tmp_path)
    data = Data(source="fake:n=16,size=8", batch_size=4, augment=Augment(shift=2))
    optim = Optim(ema=0.9, accumulate=2, freeze=("^task/hidden/bias",))
    recipe = override(
        Recipe(model="plugged_small_toy", data=data, optim=optim, steps=4), TURNS | {"checkpoint.every_steps": 1}
    )
    whole = kzoo.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        kzoo.train(recipe, tmp_path / "stopped")
    assert read_checkpoint(tmp_path / "stopped")[1]["step"] == 3
    assert kzoo.train(recipe, tmp_path / "stopped").metrics == whole.metrics
    first, second = arrays(whole.workdir), arrays(tmp_path / "stopped")
    assert first.keys() == second.keys() and "task_average/head/kernel" in first
    assert [key for key in first if not np.array_equal(first[key], second[key])] == []


class Bare(FakeSource):
    targets = "picture"


def test_a_source_must_give_what_the_task_asks(example, tmp_path):
    recipe = override(
        BASE,
        {"data.batch_size": 4, "data.eval_batch_size": 4, "steps": 1, "optim.freeze": (), "data.source": "fake:n=8"},
    )
    bare, labelled = (kind("pictures", "train", size=8, n=8) for kind in (Bare, FakeSource))
    refusal = (
        "pictures gives pictures alone, and the task classify needs a label for each picture: choose another "
        "data.source"
    )
    for sources in ((bare, labelled), (labelled, bare)):
        with pytest.raises(kzoo.UserError, match=refusal):
            kzoo.train(recipe, tmp_path / "run", data=sources)
    mixing = TURNS | {"data.augment.cutmix": 1.0}
    with pytest.raises(
        kzoo.UserError, match="MixUp and CutMix mix labels, and the task rotation has none; set data.augment.mixup"
    ):
        kzoo.train(recipe, tmp_path / "run", mixing)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    run = kzoo.train(recipe, tmp_path / "run", TURNS, data=(bare, labelled))
    assert kzoo.evaluate(run.workdir, data=bare)["images"] == 8
    with pytest.raises(kzoo.UserError, match=refusal):
        loader_for(make(Classify()), kzoo.get("vit_toy", num_classes=10, **BASE.overrides), bare, recipe.data)


def test_the_four_turns_are_told_by_their_logits(example):
    task = make(override(BASE, TURNS).task)
    from kzoo_rotation import turned

    images = np.arange(18.0, dtype="float32").reshape(2, 3, 3, 1)
    x, y = turned(images)
    assert [np.array_equal(np.rot90(x[i], -y[i]), images[i // 4]) for i in range(8)] == [True] * 8
    meter = task.meter(None, None)
    meter.update(np.eye(4)[[0, 1, 2, 0, 3, 3, 3, 3]], y, np.array([True, False]))
    assert meter.result()["rotation_accuracy"] == 0.75


@pytest.mark.backends
def test_rates_decay_and_freezing_reach_the_views_own_weights(example):
    recipe = override(BASE, TURNS)
    network = kzoo.get("vit_toy", num_classes=0, **BASE.overrides)
    view = make(recipe.task).view(network)
    scales = rate_scales(Optim(layer_decay=0.5, lr_scales={"^task/head": 3.0}), view)
    assert scales["task/head/kernel"] == 3 and "task/hidden/kernel" not in scales and scales["norm/gamma"] == 0.5
    optimizer = make_optimizer(
        override(BASE, {"optim.lr_scales.^task/head": 3.0, "optim.layer_decay": None}), 0.1, view
    )
    assert set(optimizer.scales) == {id(view.head.kernel), id(view.head.bias)}
    optimizer.build(view.trainable_variables)
    assert optimizer._use_weight_decay(view.head.kernel) and not optimizer._use_weight_decay(view.head.bias)
    freeze(view, ("^(?!task/)",))
    assert not network.trainable_weights and network.trainable and len(view.trainable_weights) == 4
    with pytest.raises(kzoo.UserError, match="leaves nothing to train"):
        freeze(view, ("",))


@pytest.mark.backends
def test_muon_leaves_the_views_own_weights_to_adamw(example):
    """AdamW's first step is the rate each way, without decay; Muon's is not."""
    plain = {"optim.weight_decay": 0.0, "optim.clip_norm": None, "optim.layer_decay": None, "schedule.name": "constant"}
    recipe = override(BASE, TURNS | plain | {"optim.name": "muon", "optim.lr": 0.01})
    view = make(recipe.task).view(kzoo.get("vit_toy", num_classes=0, **BASE.overrides))
    optimizer, weights, rng = make_optimizer(recipe, Rate(recipe, 1, 6), view), trained(view), np.random.default_rng(0)
    gradients = [rng.uniform(0.5, 1, weight.shape) * rng.choice((-1, 1), weight.shape) for weight in weights.values()]
    before = [keras.ops.convert_to_numpy(weight) for weight in weights.values()]
    optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in gradients], list(weights.values()))
    steps = [old - keras.ops.convert_to_numpy(new) for old, new in zip(before, weights.values(), strict=True)]
    plain = {
        name
        for name, step, g in zip(weights, steps, gradients, strict=True)
        if np.allclose(step, 0.01 * np.sign(g), atol=1e-5)
    }
    assert weights.keys() - plain == {n for n, w in weights.items() if len(w.shape) == 2 and n.startswith("blocks_")}
    assert {"task/hidden/kernel", "task/head/kernel"} <= plain and len(plain) < len(weights)


@pytest.mark.slow
@pytest.mark.backends
def test_what_a_view_was_given_is_left_out_of_checkpoints(tmp_path):
    from kzoo.tasks.views.base import View
    from kzoo.training import state

    class Student(View):
        terms = ("far", "near")

        def __init__(self, network, teacher):
            super().__init__(network, Classify())
            self.teacher = teacher
            teacher.trainable = False

        @property
        def given(self):
            return self.teacher.variables

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = keras.ops.mean((y_pred - self.teacher(x)) ** 2)
            self.tell(far=loss, near=-loss)
            return loss

    toy = {"image_size": 8, "patch_size": 2, "num_classes": 3}
    view = Student(kzoo.get("vit_toy", **toy), kzoo.get("vit_toy", **toy))
    view.compile(optimizer=make_optimizer(BASE, Rate(BASE, 1, 6), view), jit_compile=False)
    logs = view.train_on_batch(np.ones((4, 8, 8, 3), "float32"), return_dict=True)
    assert [metric.name for metric in view.metrics] == ["loss", "far", "near"] and logs["far"] == -logs["near"] == logs[
        "loss"
    ]
    groups = state._groups(view)
    given = {id(v) for v in view.given}
    assert given and not given & {id(v) for v in groups.values()} and not any(key.startswith("task") for key in groups)
    with pytest.raises(KeyError):
        view.tell(other=1.0)
    view.apart = [keras.layers.Dense(1)]
    view.apart[0].build((None, 2))
    with pytest.raises(ValueError, match="Student trains .*kernel"):
        view.own()


def test_a_record_names_a_plugins_task_which_is_imported_alone(example, tmp_path):
    (tmp_path / "recipe.txt").write_text(dump(override(BASE, TURNS)))
    code = (
        "import sys; from kzoo import recipe_files, schema, settings; text = "
        f"open({str(tmp_path / 'recipe.txt')!r}).read()\n"
        "settings.override(schema.Recipe(model='vit_toy'), {'task.kind': 'classify'})\n"
        "assert not any(name.startswith(('kzoo_', 'keras')) for name in sys.modules)\n"
        "print(recipe_files.parse(text)[0].task)\n"
        "assert [name for name in sys.modules if name.startswith(('kzoo_', 'keras'))] == ['kzoo_rotation']"
    )
    assert fresh(example, code) == (0, "Rotate(hidden=8)\n")


TASK = """
import dataclasses, kzoo
from kzoo.schema import TaskSettings
from kzoo.tasks.base import Task

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(TaskSettings):
    kind = "plugged"

{register}
class Plugged(Task):
    settings_class = Settings
"""


def plug_task(folder, distribution, module, kind, source):
    plug(folder, distribution, module, source, entry=f"[kzoo.tasks]\n{kind} = {module}\n")


def test_a_task_is_found_by_its_kind(tmp_path, seen, apart):
    plug_task(tmp_path, "plugged-one", "plugged_one", "plugged", TASK.format(register="@kzoo.register_task"))
    seen(tmp_path)
    recipe = override(BASE, {"task.kind": "plugged"})
    assert type(make(recipe.task)).__name__ == "Plugged" and parse(dump(recipe))[0] == recipe
    with pytest.raises(kzoo.UserError, match="unknown task 'pluged'; did you mean plugged"):
        override(BASE, {"task.kind": "pluged"})


@pytest.mark.parametrize("kind", ["plugged", "classify"])
def test_two_claims_to_one_task_are_told(tmp_path, seen, apart, kind):
    plug_task(tmp_path, "plugged-one", "plugged_one", kind, TASK.format(register="@kzoo.register_task"))
    plug_task(tmp_path, "plugged-two", "plugged_two", "plugged", "")
    seen(tmp_path)
    first, second = {"plugged": ("plugged-one", "plugged-two"), "classify": ("kzoo", "plugged-one")}[kind]
    with pytest.raises(
        kzoo.UserError, match=rf"task name '{kind}' is claimed by {first} \(.*\) and by {second} \(.*uninstall"
    ):
        schema.settings_class(kind)
    assert override(BASE, {"task.kind": "classify"}) == BASE


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "import nothing_of_this_name",
            "fails when imported .ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("", "plugged_bad defines no settings whose kind is 'plugged'"),
        (TASK.format(register=""), "no task of the kind 'plugged' is registered; put @kzoo.register_task"),
    ],
)
def test_a_task_that_fails_is_told(tmp_path, seen, apart, source, told):
    plug_task(tmp_path, "plugged-bad", "plugged_bad", "plugged", source)
    seen(tmp_path)
    with pytest.raises(kzoo.UserError, match=told):
        make(override(BASE, {"task.kind": "plugged"}).task)
    assert make(BASE.task)
