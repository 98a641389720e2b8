"""The detection loss with its matching, all layers, against the paper's formulas in float64 with SciPy's assignment, and
against transformers' loss and its gradient.
"""

import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops

from benchmarks.match import compiled
from kzoo.errors import UsageError
from kzoo.schema import Detect
from kzoo.tasks.views.detect import DetectView, match, matching_cost, targets_of
from tests.test_boxes import overlaps
from tests.test_packaging import ROOT
from tests.torch_reference import import_timm

pytestmark = pytest.mark.backends
LAYERS, BATCH, QUERIES, CLASSES, ROOM = 3, 4, 7, 5, 6


def example(seed=0, room=ROOM):
    """(outputs of all layers, targets): pictures of 2, 0, `room` and 1 objects, the rest of the targets rubbish."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(BATCH, LAYERS, QUERIES, CLASSES + 1)).astype("float32") * 2
    boxes = 1 / (1 + np.exp(-rng.normal(size=(BATCH, LAYERS, QUERIES, 4)))).astype("float32")
    sides = rng.uniform(0.05, 0.4, (BATCH, room, 2))
    targets = {
        "boxes": np.concatenate([rng.uniform(0.2, 0.8, sides.shape), sides], axis=-1).astype("float32"),
        "labels": rng.integers(0, CLASSES, (BATCH, room)).astype("int32"),
        "valid": np.arange(room) < np.array([[2], [0], [room], [1]]),
    }
    targets["labels"][~targets["valid"]] = -7
    targets["boxes"][~targets["valid"]] = np.nan
    return split(logits, boxes), targets


def split(logits, boxes):
    """The outputs of a detector, of arrays of all layers (B, L, ...)."""
    return {"logits": logits[:, -1], "boxes": boxes[:, -1], "aux_logits": logits[:, :-1], "aux_boxes": boxes[:, :-1]}


def layer(outputs, number):
    """(logits, boxes) of one layer, from 0, float64."""
    found = [np.concatenate([outputs[f"aux_{name}"], outputs[name][:, None]], axis=1) for name in ("logits", "boxes")]
    return [each[:, number].astype("float64") for each in found]


def corners(box):
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def giou(one, two):
    return overlaps(corners(one), corners(two))[1]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def reference(outputs, targets, number, settings):
    """{"loss_ce", "loss_bbox", "loss_giou", "cost", "cardinality"} of one layer, picture by picture, in float64."""
    logits, boxes = layer(outputs, number)
    ce = weights = l1 = far = paid = wrong = 0.0
    for scores, predicted, wanted, labels, valid in zip(logits, boxes, *(targets[k] for k in targets), strict=True):
        wanted, labels, logs = wanted[valid].astype("float64"), labels[valid], log_softmax(scores)
        cost = np.zeros((len(labels), QUERIES))
        for t, (box, label) in enumerate(zip(wanted, labels, strict=True)):
            for q in range(QUERIES):
                cost[t, q] = -settings.cost_class * np.exp(logs[q, label])
                cost[t, q] += settings.cost_bbox * np.abs(box - predicted[q]).sum()
                cost[t, q] -= settings.cost_giou * giou(box, predicted[q])
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        classes = np.full(QUERIES, CLASSES)
        classes[columns] = labels[rows]
        weight = np.where(classes == CLASSES, settings.no_object, 1.0)
        ce, weights = ce - (weight * logs[np.arange(QUERIES), classes]).sum(), weights + weight.sum()
        l1 += np.abs(wanted[rows] - predicted[columns]).sum()
        far += sum(1 - giou(wanted[t], predicted[q]) for t, q in zip(rows, columns, strict=True))
        paid += cost[rows, columns].sum()
        wrong += abs((scores.argmax(-1) != CLASSES).sum() - len(labels))
    count = max(targets["valid"].sum(), 1)
    return {
        "loss_ce": ce / weights,
        "loss_bbox": l1 / count,
        "loss_giou": far / count,
        "cost": paid / count,
        "cardinality": wrong / len(logits),
    }


def whole(layers, settings):
    """The loss of all layers' references."""
    return sum(getattr(settings, name) * one[name] for one in layers for name in ("loss_ce", "loss_bbox", "loss_giou"))


class Offset(keras.layers.Layer):
    """Adds a weight of the input's shape, zeros: its gradient is the input's."""

    def build(self, shape):
        self.offset = self.add_weight(shape=shape, initializer="zeros", name="offset")

    def call(self, x):
        return x + self.offset


def view_of(settings, layers=LAYERS, rows=None, rate=0.0, xla=True):
    """A view whose network gives out its inputs, plus offsets that it learns by plain gradient descent: of each picture
    of a batch of `rows`, else one of all.
    """
    shapes = {"logits": (QUERIES, CLASSES + 1), "boxes": (QUERIES, 4)}
    if layers > 1:
        shapes |= {f"aux_{name}": (layers - 1, *shape) for name, shape in shapes.items()}
    inputs = {name: keras.Input(shape, rows, name=name) for name, shape in shapes.items()}
    outputs = {}
    for name, x in inputs.items():
        offset = Offset(name=f"offset_{name}")
        offset.build((rows or 1, *shapes[name]))
        outputs[name] = offset(x)
    view = DetectView(keras.Model(inputs, outputs), settings)
    view.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=xla and keras.backend.backend() != "torch")
    return view


def logs(view, outputs, targets, weights=None):
    return {
        name: float(value)
        for name, value in view.test_on_batch(outputs, targets, sample_weight=weights, return_dict=True).items()
    }


SETTINGS = [Detect(), Detect(no_object=0.4, cost_class=2.0, cost_bbox=1.0, cost_giou=3.0, loss_ce=2.0, loss_giou=0.5)]


@pytest.mark.parametrize("settings", SETTINGS, ids=["paper", "other"])
def test_the_loss_and_its_terms_equal_the_formulas(settings):
    outputs, targets = example()
    layers = [reference(outputs, targets, number, settings) for number in range(LAYERS)]
    told = logs(view_of(settings), outputs, targets)
    assert 0 <= told.pop("ap50") <= 1  # which has a test of its own
    expected = {name: layers[-1][name] for name in ("loss_ce", "loss_bbox", "loss_giou")}
    expected |= {f"matching_cost_{n + 1}": one["cost"] for n, one in enumerate(layers)}
    expected |= {"cardinality_error": layers[-1]["cardinality"], "loss": whole(layers, settings)}
    expected |= {"loss_aux": whole(layers[:-1], settings)}
    assert told == pytest.approx(expected, rel=2e-5)


def test_auxiliary_layers_may_be_left_out_or_absent():
    outputs, targets = example(1)
    expected = whole([reference(outputs, targets, LAYERS - 1, Detect())], Detect())
    told = logs(view_of(Detect(aux_loss=False)), outputs, targets)
    assert told["loss"] == pytest.approx(expected, rel=2e-5) and "loss_aux" not in told
    last = {name: outputs[name] for name in ("logits", "boxes")}
    assert logs(view_of(Detect(), layers=1), last, targets) == pytest.approx(told)


def test_pictures_without_objects_give_a_finite_loss():
    outputs, targets = example(2)
    targets["valid"][:] = False
    told = logs(view_of(Detect()), outputs, targets)
    layers = [reference(outputs, targets, number, Detect()) for number in range(LAYERS)]
    assert told["loss"] == pytest.approx(whole(layers, Detect()), rel=2e-5)
    assert told["loss_bbox"] == told["loss_giou"] == told["matching_cost_1"] == 0.0


def test_a_sample_weight_weighs_a_pictures_terms():
    outputs, targets = example(3)
    alone = [np.eye(BATCH, dtype="float32")[n] for n in range(BATCH)]
    view = view_of(Detect())
    parts = []
    for weights in (*alone, np.array([2.0, 0.0, 0.5, 1.0], "float32"), None):
        view.reset_metrics()
        parts.append(logs(view, outputs, targets, weights)["loss"])
    *each, weighed, plain = parts
    assert sum(each) == pytest.approx(plain, rel=1e-5)
    assert 2 * each[0] + 0.5 * each[2] + each[3] == pytest.approx(weighed, rel=1e-5)


def test_a_label_that_is_no_class_makes_the_loss_nan():
    outputs, targets = example(7)
    view = view_of(Detect())
    for label, weights, wanted in ((CLASSES, None, True), (-1, None, True), (CLASSES, np.eye(4)[1], False)):
        targets["labels"][0, 1] = label
        view.reset_metrics()
        assert np.isnan(logs(view, outputs, targets, weights)["loss"]) == wanted


def test_equal_to_transformers_and_its_gradient():
    """The gradient of the whole loss with respect to every layer's logits and boxes."""
    import torch

    theirs = import_timm("transformers.loss.loss_for_object_detection").ForObjectDetectionLoss
    config = types.SimpleNamespace(
        **{"class_cost": 1, "bbox_cost": 5, "giou_cost": 2, "num_labels": CLASSES, "eos_coefficient": 0.1},
        **{"auxiliary_loss": True, "bbox_loss_coefficient": 5, "giou_loss_coefficient": 2, "decoder_layers": LAYERS},
    )
    outputs, targets = example(4)
    logits, boxes = (
        np.concatenate([outputs[f"aux_{name}"], outputs[name][:, None]], axis=1) for name in ("logits", "boxes")
    )
    given = [torch.tensor(each, requires_grad=True) for each in (logits, boxes)]
    labels = [
        {"class_labels": torch.tensor(label[valid]).long(), "boxes": torch.tensor(box[valid])}
        for box, label, valid in zip(*(targets[k] for k in targets), strict=True)
    ]
    stacked = [torch.swapaxes(each, 0, 1) for each in given]
    loss, parts, _ = theirs(stacked[0][-1], labels, "cpu", stacked[1][-1], config, *stacked)
    loss.backward()

    view = view_of(Detect(), rows=BATCH, rate=1.0)
    told = {name: float(value) for name, value in view.train_on_batch(outputs, targets, return_dict=True).items()}
    assert told["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        assert told[name] == pytest.approx(parts[name].item(), rel=1e-5)
    moved = {w.path.removeprefix("offset_").split("/")[0]: ops.convert_to_numpy(w) for w in view.trainable_weights}
    for name, each in zip(("logits", "boxes"), given, strict=True):
        found = -np.concatenate([moved[f"aux_{name}"], moved[name][:, None]], axis=1)
        np.testing.assert_allclose(found, each.grad.numpy(), atol=1e-6)
        assert np.abs(found).max(axis=(0, 2, 3)).min() > 1e-2  # every layer has some


def test_every_layer_is_matched_by_itself():
    outputs, targets = example(5)
    logits, boxes = (
        np.concatenate([outputs[f"aux_{name}"], outputs[name][:, None]], axis=1) for name in ("logits", "boxes")
    )

    def matched(logits, boxes):
        wanted = targets_of(targets, CLASSES)
        return match(matching_cost(logits, boxes, wanted), wanted["valid"])

    solve = compiled(matched, keras.backend.backend())
    together = ops.convert_to_numpy(solve(logits, boxes))
    apart = [ops.convert_to_numpy(solve(logits[:, n : n + 1], boxes[:, n : n + 1])) for n in range(LAYERS)]
    np.testing.assert_array_equal(together, np.concatenate(apart, axis=1))
    assert (apart[0] != apart[1]).any()


def test_more_room_than_queries_is_refused():
    outputs, targets = example(6, room=QUERIES + 1)
    with pytest.raises(UsageError, match="8 targets .* 7"):
        logs(view_of(Detect()), outputs, targets)


DEVICES = """
import contextlib, json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.test_detect_loss import BATCH, Detect, example, view_of
two = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
told = []
for scope in (contextlib.nullcontext(), two.scope()):
    with scope:
        view = view_of(Detect(), rate=0.1, xla=False)
        told.append(view.fit(*example(), batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history)
print(json.dumps(told))
"""


@pytest.mark.slow
def test_two_devices_have_the_losses_and_terms_of_one():
    """The pictures of either hold different numbers of objects."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow's replicas see a part of the batch each")
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert one["loss"][-1] < one["loss"][0] - 0.1 and one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5)
