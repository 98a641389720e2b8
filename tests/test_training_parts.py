"""The engine's parts against torch, NumPy in float64 and scikit-learn: losses, metrics, the task in `fit`."""

import keras
import numpy as np
import pytest
import sklearn.metrics
import torch

import kzoo
from kzoo.errors import UsageError, UserError
from kzoo.keras_private import compiled_as
from kzoo.schema import Classify, Data, Optim, Recipe
from kzoo.tasks import make
from kzoo.tasks.views.classify import LOSSES, binary_cross_entropy, binary_cross_entropy_sum, cross_entropy, valid
from kzoo.training.optimizer import updates, wants_xla
from tests.equality import XLA
from tests.torch_reference import import_timm

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(5, 6, 4)).astype("float32"), RNG.integers(0, 3, (5, 6)).astype("int32")


def tiny():
    """Two layers with kernels, biases and norms, from fixed values."""
    keras.utils.set_random_seed(3)
    first, last = keras.layers.Dense(7, activation="tanh", name="first"), keras.layers.Dense(3, name="last")
    return keras.Sequential([keras.Input((4,)), first, keras.layers.LayerNormalization(name="norm"), last])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_torch(smoothing):
    logits, labels = RNG.normal(size=(9, 5)).astype("float32") * 4, RNG.integers(0, 5, 9)
    soft = RNG.dirichlet(np.ones(5), 9).astype("float32")
    for targets, theirs in ((labels.astype("int32"), torch.tensor(labels)), (soft, torch.tensor(soft))):
        ours = keras.ops.convert_to_numpy(cross_entropy(keras.ops.array(logits), keras.ops.array(targets), smoothing))
        reference = torch.nn.functional.cross_entropy(
            torch.tensor(logits), theirs, label_smoothing=smoothing, reduction="none"
        )
        np.testing.assert_allclose(ours, reference.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_losses_equal_timm(smoothing):
    timm_loss = import_timm("timm.loss").BinaryCrossEntropy
    logits, labels = RNG.normal(size=(9, 5)).astype("float32") * 30, RNG.integers(0, 5, 9)
    for loss, sums in ((binary_cross_entropy, False), (binary_cross_entropy_sum, True)):
        ours = keras.ops.convert_to_numpy(
            loss(keras.ops.array(logits), keras.ops.array(labels.astype("int32")), smoothing)
        )
        theirs = timm_loss(smoothing=smoothing, reduction="mean", sum_classes=sums)(
            torch.tensor(logits), torch.tensor(labels)
        )
        assert ours.shape == (9,) and float(ours.mean()) == pytest.approx(float(theirs), rel=1e-5)


def test_a_threshold_counts_mixed_classes_whole_as_timm_does():
    model, soft = tiny(), RNG.dirichlet(np.ones(3), 6).astype("float32")
    task = kzoo.task(model, loss="binary_cross_entropy", target_threshold=0.3)
    task.compile(optimizer="sgd", jit_compile=False)
    ours = task.test_on_batch(X[0], soft, return_dict=True)["loss"]
    logits = torch.tensor(np.asarray(model.predict_on_batch(X[0])))
    theirs = import_timm("timm.loss").BinaryCrossEntropy(smoothing=0.0, target_threshold=0.3)(
        logits, torch.tensor(soft)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


NONE = [  # (loss, targets, of the three classes of tiny(), what is said)
    (
        "cross_entropy",
        [0, 1, 3, 2, 1, 0],
        r"target 2 is 3\.0; the model has 3 logits, so a label is a whole number from 0 to 2",
    ),
    ("cross_entropy", [0, -1, 2, 2, 1, 0], "target 1 is -1"),
    ("binary_cross_entropy", [0, 1, 2, 2, 1, 0.7], "target 5 is 0.7"),
    ("cross_entropy", [0, 1, np.nan, 2, 1, 0], "target 2 is nan"),
    ("cross_entropy", [[0.5, 0.5, 0.5]] * 6, r"target 0 is \[0.5 0.5 0.5\]; .* sum to 1"),
    ("cross_entropy", [[1.5, -0.5, 0]] * 6, r"3 probabilities in 0\.\.1"),
    ("binary_cross_entropy_sum", [[0, 0, 1.0]] * 5 + [[0, 0, 7]], "target 5"),
]


class Batches(keras.utils.PyDataset):
    """One batch, whose targets only the compiled step sees."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return self.batch


def ready(model, jit_compile=False, **options):
    task = kzoo.task(model, **options)
    task.compile(optimizer="sgd", jit_compile=jit_compile)
    return task


def fitted(model, *data, **options):
    return {key: values[-1] for key, values in model.fit(*data, shuffle=False, verbose=0, **options).history.items()}


@pytest.mark.parametrize(("loss", "targets", "words"), NONE)
def test_targets_that_are_none_are_refused(loss, targets, words):
    task, targets = ready(tiny(), loss=loss), np.float32(targets)
    for call in (
        lambda: task.fit(X[0], targets, verbose=0),
        lambda: task.fit(X[0], Y[0], validation_data=(X[0], targets)),
        lambda: task.evaluate(X[0], targets, verbose=0),
        lambda: task.train_on_batch(X[0], keras.ops.convert_to_tensor(targets)),
        lambda: task.test_on_batch(X[0], list(targets)),
    ):
        with pytest.raises(UserError, match=words):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("xla", XLA)
def test_targets_that_are_none_make_the_loss_of_a_compiled_step_nan(xla):
    """Of both kinds: a label that is none, probabilities that are none; those of weight 0 may be anything, and change
    nothing.
    """
    task, labels, weights = ready(tiny(), xla), np.int32([0, 1, 2, 2, 1, 3]), np.float32([1, 1, 1, 1, 1, 0])
    assert np.isfinite(fitted(task, Batches(X[0], labels, weights))["loss"])
    assert all(np.isfinite(w).all() for w in task.get_weights())
    for targets in (labels, np.float32([[0.5, 0.25, 0.25]] * 5 + [[0.5, 0.5, 0.5]])):
        assert np.isnan(fitted(task, Batches(X[0], targets))["loss"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_mixed_and_smoothed_targets_of_any_precision_are_some(dtype):
    soft = RNG.dirichlet(np.ones(1000), 64)
    mixed = (0.7 * np.eye(1000)[RNG.integers(0, 1000, 64)] + 0.3 * np.eye(1000)[RNG.integers(0, 1000, 64)]).astype(
        dtype
    )
    for targets in (soft.astype(dtype), mixed, np.full((2, 1000), 1e-3, dtype)):
        assert keras.ops.convert_to_numpy(valid(keras.ops.convert_to_tensor(targets), 1000)).all()


def test_targets_that_would_only_broadcast_are_refused():
    with pytest.raises(UserError, match="labels"):
        cross_entropy(keras.ops.zeros((4, 3)), keras.ops.zeros((4, 1)))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_logit_is_keras_binary_question(loss):
    """Labels as they are, of both shapes; smoothing, the threshold of the accuracy at 0; a label of 2 is none."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    task, labels = ready(model, loss=loss, label_smoothing=0.1), np.int32(X[0, :, 0] > 0)
    reference = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    logits = model.predict_on_batch(X[0])
    for targets in (labels, np.float32(labels)[:, None]):
        found = task.test_on_batch(X[0], targets, return_dict=True)
        assert float(found["loss"]) == pytest.approx(float(reference(labels[:, None], logits)), rel=1e-5)
        assert float(found["accuracy"]) == pytest.approx(float(np.mean((logits[:, 0] > 0) == labels)))
        task.reset_metrics()
    exact = measure(logits, labels)
    assert exact["accuracy"] == pytest.approx(np.mean((logits[:, 0] > 0) == labels))
    assert exact["loss"] == pytest.approx(
        sklearn.metrics.log_loss(labels, 1 / (1 + np.exp(-np.float64(logits[:, 0])))), rel=1e-6
    )
    with pytest.raises(UserError, match="from 0 to 1"):
        task.evaluate(X[0], labels + 1)


def measure(logits, labels, rows=None):
    """The figures of a stream of batches of so many rows, by default of one batch."""
    meter, rows = make(Classify()).meter(None, None), rows or len(labels)
    for start in range(0, len(labels), rows):
        batch = labels[start : start + rows]
        meter.update(logits[start : start + rows], batch, np.full(len(batch), True))
    return meter.result()


def test_figures_do_not_depend_on_the_batches():
    logits, labels = np.float32(RNG.normal(size=(1000, 8)) * 3), RNG.integers(0, 8, 1000)
    assert measure(logits, labels, 7) == measure(logits, labels, 64) == measure(logits, labels)
    meter = make(Classify()).meter(None, None)
    meter.update(logits, labels, np.arange(1000) < 900)  # the others are padding
    assert meter.result() == measure(logits[:900], labels[:900])


def test_metrics_equal_scikit_learn():
    logits, labels = RNG.normal(size=(200, 8)) * 3, RNG.integers(0, 8, 200)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours = measure(logits, labels)
    assert ours["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1)), abs=1e-12)
    assert ours["top5_accuracy"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, logits, k=5), abs=1e-12)
    assert ours["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), abs=1e-9)
    assert "top5_accuracy" not in measure(logits[:, :5], labels % 5)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_model_that_says_nothing_is_no_expert(value):
    metrics = measure(np.full((6, 20), value), np.arange(6))
    assert metrics["accuracy"] == 0 and metrics["top5_accuracy"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [12, 4, 1])
def test_weights_weigh_as_keras_own(batch_size):
    """Sample weights and class weights, in training and evaluation, whatever the batch."""
    x, y, weights = X.reshape(-1, 4)[:12], Y.reshape(-1)[:12], np.linspace(0, 5, 12).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs = tiny()
    theirs.compile(optimizer="sgd", loss=loss, weighted_metrics=["accuracy"], jit_compile=False)
    ours = ready(tiny())
    for call in (
        lambda model: model.evaluate(x, y, batch_size=batch_size, sample_weight=weights, verbose=0, return_dict=True),
        lambda model: fitted(model, x, y, batch_size=batch_size, sample_weight=weights),
        lambda model: fitted(model, x, y, batch_size=batch_size, class_weight={0: 1.0, 1: 5.0, 2: 0.5}),
    ):
        assert call(ours) == pytest.approx(call(theirs), rel=1e-4)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_task_trains_a_users_own_model_with_fit():
    model = tiny()
    before = model.get_weights()
    task = kzoo.task(model, label_smoothing=0.1)
    task.compile(optimizer=keras.optimizers.Adam(0.05))
    x, y = X.reshape(-1, 4), (X.reshape(-1, 4)[:, 0] > 0).astype("int32")
    history = task.fit(x, y, validation_data=(x, y), batch_size=10, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert {"accuracy", "loss", "val_accuracy", "val_loss"} <= set(history)
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    np.testing.assert_array_equal(task.predict(x, verbose=0).argmax(1) == y, model.predict(x, verbose=0).argmax(1) == y)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smothing": 0.1}, "label_smoothing"),
        ({"label_smoothing": 1.0}, r"\[0, 1\)"),
        ({"loss": "bce"}, "cross_entropy"),
        ({"kind": "clasify"}, "did you mean classify"),
    ],
)
def test_wrong_options_of_a_task_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        kzoo.task(tiny(), **options)


@pytest.mark.parametrize("jit", [True, False])
def test_the_step_says_what_it_is(jit):
    task = kzoo.task(tiny())
    task.compile(optimizer="sgd", jit_compile=jit and keras.backend.backend() != "torch")
    task.train_on_batch(X[0], Y[0])
    words = {"tensorflow": ("xla", "graph"), "jax": ("xla", "eager"), "torch": ("not applicable (torch)",) * 2}
    assert compiled_as(task) == words[keras.backend.backend()][not jit]


@pytest.mark.parametrize(("xla", "wanted"), [("required", True), ("off", False)])
def test_xla_policy(xla, wanted):
    assert wants_xla(Recipe(model="vit_toy", xla=xla)) == (wanted and keras.backend.backend() != "torch")


def test_a_run_too_short_for_one_update_is_refused(tmp_path):
    recipe = Recipe(model="vit_toy", steps=3, optim=Optim(accumulate=4), data=Data(batch_size=4))
    assert (updates(recipe, 4), updates(recipe, 11)) == (1, 2)
    with pytest.raises(UserError, match="optim.accumulate=4 gathers more batches than the 3 of the run"):
        kzoo.train(recipe, tmp_path / "run")
