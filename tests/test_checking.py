"""The conformance list over other families and tasks than ours: structures in and out, and what breaks a promise is
told.
"""

import keras
import pytest

import kzoo
from kzoo import checking
from kzoo.checking import CheckFailed, checks_of
from kzoo.errors import UsageError
from kzoo.tasks.classify import Classify
from tests.test_plugins import plug

FAMILY = """
import kzoo
from keras import Input, layers, ops
from kzoo.models.base import ModelConfig, ZooModel

VARIANTS = {"plugged_pair_toy": ModelConfig(image_size=8)}

@kzoo.register
def build(config):
    inputs = {"image": Input((None, None, config.in_channels), name="image"), "mask": Input((None, None), name="mask")}
    masked = layers.Multiply(name="masked")([inputs["image"], layers.Reshape((*config.size, 1), name="shaped")(inputs["mask"])])
    found = layers.Conv2D(4, 3, padding="same", name="stem")(masked)
    return ZooModel(inputs, {"pooled": layers.GlobalAveragePooling2D(name="pool")(found), "map": [found]}, name="plugged_pair")
"""


@pytest.mark.backends
def test_dictionaries_in_and_structures_out(tmp_path, seen):
    plug(tmp_path, "plugged-pair", "plugged_pair", FAMILY)
    seen(tmp_path)
    (inputs,) = {tuple((name, array.shape) for name, array in checking._inputs(kzoo.get("plugged_pair_toy")).items())}
    assert inputs == (("image", (2, 8, 8, 3)), ("mask", (2, 8, 8)))
    for check in (checking.build, checking.reload, checking.sizes, checking.channels):
        assert check("plugged_pair_toy", Classify()) is None
    assert checking.features("plugged_pair_toy", Classify()) == "it announces no feature maps"


class Idle(Classify):
    """With a layer of the view's own that nothing reaches."""

    def view(self, network):
        view = super().view(network)
        view.idle = keras.layers.Dense(1, name="idle")
        view.idle.build((None, 2))
        return view


class Constant(Classify):
    """With a loss of 1, whatever the network gives."""

    def view(self, network):
        view = super().view(network)
        view.compute_loss = lambda x, y, y_pred, sample_weight=None, training=True: keras.ops.mean(y_pred) * 0 + 1
        return view


@pytest.mark.backends
def test_a_task_that_breaks_a_promise_is_told():
    with pytest.raises(CheckFailed, match="^no gradient reaches idle/kernel, idle/bias$"):
        checking.gradients("vit_toy", Idle())
    with pytest.raises(CheckFailed, match="20 steps on one batch bring its loss from 1 to 1, no lower"):
        checking.overfits("vit_toy", Constant())


def test_a_task_names_its_own_checks():
    task = Classify()
    names = [[check.__name__ for check in checks_of(task, model)] for model in (True, False)]
    assert set(names[0]) - set(names[1]) >= {"build", "export_onnx"} and names[1] == names[0][-5:]
    assert names[1] == ["gradients", "xla_step", "bfloat16", "heads", "overfits"]
    task.checks = ("overfit",)
    with pytest.raises(UsageError, match="unknown check of the task classify 'overfit'; did you mean overfits"):
        checks_of(task)
