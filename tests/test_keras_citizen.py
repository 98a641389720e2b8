"""kzoo.task in plain Keras: metrics, losses, callbacks, saving and targets, as a user of Keras expects them."""

import types

import keras
import numpy as np
import pytest
from keras import metrics
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

import kzoo
from kzoo.data.sources import FakeSource
from kzoo.errors import UsageError
from kzoo.schema import Classify, Data
from kzoo.tasks import make
from kzoo.tasks.classify import ClassMeter
from kzoo.tasks.label_meter import LabelMeter
from kzoo.tasks.views.classify import flat

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 8, 8, 3)).astype("float32"), RNG.integers(0, 3, 12)
SEVERAL = (RNG.random((12, 3)) < 0.5).astype("float32")
SEVERAL[:2] = [[0, 0, 0], [1, 1, 1]]
EYE = np.eye(3, dtype="float32")


def made(classes=3, seed=1, ours=False, **options):
    """A classifier whose logits are not all 0: a layer, which compiles at once, or a toy of ours."""
    keras.utils.set_random_seed(seed)
    if not ours:
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model = kzoo.get("vit_toy", image_size=8, patch_size=2, num_classes=classes, **options)
    model.get_layer("head").kernel.assign(np.random.default_rng(seed).normal(size=(32, classes)) / 4)
    return model


def ready(model=None, given=None, **options):
    task = kzoo.task(model or made(), **options)
    task.compile(optimizer="sgd", jit_compile=False, **given or {})
    return task


def told(task, y, x=X, **options):
    return task.evaluate(x, y, verbose=0, return_dict=True, **options)


def shares(logits):
    logits = np.float64(logits)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_metrics_of_keras_stand_beside_the_tasks_own_and_see_probabilities_or_what_they_say():
    task = ready(
        given={
            "metrics": [
                "accuracy",
                "sparse_categorical_accuracy",
                metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
                metrics.SparseCategoricalCrossentropy(name="of_shares"),
                metrics.SparseCategoricalCrossentropy(from_logits=True, name="of_logits"),
            ],
            "weighted_metrics": ["acc"],
        }
    )
    weights = RNG.uniform(0.5, 2, 12)
    found, logits = told(task, Y, sample_weight=weights), np.float64(task.predict(X, verbose=0))
    hit, mean = logits.argmax(1) == Y, -np.log(shares(logits))[np.arange(12), Y].mean()
    assert found["sparse_categorical_accuracy"] == pytest.approx(hit.mean())
    assert found["acc"] == found["accuracy"] == pytest.approx(np.average(hit, weights=weights))
    assert found["top2"] == pytest.approx(
        np.mean([y in np.argsort(-row)[:2] for y, row in zip(Y, logits, strict=True)])
    )
    assert found["of_shares"] == pytest.approx(mean, rel=1e-4) and found["of_logits"] == pytest.approx(mean, rel=1e-5)
    history = task.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0).history
    assert {"accuracy", "top2", "val_top2", "val_of_logits"} <= history.keys()
    assert history["val_of_logits"][1] == pytest.approx(history["val_loss"][1], rel=1e-4)
    assert history["top2"] != history["sparse_categorical_accuracy"]


def test_one_logit_is_judged_by_its_probability():
    given = [
        metrics.AUC(name="auc"),
        metrics.AUC(name="auc_of_logits", from_logits=True),
        metrics.BinaryAccuracy(name="zero", threshold=0.0),
        metrics.Precision(name="precision"),
        "acc",
    ]
    task, y = ready(made(1), {"metrics": given}), Y > 0
    logits = task.predict(X, verbose=0)[:, 0]
    for targets in (y, y[:, None], y.astype("float32")):
        found = told(task, targets)
        right = np.mean((logits > 0) == y)
        assert found["accuracy"] == found["acc"] == found["zero"] == pytest.approx(right) and 0 < right < 1
        assert found["auc"] == pytest.approx(roc_auc_score(y, logits), abs=0.02) == found["auc_of_logits"]
        assert found["precision"] == pytest.approx(y[logits > 0].mean())


def test_two_figures_of_one_name_are_refused():
    for given, words in (
        ([metrics.Mean(name="accuracy")], "a metric is called 'accuracy', a name that the task shows itself"),
        (["acc", metrics.AUC(name="acc")], "'acc', a name that another metric has; give it one of its own"),
        ([metrics.Mean(name="loss")], "name='my_loss'"),
    ):
        with pytest.raises(UsageError, match=words):
            ready(given={"metrics": given})


@pytest.fixture(scope="module")
def refusing():
    """[(a task that brings all its figures, what it is trained on)]."""
    detector, x = kzoo.get("detr_toy", image_size=32), RNG.normal(size=(2, 32, 32, 3)).astype("float32")
    boxes = np.tile(np.float32([0.5, 0.5, 0.4, 0.4]), (2, 3, 1))
    y = {"boxes": boxes, "labels": np.zeros((2, 3), "int32"), "valid": np.ones((2, 3), bool)}
    painter = kzoo.get("mae_toy", image_size=16, patch_size=4)
    return [
        (kzoo.task(detector), ({"image": x, "mask": np.zeros((2, 32, 32), bool)}, y), "loss_giou, .*ap50"),
        (kzoo.task(painter), (x[:, :16, :16], None), "masked brings its own loss and figures .loss."),
    ]


def test_detection_and_masking_refuse_what_they_have_no_use_for(refusing):
    for task, (x, y), figures in refusing:
        for name, value in (
            ("metrics", ["accuracy"]),
            ("weighted_metrics", ["mae"]),
            ("loss", "mse"),
            ("loss_weights", [1.0]),
        ):
            with pytest.raises(UsageError, match=f"{figures}.*leave {name} out of compile"):
                task.compile(optimizer="sgd", **{name: value})
        task.compile(optimizer="sgd", metrics=[], jit_compile=False)
        with pytest.raises(UsageError, match="class_weight weighs the label of a picture, which the task"):
            task.fit(x, y, class_weight={0: 2.0})


def test_callbacks_know_which_way_is_better(refusing, tmp_path):
    def callbacks(figure):
        return [
            keras.callbacks.EarlyStopping(figure, patience=5),
            keras.callbacks.ReduceLROnPlateau(figure),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.weights.h5", figure, save_best_only=True, save_weights_only=True
            ),
        ]

    less = ("loss", "cardinality_error", "loss_giou", "matching_cost_1")
    (detecting, objects, _), (painting, pictures, _) = refusing
    several = kzoo.task(made(), loss="binary_cross_entropy")
    for task, (x, y), directions in (
        (detecting, objects, dict.fromkeys(less, "min") | {"ap50": "max"}),
        (painting, pictures, {"loss": "min"}),
        (kzoo.task(made()), (X, Y), {"val_accuracy": "max", "val_loss": "min", "val_top2": "max"}),
        (several, (X, SEVERAL), {"f1": "max", "val_f1": "max"}),
    ):
        top2 = [metrics.SparseTopKCategoricalAccuracy(2, name="top2")] if "val_top2" in directions else None
        task.compile(optimizer="sgd", metrics=top2, run_eagerly=task is detecting, jit_compile=False)
        given = {figure: callbacks(figure) for figure in directions}
        held_out = {"validation_data": (x, y)} if "val_" in str(directions) else {}
        task.fit(x, y, callbacks=[each for some in given.values() for each in some], verbose=0, **held_out)
        for figure, direction in directions.items():
            better = {"max": keras.ops.greater, "min": keras.ops.less}[direction]
            assert [callback.monitor_op for callback in given[figure]] == [better] * 3, figure
    model = made(ours=True)
    ready(model, loss="binary_cross_entropy").evaluate(X, SEVERAL, verbose=0)
    assert model.config.multilabel  # as targets show that it is: it will serve so


def test_a_loss_given_to_compile_is_the_loss():
    def nearest(y, logits):
        return keras.ops.mean((logits - y) ** 2, axis=-1)

    logits = np.float64(made().predict(X, verbose=0))
    expected = -np.log(shares(logits))[np.arange(12), Y].mean()
    entropy, binary = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy
    bce = np.mean(np.logaddexp(0, logits) - SEVERAL * logits)
    for loss, targets, value in (
        ("sparse_categorical_crossentropy", Y, expected),
        (entropy(from_logits=True), Y[:, None], expected),
        (entropy(), Y, expected),
        ("categorical_crossentropy", EYE[Y], expected),
        (binary(), SEVERAL, bce),
        (binary(from_logits=True), SEVERAL, bce),
        (nearest, SEVERAL, np.mean((logits - SEVERAL) ** 2)),
    ):
        task = ready(given={"loss": loss})
        found = told(task, targets)
        assert found["loss"] == pytest.approx(value, rel=1e-4), loss
        assert ("f1" in found) == (isinstance(loss, binary)) and ("accuracy" in found) == ("f1" not in found)
    before = task.get_weights()
    task.fit(X, SEVERAL, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, task.get_weights(), strict=True))
    task.compile(optimizer="sgd", jit_compile=False)  # and then its own again
    assert told(task, Y)["loss"] == pytest.approx(-np.log(shares(task.predict(X, verbose=0)))[np.arange(12), Y].mean())
    for options, given, words in (
        ({"label_smoothing": 0.1}, {"loss": "mse"}, "label_smoothing=0.1.* is of the task's own loss"),
        ({}, {"loss_weights": [2.0]}, "loss_weights weigh the losses that compile.. is given"),
    ):
        with pytest.raises(UsageError, match=words):
            ready(given=given, **options)


@pytest.mark.backends
def test_targets_may_change_their_form_between_calls():
    losses, task = [], ready(given={"metrics": ["sparse_categorical_crossentropy"]})
    logits = np.float64(task.predict(X, verbose=0))
    expected = -np.log(shares(logits))[np.arange(12), Y].mean()
    for targets in (Y, Y[:, None], Y.astype("float32"), Y[:, None].astype("int64")):
        losses.append(told(task, targets)["loss"])
    task.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    for targets in (Y, EYE[Y], Y[:, None], EYE[Y].astype(bool), Y.tolist(), EYE[Y], Y):
        history = task.fit(X, np.asarray(targets) if isinstance(targets, list) else targets, verbose=0).history
        losses += [history["loss"][0], told(task, targets if not isinstance(targets, list) else Y)["loss"]]
        assert history["accuracy"][0] == pytest.approx(np.mean(logits.argmax(1) == Y))
    assert losses == pytest.approx([expected] * len(losses), rel=1e-4)
    task.fit((batch for batch in [(X, Y)]), steps_per_epoch=1, verbose=0)
    soft = (batch for batch in [(X, EYE[Y])])
    assert task.fit(soft, steps_per_epoch=1, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-4)
    unknown = types.SimpleNamespace(shape=types.SimpleNamespace(rank=None))  # as TensorFlow traces in the end
    with pytest.raises(kzoo.UserError, match="another number of axes than before; compile.. the task again"):
        flat(unknown, 3)
    for wrong, words in ((Y + 1, "target . is 3; the model has 3 logits"), (np.where(Y == 1, np.nan, Y), "is nan")):
        for targets in (wrong, wrong[:, None]):
            with pytest.raises(kzoo.UserError, match=words):
                task.fit(X, targets, verbose=0)


@pytest.mark.backends
def test_several_classes_a_picture_have_figures_of_their_own():
    task = ready(
        given={"metrics": [metrics.AUC(name="auc", multi_label=True, num_labels=3)]},
        loss="binary_cross_entropy",
        threshold=0.3,
    )
    weights = RNG.uniform(0.5, 2, 12)
    logits = np.float64(task.predict(X, verbose=0))
    said = 1 / (1 + np.exp(-logits)) > 0.3
    found, weighed = told(task, SEVERAL), told(task, SEVERAL, sample_weight=weights)
    assert found.keys() == {"loss", "f1", "auc"}
    assert found["f1"] == pytest.approx(f1_score(SEVERAL, said, average="micro"), rel=1e-6)
    assert found["auc"] == pytest.approx(roc_auc_score(SEVERAL, logits), abs=0.03)
    heavy = np.repeat(weights, 3)
    assert weighed["f1"] == pytest.approx(f1_score(SEVERAL.ravel(), said.ravel(), sample_weight=heavy), rel=1e-5)
    assert found["loss"] == pytest.approx(np.mean(np.logaddexp(0, logits) - SEVERAL * logits), rel=1e-5)
    history = task.fit(X, SEVERAL, validation_data=(X, SEVERAL), epochs=2, verbose=0).history
    assert history.keys() == {"loss", "f1", "auc", "val_loss", "val_f1", "val_auc"}
    assert history["val_f1"][1] == pytest.approx(told(task, SEVERAL)["f1"])
    with pytest.raises(UsageError, match="class_weight weighs the one class of a picture, and these may have several"):
        task.fit(X, SEVERAL, class_weight={0: 2.0}, verbose=0)
    task.compile(optimizer="sgd", metrics=["accuracy"], jit_compile=False)
    found, said = told(task, SEVERAL), task.predict(X, verbose=0) > np.log(0.3 / 0.7)
    assert found["accuracy"] == pytest.approx(np.mean(said == SEVERAL)) and "f1" in found
    assert told(task, Y).keys() == {"loss", "accuracy"}
    bad = SEVERAL.copy()
    bad[3, 1] = 7
    with pytest.raises(kzoo.UserError, match="target 3 is .*; it must be 3 probabilities in 0..1"):
        task.fit(X, bad, verbose=0)


def test_a_model_of_several_classes_serves_and_trains_by_sigmoid(tmp_path):
    model = made(ours=True, multilabel=True, class_names=["cat", "dog", "cow"])
    task = kzoo.task(model)
    assert task.settings.loss == "binary_cross_entropy" and [m.name for m in task.metrics] == ["f1"]
    task.compile(optimizer="sgd", metrics=["accuracy"], jit_compile=False)
    found, logits = told(task, SEVERAL), np.float64(task.predict(X, verbose=0))
    assert found.keys() == {"loss", "f1", "accuracy"}
    assert found["accuracy"] == pytest.approx(np.mean((logits > 0) == SEVERAL))
    with pytest.raises(UsageError, match="softmax cross-entropy allows one; give loss='binary_cross_entropy'"):
        kzoo.task(model, loss="cross_entropy")
    with pytest.raises(UsageError, match="multilabel is of classifiers, and detr_toy is none"):
        kzoo.get("detr_toy", multilabel=True)
    made_for = make(Classify())
    outputs = made_for.outputs(model, model(X), None)
    np.testing.assert_allclose(np.asarray(outputs["probabilities"]), 1 / (1 + np.exp(-logits)), atol=1e-6)
    picture = RNG.integers(0, 256, (8, 8, 3), dtype="uint8")
    shown = made_for.predict(model, None, picture, model.take)
    own = model.predict(kzoo.preprocessor(model)(picture[None]), verbose=0)[0]
    np.testing.assert_allclose(shown["probabilities"], 1 / (1 + np.exp(-np.float64(own))), atol=1e-6)
    answer = made_for.answer(shown, model.spec.class_names, 3)["classes"]
    assert {c["label"]: c["probability"] for c in answer} == dict(
        zip(("cat", "dog", "cow"), shown["probabilities"], strict=True)
    )
    model.save(tmp_path / "model.keras")
    assert kzoo.load(tmp_path / "model.keras").config.multilabel
    assert not kzoo.get("vit_toy").config.multilabel and "multilabel" not in kzoo.get("vit_toy").spec.overrides


class Tagged(FakeSource):
    multilabel, class_names = True, ("cat", "dog", "cow")


def test_a_source_of_several_classes_decides_what_a_run_is_judged_by():
    task, source = make(Classify(loss="binary_cross_entropy", threshold=0.4)), Tagged("tagged", "train", classes=3)
    assert task.headline(source) == ("mean_average_precision", 1)
    assert task.of_data(source).curves == ("loss", "f1", "mean_average_precision")
    assert task.options(source) == {"in_channels": 3, "num_classes": 3, "multilabel": True}
    task.require(source, Data())
    with pytest.raises(kzoo.UserError, match="--set task.loss=binary_cross_entropy"):
        make(Classify()).require(source, Data())
    plain = FakeSource("plain", "train", classes=3)
    assert task.of_data(plain) is task and task.headline(plain) == ("accuracy", 1)
    assert task.options(plain) == {"in_channels": 3, "num_classes": 3}
    several = made(ours=True, multilabel=True)
    assert task.accept(several, source) == source.class_names
    single = made(ours=True)
    for network, other in ((several, plain), (single, source)):
        with pytest.raises(kzoo.UserError, match="lets a picture have several classes, .* just one"):
            task.accept(network, other)
    assert type(task.view(several).f1).__name__ == "RunningF1" and task.view(several).means == {}
    assert task.view(single).f1 is None and list(task.view(single).means) == ["accuracy"]
    assert task.captions((X, SEVERAL), ("cat", "dog", "cow"))[:2] == ["", "cat\ndog\ncow"]
    meter, logits = task.meter(several, source), RNG.normal(size=(30, 4))
    true = (RNG.random((30, 4)) < 0.4).astype("float32")
    true[:, 2] = 0
    for rows in (slice(0, 20), slice(20, 30)):
        padded = np.arange(30)[rows] != 29
        meter.update(logits[rows].astype("float32"), true[rows], padded)
    found, logits, true = meter.result(), logits[:29], true[:29]
    probabilities, there = 1 / (1 + np.exp(-logits)), true.any(axis=0)
    expected = average_precision_score(true[:, there], probabilities[:, there], average="macro")
    assert found["mean_average_precision"] == pytest.approx(expected, rel=1e-12)
    assert found["f1"] == pytest.approx(f1_score(true, probabilities > 0.4, average="micro"), rel=1e-12)


def test_crops_of_a_picture_are_one_answer_by_their_mean_probability():
    logits, true = RNG.normal(size=(8, 3)), np.float32([[1, 0, 1], [0, 1, 1]])
    mean = (1 / (1 + np.exp(-logits))).reshape(2, 4, 3).mean(axis=1)
    meter, one = LabelMeter(0.5), ClassMeter()
    meter.update(logits, true, np.ones(2, bool))
    assert meter.result()["loss"] == pytest.approx(-np.mean(np.log(np.where(true > 0, mean, 1 - mean))))
    one.update(logits[:, :1], np.array([1, 0]), np.ones(2, bool))
    assert one.result()["loss"] == pytest.approx(-np.mean(np.log([mean[0, 0], 1 - mean[1, 0]])))


def test_one_logit_has_figures_of_its_ranking():
    scores, y = RNG.normal(size=(40, 1)).round(1), RNG.integers(0, 2, 40)
    meter = ClassMeter()
    for rows in (slice(0, 25), slice(25, 40)):
        meter.update(scores[rows], y[rows], np.ones(len(y[rows]), bool))
    found = meter.result()
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, scores[:, 0]), rel=1e-12)
    assert found["average_precision"] == pytest.approx(average_precision_score(y, scores[:, 0]), rel=1e-12)
    lone = ClassMeter()
    lone.update(scores, np.ones(40, int), np.ones(40, bool))
    assert lone.result().keys() == {"accuracy", "loss"}


@pytest.mark.backends
def test_a_task_comes_back_as_it_was_compiled_and_its_weights_fit_the_bare_model(tmp_path):
    given = {"metrics": [metrics.AUC(name="auc", multi_label=True, num_labels=3, from_logits=True)]}
    task = kzoo.task(made(), loss="binary_cross_entropy")
    task.compile(optimizer=keras.optimizers.AdamW(0.01), jit_compile=False, **given)
    whole, weights = tmp_path / "whole.keras", tmp_path / "task.weights.h5"
    task.fit(X, SEVERAL, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(whole)])
    task.fit(X, SEVERAL, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(weights, save_weights_only=True)])
    again = keras.models.load_model(whole)
    assert again.compiled and int(again.optimizer.iterations) == 1
    again.fit(X, SEVERAL, verbose=0, shuffle=False)
    found = told(again, SEVERAL)
    assert found.keys() == {"loss", "f1", "auc"} and found["f1"] > 0
    bare = made(seed=2)
    bare.load_weights(weights)
    np.testing.assert_array_equal(bare.predict(X, verbose=0), task.predict(X, verbose=0))
    other = kzoo.task(made(seed=2), loss="binary_cross_entropy")
    other.compile(optimizer=keras.optimizers.AdamW(0.01), jit_compile=False, **given)
    other.load_weights(weights)
    assert int(other.optimizer.iterations) == int(task.optimizer.iterations) == 2
    for each in (task, other):  # trains on as the other would
        each.train_on_batch(X, SEVERAL)
    for a, b in zip(task.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tasks_of_their_own_figures_come_back_too(refusing, tmp_path):
    for task, (x, y), _ in refusing:
        task.compile(optimizer=keras.optimizers.SGD(0.01), run_eagerly=True)
        task.train_on_batch(x, y)
        task.save(tmp_path / "task.keras")
        again = keras.models.load_model(tmp_path / "task.keras")
        assert type(again) is type(task) and again.compiled and int(again.optimizer.iterations) == 1
        assert again.settings == task.settings and again.network.spec == task.network.spec
        for a, b in zip(task.network.weights, again.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)
        task.save_weights(tmp_path / "task.weights.h5")
        for weight in again.network.weights:
            weight.assign(keras.ops.zeros_like(weight))
        again.network.load_weights(tmp_path / "task.weights.h5")
        for a, b in zip(task.network.weights, again.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_weights_that_keras_wrote_of_a_whole_task_are_still_read(tmp_path):
    task, other = ready(), ready(made(seed=2))
    keras.Model.save_weights(task, tmp_path / "old.weights.h5")
    other.load_weights(tmp_path / "old.weights.h5")
    np.testing.assert_array_equal(other.predict(X, verbose=0), task.predict(X, verbose=0))
    bare = made(seed=4)
    bare.save_weights(tmp_path / "bare.weights.h5")
    other.load_weights(tmp_path / "bare.weights.h5")
    np.testing.assert_array_equal(other.predict(X, verbose=0), bare.predict(X, verbose=0))
    task, bare = ready(made(ours=True)), made(ours=True, seed=2)
    task.save_weights(tmp_path / "task.weights.h5")
    assert len(kzoo.load_weights(bare, tmp_path / "task.weights.h5").loaded) == len(bare.weights)
    np.testing.assert_array_equal(bare(X), task(X))
