"""The conformance list over other families and tasks than ours: structures in and out, and what breaks a promise is
told.
"""

import re
import types

import keras
import numpy as np
import pytest

import kzoo
from kzoo import checking
from kzoo.checking import CheckFailed, checks_of
from kzoo.errors import UsageError
from kzoo.schema import Detect
from kzoo.tasks import make
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


@pytest.mark.slow
def test_a_detector_whose_boxes_are_not_learnt_is_told():
    task = make(Detect(loss_bbox=0.0, loss_giou=0.0))
    task.overfit_steps = 40
    told = "after 40 steps on one batch its AP50 is 0.*, not 0.95: it does not learn the boxes .of 9 objects "
    with pytest.raises(CheckFailed, match=told):
        checking.overfits("detr_toy", task)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("labels", "the classes .of 8 objects 5 are named rightly by their queries and 8 overlapped by half, and 0"),
        ("boxes", "the boxes .of 8 objects 8 are named rightly by their queries and 5 overlapped by half, and 0"),
        ("both", "the classes and the boxes .of 8 objects 5 are named rightly by their queries and 5 overlapped"),
        ("others", "the classes .of 8 objects 8 are named rightly by their queries and 8 overlapped by half, and 3"),
    ],
    ids=["classes", "boxes", "both", "others"],
)
def test_the_part_that_a_detector_does_not_learn(wrong, told):
    """Of two pictures of four objects, which the first of six queries find but for three, by name, box or both."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0.3, 0.7, (2, 6, 2)), rng.uniform(0.1, 0.2, (2, 6, 2))], 2).astype("float32")
    labels, valid = rng.integers(0, 3, (2, 6)).astype("int32"), np.tile(np.arange(6) < 4, (2, 1))
    y, found, named = (
        {"boxes": boxes.copy(), "labels": labels, "valid": valid},
        boxes.copy(),
        np.where(valid, labels, 3),
    )
    rows, objects = np.array([0, 0, 1]), np.array([0, 2, 1])
    if wrong in ("labels", "both"):
        named[rows, objects] = (labels[rows, objects] + 1) % 3
    if wrong in ("boxes", "both"):
        found[rows, objects, 2:] *= 0.6
    if wrong == "others":
        named[[0, 0, 1], [4, 5, 4]] = 1
    outputs = {"logits": 4 * np.eye(4, dtype="float32")[named], "boxes": found}
    view, task = types.SimpleNamespace(network=lambda x, training: outputs), make(Detect())
    assert task.unlearnt(view, ({}, y), [{"ap50": 0.96}]) == ""
    assert task.unlearnt(view, ({}, y), [{"ap50": 0.5}]) == "after 1 steps on one batch its AP50 is 0.50, not 0.95"
    sentence = task.unlearnt(view, ({}, y), [{"ap50": 0.5}] * 300)
    assert re.search(f"after 300 steps .* it does not learn {told}", sentence), sentence


def test_a_task_names_its_own_checks():
    task = Classify()
    names = [[check.__name__ for check in checks_of(task, model)] for model in (True, False)]
    assert set(names[0]) - set(names[1]) >= {"build", "export_onnx"} and names[1] == names[0][-5:]
    assert names[1] == ["gradients", "xla_step", "bfloat16", "heads", "overfits"]
    task.checks = ("overfit",)
    with pytest.raises(UsageError, match="unknown check of the task classify 'overfit'; did you mean overfits"):
        checks_of(task)
