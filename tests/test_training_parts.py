"""The engine's parts against torch, NumPy in float64 and scikit-learn: optimizers, schedule, loss, metrics, the task in `fit`."""

import keras
import numpy as np
import pytest
import sklearn.metrics
import torch

import kzoo
from kzoo.errors import UsageError, UserError
from kzoo.schema import Optim, Recipe, Schedule
from kzoo.tasks.classify import cross_entropy, measure
from kzoo.training.optimizer import averages, compiled_as, learning_rate, make_optimizer, undecayed, wants_xla

pytestmark = pytest.mark.backends
RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(5, 6, 4)).astype("float32"), RNG.integers(0, 3, (5, 6)).astype("int32")


def tiny():
    """Two layers with kernels, biases and norms, from fixed values."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(7, activation="tanh"), keras.layers.LayerNormalization(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((4,)), *layers])


def train_keras(recipe, steps_per_epoch=5):
    """(weights, averages or None) after a step on each batch, through the task and the recipe's own optimizer."""
    model = tiny()
    task = kzoo.task(model, label_smoothing=recipe.label_smoothing)
    schedule = learning_rate(recipe, steps_per_epoch, len(X))
    task.compile(optimizer=make_optimizer(recipe, schedule, model), jit_compile=False)
    for x, y in zip(X, Y, strict=True):
        task.train_on_batch(x, y)
    mean = averages(task.optimizer)
    convert = keras.ops.convert_to_numpy
    return model.get_weights(), None if mean is None else [convert(v) for v in mean]


def torch_twin():
    weights = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in tiny().get_weights()]

    def loss(x, y, smoothing):
        k1, b1, gamma, beta, k2, b2 = weights
        hidden = torch.nn.functional.layer_norm(torch.tanh(torch.tensor(x).double() @ k1 + b1), (7,), gamma, beta, 1e-3)
        return torch.nn.functional.cross_entropy(hidden @ k2 + b2, torch.tensor(y).long(), label_smoothing=smoothing)

    return weights, loss


def rate(step, peak, warmup, total, start=0.0, end=0.0):
    """Linear warm-up, then the cosine, by the formula."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    return end + (peak - end) * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
def test_adamw_with_everything_equals_torch(clip):
    optim = Optim(lr=0.02, weight_decay=0.3, beta_2=0.99, clip_norm=clip, ema=0.7)
    recipe = Recipe(model="vit_toy", optim=optim, schedule=Schedule(warmup_steps=2, warmup_from=0.001, min_lr=0.002), label_smoothing=0.1)
    weights, mean = train_keras(recipe)
    twins, loss = torch_twin()
    decayed, rest = [w for w in twins if w.ndim > 1], [w for w in twins if w.ndim <= 1]
    reference = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.99), weight_decay=0.3)
    average = None
    for step, (x, y) in enumerate(zip(X, Y, strict=True)):
        for group in reference.param_groups:
            group["lr"] = rate(step, 0.02, 2, 5, 0.001, 0.002)
        reference.zero_grad()
        loss(x, y, 0.1).backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_(twins, clip) > clip, "nothing was clipped: the test shows nothing"
        reference.step()
        now = [w.detach().numpy().copy() for w in twins]
        average = now if average is None else [0.7 * a + 0.3 * w for a, w in zip(average, now, strict=True)]
    for ours, theirs in zip(weights + mean, [w.detach().numpy() for w in twins] + average, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(nesterov):
    """At a constant rate, where torch's momentum and Keras' (which carries the rate within) are one; the decay is decoupled."""
    peak, decay = 0.05, 0.2
    recipe = Recipe(
        model="vit_toy",
        optim=Optim(name="sgd", lr=peak, weight_decay=decay, nesterov=nesterov, clip_norm=None),
        schedule=Schedule(min_lr=peak),
    )
    weights, mean = train_keras(recipe)
    assert mean is None
    twins, loss = torch_twin()
    reference = torch.optim.SGD(twins, lr=peak, momentum=0.9, nesterov=nesterov)
    for x, y in zip(X, Y, strict=True):
        reference.zero_grad()
        loss(x, y, 0.0).backward()
        with torch.no_grad():
            for twin in twins:
                twin.mul_(1 - peak * decay if twin.ndim > 1 else 1.0)
        reference.step()
    for ours, theirs in zip(weights, twins, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "steps_per_epoch", "total", "warmup"),
    [
        (Schedule(), 4, 8, 0),
        (Schedule(warmup_epochs=1.5, min_lr=1e-4), 4, 20, 6),
        (Schedule(warmup_steps=3, warmup_epochs=9, warmup_from=1e-3), 4, 12, 3),
        (Schedule(warmup_epochs=5), 4, 8, 4),  # at most half of the run
        (Schedule(warmup_steps=10), 1, 1, 0),
    ],
)
def test_schedule_equals_the_formula(schedule, steps_per_epoch, total, warmup):
    ours = learning_rate(Recipe(model="vit_toy", optim=Optim(lr=1), schedule=schedule), steps_per_epoch, total)
    expected = [rate(step, 1.0, warmup, total, schedule.warmup_from, schedule.min_lr) for step in range(total)]
    np.testing.assert_allclose([float(ours(step)) for step in range(total)], expected, atol=1e-6)


def test_decay_leaves_out_vectors_tokens_and_tables():
    model = kzoo.get("vit_toy")
    left_out = {weight.path for weight in undecayed(model)}
    decayed = {weight.path for weight in model.trainable_weights} - left_out
    assert {"cls_token/token", "pos_embed/table"} <= left_out
    assert decayed and all(path.endswith("/kernel") for path in decayed)
    assert not any(path.endswith("/kernel") for path in left_out)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_torch(smoothing):
    logits, labels = RNG.normal(size=(9, 5)).astype("float32") * 4, RNG.integers(0, 5, 9)
    soft = RNG.dirichlet(np.ones(5), 9).astype("float32")
    for targets, theirs in ((labels.astype("int32"), torch.tensor(labels)), (soft, torch.tensor(soft))):
        ours = keras.ops.convert_to_numpy(cross_entropy(keras.ops.array(logits), keras.ops.array(targets), smoothing))
        reference = torch.nn.functional.cross_entropy(torch.tensor(logits), theirs, label_smoothing=smoothing, reduction="none")
        np.testing.assert_allclose(ours, reference.numpy(), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize(("options", "words"), [({"label_smothing": 0.1}, "label_smoothing"), ({"label_smoothing": 1.0}, r"\[0, 1\)")])
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
