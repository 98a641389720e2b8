"""Tasks of plugins: found by their kind, and the example's, whose view has weights of its own, from training to evaluation."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import kzoo
from kzoo import registry
from kzoo.schema import SETTINGS, Classify, Data, Optim, Recipe, dump, override, parse
from kzoo.tasks import make, trained_view
from kzoo.tasks.base import TASKS
from kzoo.training.optimizer import Rate, freeze, make_optimizer, rate_scales
from tests.test_packaging import ROOT
from tests.test_plugins import installed, plug  # noqa: F401 (a fixture)

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
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_view_with_weights_of_its_own_is_killed_resumed_and_evaluated(example, tmp_path):
    whole = kzoo.train(BASE, tmp_path / "whole", TURNS)
    recipe = tmp_path / "recipe.txt"
    recipe.write_text(dump(override(BASE, TURNS)))
    kill = "import os, signal; from kzoo.training import state; save = state.save\n"
    kill += "state.save = lambda *given: (save(*given), given[2]['step'] == 4 and os.kill(os.getpid(), signal.SIGKILL))\n"
    # Layers that were made before count up the names that Keras gives.
    train = f"import keras; keras.layers.Dense(2).build((None, 2))\nimport kzoo; kzoo.train({str(recipe)!r}, {str(tmp_path / 'killed')!r})"
    assert fresh(example, kill + train)[0] == -signal.SIGKILL
    code, told = fresh(example, train)
    assert code == 0 and "from step 4 of 6" in told
    first, second = arrays(whole.workdir), arrays(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert [key for key in first if not np.array_equal(first[key], second[key])] == []

    own = {"hidden/kernel", "hidden/bias", "head/kernel", "head/bias"}
    assert {key for key in first if key.startswith("task/")} == {f"task/{name}" for name in own}
    assert {key for key in first if key.startswith("task_average/")} == {f"task_average/{name}" for name in own - {"hidden/bias"}}
    assert not first["task/hidden/bias"].any() and first["task/head/bias"].any()

    assert whole.metrics.keys() == {"rotation_accuracy", "loss", "images"} and whole.metrics["images"] == 355
    assert kzoo.evaluate(tmp_path / "killed") == kzoo.evaluate(whole.workdir) == whole.metrics
    assert kzoo.evaluate(whole.workdir, best=True) == whole.metrics  # of one evaluation
    view = trained_view(make(override(BASE, TURNS).task), whole.model, whole.workdir)
    assert np.array_equal(view.head.kernel, first["task_average/head/kernel"])
    assert whole.model.output_shape == (None, 32) and whole.model.spec.overrides["num_classes"] == 0


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
    optimizer = make_optimizer(override(BASE, {"optim.lr_scales.^task/head": 3.0, "optim.layer_decay": None}), 0.1, view)
    assert set(optimizer.scales) == {id(view.head.kernel), id(view.head.bias)}
    optimizer.build(view.trainable_variables)
    assert optimizer._use_weight_decay(view.head.kernel) and not optimizer._use_weight_decay(view.head.bias)
    freeze(view, ("^(?!task/)",))
    assert not network.trainable_weights and network.trainable and len(view.trainable_weights) == 4
    with pytest.raises(kzoo.UserError, match="leaves nothing to train"):
        freeze(view, ("",))


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
    assert [metric.name for metric in view.metrics] == ["loss", "far", "near"] and logs["far"] == -logs["near"] == logs["loss"]
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
        f"import sys; from kzoo import schema; text = open({str(tmp_path / 'recipe.txt')!r}).read()\n"
        "schema.override(schema.Recipe(model='vit_toy'), {'task.kind': 'classify'})\n"
        "assert not any(name.startswith(('kzoo_', 'keras')) for name in sys.modules)\n"
        "print(schema.parse(text)[0].task)\n"
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


@pytest.fixture
def apart():
    """After the test the tables of tasks are as they were before it."""
    tables = [(table, dict(table)) for table in (SETTINGS, TASKS)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)


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
    with pytest.raises(kzoo.UserError, match=rf"task name '{kind}' is claimed by {first} \(.*\) and by {second} \(.*uninstall"):
        registry.settings_class(kind)
    assert override(BASE, {"task.kind": "classify"}) == BASE


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_of_this_name", "fails when imported .ModuleNotFoundError: No module named 'nothing_of_this_name'"),
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
