"""The engine's parts against torch, NumPy in float64 and scikit-learn: losses, metrics, the task in `fit`."""

import keras
import numpy as np
import pytest
import sklearn.metrics
import torch

import kzoo
from kzoo.errors import UsageError, UserError
from kzoo.schema import Recipe
from kzoo.tasks.classify import binary_cross_entropy, binary_cross_entropy_sum, cross_entropy, measure
from kzoo.training.optimizer import compiled_as, wants_xla
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
        reference = torch.nn.functional.cross_entropy(torch.tensor(logits), theirs, label_smoothing=smoothing, reduction="none")
        np.testing.assert_allclose(ours, reference.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_losses_equal_timm(smoothing):
    timm_loss = import_timm("timm.loss").BinaryCrossEntropy
    logits, labels = RNG.normal(size=(9, 5)).astype("float32") * 30, RNG.integers(0, 5, 9)
    for loss, sums in ((binary_cross_entropy, False), (binary_cross_entropy_sum, True)):
        ours = keras.ops.convert_to_numpy(loss(keras.ops.array(logits), keras.ops.array(labels.astype("int32")), smoothing))
        theirs = timm_loss(smoothing=smoothing, reduction="mean", sum_classes=sums)(torch.tensor(logits), torch.tensor(labels))
        assert ours.shape == (9,) and float(ours.mean()) == pytest.approx(float(theirs), rel=1e-5)


def test_a_threshold_counts_mixed_classes_whole_as_timm_does():
    model, soft = tiny(), RNG.dirichlet(np.ones(3), 6).astype("float32")
    task = kzoo.task(model, loss="binary_cross_entropy", target_threshold=0.3)
    task.compile(optimizer="sgd", jit_compile=False)
    ours = task.test_on_batch(X[0], soft, return_dict=True)["loss"]
    logits = torch.tensor(np.asarray(model.predict_on_batch(X[0])))
    theirs = import_timm("timm.loss").BinaryCrossEntropy(smoothing=0.0, target_threshold=0.3)(logits, torch.tensor(soft))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_targets_that_would_only_broadcast_are_refused():
    with pytest.raises(UserError, match="labels"):
        cross_entropy(keras.ops.zeros((4, 3)), keras.ops.zeros((4, 1)))


def test_metrics_equal_scikit_learn():
    logits, labels = RNG.normal(size=(200, 8)) * 3, RNG.integers(0, 8, 200)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours = measure(logits, labels)
    assert ours["images"] == 200
    assert ours["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1)), abs=1e-12)
    assert ours["top5_accuracy"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, logits, k=5), abs=1e-12)
    assert ours["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), abs=1e-9)
    assert "top5_accuracy" not in measure(logits[:, :5], labels % 5)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_model_that_says_nothing_is_no_expert(value):
    metrics = measure(np.full((6, 20), value), np.arange(6))
    assert metrics["accuracy"] == 0 and metrics["top5_accuracy"] == 0


def test_sample_weights_weigh_loss_and_accuracy_alike():
    model = tiny()
    task = kzoo.task(model)
    task.compile(optimizer="sgd", jit_compile=False)
    weights = np.float32([1, 0, 2, 0, 0, 1])
    logits = np.float64(model.predict_on_batch(X[0]))
    ours = task.test_on_batch(X[0], Y[0], sample_weight=weights, return_dict=True)
    each = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(Y[0]).long(), reduction="none").numpy()
    assert float(ours["loss"]) == pytest.approx((each * weights).sum() / 4, rel=1e-5)
    assert float(ours["accuracy"]) == pytest.approx(((logits.argmax(1) == Y[0]) * weights).sum() / 4, rel=1e-5)


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
    [({"label_smothing": 0.1}, "label_smoothing"), ({"label_smoothing": 1.0}, r"\[0, 1\)"), ({"loss": "bce"}, "cross_entropy")],
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
