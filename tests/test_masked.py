"""The task of masked autoencoding: its masks are data, its loss that of the paper, its encoder what is left, judged
by its neighbours.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import kzoo
from kzoo import registry
from kzoo.checking import randomise
from kzoo.cli import main
from kzoo.data import Take, open_source
from kzoo.data.part import some_of
from kzoo.data.randomness import MASKS, uniforms
from kzoo.data.sources import ArraySource, FakeSource
from kzoo.exporting.artifact import open_artifact
from kzoo.models.base import computing_in
from kzoo.probing import linear, probe_model
from kzoo.recipe_files import dump
from kzoo.schema import Augment, Classify, Data, Masked, Optim, Preprocessing, Recipe
from kzoo.tasks import make, neighbours, of
from kzoo.weights.encoder import encoder_of
from kzoo.weights.read import read_checkpoint
from tests.test_packaging import ROOT
from tests.test_tasks import Bare, arrays
from tests.test_training_breadth import CHILD
from tests.test_training_run import interrupt_after

NAME, SMALL = "mae_toy", {"image_size": 16, "patch_size": 4, "depth": 1}  # 16 patches, of which 4 are seen
RECIPE = Recipe(
    model=NAME,
    overrides=SMALL,
    preprocessing=Preprocessing(),
    task=Masked(knn_k=3, knn_reference=24, knn_queries=10),
    data=Data(source="fake:n=32,size=16,classes=4", batch_size=8, augment=Augment(flip=0.5, crop_scale=(0.2, 1.0))),
    optim=Optim(lr=0.01),
    epochs=2,
    xla="off",
)
PROBED = ("optim.freeze", ("^(?!head/)",))  # of a classifier that starts from such a run


def reference_loss(images, pred, mask, patch, norm_pix):
    """The paper's loss in float64, patch by patch."""
    total = count = 0
    columns = images.shape[2] // patch
    for image, painted, hidden in zip(images.astype("float64"), pred.astype("float64"), mask, strict=True):
        for n in np.flatnonzero(hidden):
            top, left = n // columns * patch, n % columns * patch
            target = image[top : top + patch, left : left + patch].ravel()
            if norm_pix:
                target = (target - target.mean()) / np.sqrt(
                    np.sum((target - target.mean()) ** 2) / (len(target) - 1) + 1e-6
                )
            total, count = total + np.mean((painted[n] - target) ** 2), count + 1
    return total / count


@pytest.fixture(scope="module")
def oblong():
    """An autoencoder of pictures that are not square."""
    return kzoo.get(NAME, **SMALL | {"image_size": (16, 24), "mask_ratio": 0.6})


@pytest.mark.backends
@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_is_that_of_hidden_patches_alone(oblong, norm_pix):
    rng, network = np.random.default_rng(0), oblong
    x = {"image": rng.normal(size=(5, 16, 24, 3)).astype("float32"), "noise": rng.random((5, 24), "float32")}
    outputs = network.predict_on_batch(x)
    assert (outputs["mask"].sum(axis=1) == 24 - int(24 * (1 - 0.6))).all()
    view = kzoo.task(network, norm_pix=norm_pix)
    view.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    before = [keras.ops.convert_to_numpy(w) for w in view.trainable_weights]
    expected = reference_loss(x["image"], outputs["pred"], outputs["mask"], 4, norm_pix)
    judged = make(Masked(norm_pix=norm_pix)).judged(None, network).predict_on_batch(x)
    assert judged["error"].sum() / judged["hidden"].sum() == pytest.approx(expected, rel=1e-5)
    assert float(view.train_on_batch(x, return_dict=True)["loss"]) == pytest.approx(expected, rel=1e-5)
    moved = [
        np.abs(keras.ops.convert_to_numpy(w) - old).max() for w, old in zip(view.trainable_weights, before, strict=True)
    ]
    assert np.isfinite(moved).all() and min(moved) > 0
    for weight, value in zip(view.trainable_weights, before, strict=True):
        weight.assign(value)


@pytest.mark.backends
def test_weights_of_samples_weigh_their_pictures_and_bare_pictures_are_masked_by_the_view():
    rng = np.random.default_rng(0)
    network = kzoo.get(NAME, **SMALL)
    x = {"image": rng.normal(size=(4, 16, 16, 3)).astype("float32"), "noise": rng.random((4, 16), "float32")}
    view, weights = kzoo.task(network), np.float32([0, 2, 1, 1])
    loss = float(
        view.compute_loss(
            x, None, keras.tree.map_structure(keras.ops.convert_to_tensor, network.predict_on_batch(x)), weights
        )
    )
    rows = make(Masked()).judged(None, network).predict_on_batch(x)["error"]
    assert loss == pytest.approx((weights * rows).sum() / (4 * 12), rel=1e-5)
    view.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=False)
    losses = [view.fit(x["image"], batch_size=4, epochs=1, verbose=0).history["loss"][0] for _ in range(2)]
    assert np.isfinite(losses).all() and losses[0] != losses[1]  # of the same weights and pictures, under other masks


def test_noise_keeps_its_places_in_sixteen_bits():
    """Rounded to bfloat16, much of the noise would be equal."""
    noise = uniforms(0, 0, range(4), 16, MASKS) / 64 + np.float32(0.5)
    with computing_in("mixed_bfloat16"):
        network = kzoo.get(NAME, **SMALL)
        view = kzoo.task(network)
        outputs = view({"image": np.zeros((4, 16, 16, 3), "float32"), "noise": noise})
    expected = np.argsort(np.argsort(noise, axis=1, kind="stable"), axis=1) >= 4
    assert np.array_equal(np.asarray(outputs["mask"]), expected)


@pytest.mark.backends
def test_masks_are_data_of_seed_epoch_and_picture():
    source, task = FakeSource("pictures", "train", classes=4, size=16, n=20), make(Masked())
    take = Take((16, 24), 3, Preprocessing(), None, 4)
    data, epochs = Data(augment=Augment(flip=0.5)), {}
    for engine in ("tf", "numpy"):
        loader = kzoo.data.Loader(source, task.batching(take, source, data, 3, engine), 8, 3, engine)
        epochs[engine] = [[keras.tree.map_structure(np.asarray, b) for b in loader.epoch(e)] for e in (0, 1)]
        evaluated = [keras.tree.map_structure(np.asarray, b) for b in loader.evaluation()]
        assert np.array_equal(evaluated[0][0]["noise"], uniforms(3, (1 << 32) - 1, range(8), 24, MASKS))
        assert not evaluated[2][0]["noise"][4:].any() and evaluated[2][2].tolist() == [1] * 4 + [0] * 4
        assert evaluated[1][1].tolist() == [(8 + i) % 4 for i in range(8)]
        later = next(iter(loader.epoch(1, start_step=1)))[0]["noise"]
        assert np.array_equal(np.asarray(later), epochs[engine][1][1][0]["noise"])
    for one, other in zip(*(sum(e, []) for e in epochs.values()), strict=True):
        assert len(one) == 1 and all(np.array_equal(one[0][name], other[0][name]) for name in ("image", "noise"))
    noise = np.concatenate([batch[0]["noise"] for epoch in epochs["tf"] for batch in epoch])
    assert len(np.unique(noise)) > 0.99 * noise.size and noise.min() >= 0 and noise.max() < 1
    assert not np.isin(noise, uniforms(3, 0, range(20), 54)).mean() > 0.01  # augmentation has numbers of its own


def test_neighbours_vote_as_in_dinos_protocol():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 12))
    labels, asked = rng.integers(0, 5, 300), rng.integers(0, 5, 80)
    reference, queries = (centres[of] + rng.normal(size=(len(of), 12)) for of in (labels, asked))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference, queries)]

    def weight(distances):  # |a - b|^2 = 2 - 2 cos
        return np.exp((1 - distances**2 / 2) / 0.1)

    peer = KNeighborsClassifier(15, weights=weight).fit(unit[0], labels)
    found = neighbours.votes(reference, labels, queries, 5, 15, 0.1)
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), peer.predict_proba(unit[1]), atol=1e-5)
    assert neighbours.accuracy((reference, labels), (queries, asked), 5, 15, 0.1) == peer.score(unit[1], asked) < 1
    assert neighbours.votes(reference[:3], labels[:3], queries, 5, 20).astype(bool).sum(axis=1).max() == len(
        set(labels[:3])
    )
    assert neighbours.votes(np.zeros((2, 3)), np.int32([0, 1]), np.ones((1, 3)), 2).tolist() == [[1, 1]]


def test_a_part_of_a_source_is_drawn_from_all_of_it_and_stays():
    pictures = np.arange(100, dtype="uint8").reshape(100, 1, 1, 1)
    source = ArraySource("sorted", pictures, np.arange(100) // 10, 10)
    part = some_of(source, 30)
    images, labels = part.batch(np.arange(len(part)))
    assert len(part) == 30 and len(set(labels.tolist())) >= 8 and np.array_equal(images.ravel() // 10, labels)
    assert (np.diff(images.ravel().astype(int)) > 0).all() and part.read(3)[1] == labels[3]
    assert np.array_equal(some_of(source, 30).batch(np.arange(30))[0], images) and len(some_of(source, 1000)) == 100


def test_a_linear_probe_learns_what_a_logistic_regression_does():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    digits, held = (open_source("digits", split) for split in ("train", "test"))
    (x, y), (asked, answers) = ((s.images.reshape(len(s), -1).astype("float32"), s.labels) for s in (digits, held))
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(max_iter=500).fit(scaler.transform(x), y).score(scaler.transform(asked), answers)
    logits = linear(x, y, 10)(asked)
    assert abs(np.mean(logits.argmax(axis=1) == answers) - peer) < 0.02 and peer > 0.9


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kzoo.train(RECIPE, tmp_path_factory.mktemp("untouched") / "run")


@pytest.fixture(scope="module")
def evaluated(run):
    """What `kzoo evaluate` finds of it."""
    return kzoo.evaluate(run.workdir)


@pytest.mark.backends
def test_pre_training_is_stopped_and_resumed_bit_for_bit_masks_included(run, evaluated, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        kzoo.train(RECIPE, tmp_path / "killed", {"checkpoint.every_steps": 1})
    assert read_checkpoint(tmp_path / "killed")[1]["step"] == 3
    resumed = kzoo.train(RECIPE, tmp_path / "killed")
    assert resumed.metrics == run.metrics
    first, second = arrays(run.workdir), arrays(tmp_path / "killed")
    assert first.keys() == second.keys() and [key for key in first if not np.array_equal(first[key], second[key])] == []
    assert not any(key.startswith("task/") for key in first)

    assert run.metrics.keys() == {"loss", "images", "knn_accuracy", "knn_reference", "knn_queries"}
    assert (run.metrics["images"], run.metrics["knn_reference"], run.metrics["knn_queries"]) == (32, 24, 10)
    assert "eval_knn_accuracy" in (run.workdir / "log.csv").read_text()
    assert "eval_knn_accuracy" in run.history[0] and run.history[1]["eval_loss"] == run.metrics["loss"]
    best = max(run.history, key=lambda row: (row["eval_knn_accuracy"], -row["epoch"]))
    with np.load(run.workdir / "best.npz") as file:
        assert json.loads(bytes(file["meta"]))["step"] == best["step"]
    assert (evaluated["knn_reference"], evaluated["knn_queries"]) == (32, 32)
    assert evaluated["loss"] == run.metrics["loss"]


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(tmp_path):
    """Each divides its part of the error by the hidden patches of both. It takes a process of its own, for its
    devices.
    """
    recipe = dataclasses.replace(RECIPE, optim=Optim(name="sgd", lr=0.1))
    (tmp_path / "recipe.txt").write_text(dump(recipe))
    environment = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "recipe.txt"), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, several = json.loads(done.stdout.splitlines()[-1])
    assert one[0]["loss"] != one[1]["loss"]
    for alone, together in zip(one, several, strict=True):
        assert [together[key] for key in ("loss", "eval_loss")] == pytest.approx(
            [alone[key] for key in ("loss", "eval_loss")], rel=1e-4
        )


@pytest.mark.backends
def test_evaluation_is_the_loss_of_all_pictures_and_their_neighbours(run, evaluated):
    model, found = run.model, evaluated
    noise, held_out = uniforms(0, (1 << 32) - 1, range(32), 16, MASKS), open_source(RECIPE.data.source, "test")
    held = keras.ops.convert_to_numpy(kzoo.preprocessor(model)([held_out.read(i)[0] for i in range(32)]))
    outputs = model.predict_on_batch({"image": held, "noise": noise})
    assert found["loss"] == pytest.approx(reference_loss(held, outputs["pred"], outputs["mask"], 4, True), rel=1e-4)
    labels, (given, asked) = np.arange(32) % 4, vectors_of(encoder_of(model), RECIPE.data.source)
    votes = neighbours.votes(given, labels, asked, 4, 3)
    assert found["knn_accuracy"] == np.mean(votes.argmax(axis=1) == labels)


def test_pictures_without_labels_are_judged_by_the_loss(run, tmp_path, monkeypatch):
    bare, labelled = (kind("pictures", "train", size=16, n=16) for kind in (Bare, FakeSource))
    unlabelled = kzoo.train(RECIPE, tmp_path / "run", {"steps": 1}, data=(bare, bare))
    assert unlabelled.metrics.keys() == {"loss", "images"} and unlabelled.history[0]["eval_loss"] > 0
    assert kzoo.evaluate(unlabelled.workdir, data=bare)["images"] == 16
    more = FakeSource("more", "test", size=16, n=16, classes=3)
    with monkeypatch.context() as patch:
        patch.setattr("kzoo.training.engine.Stage", None)  # refused before a network is built
        with pytest.raises(kzoo.UserError, match="pictures has labels and pictures has none: evaluate on such with"):
            kzoo.train(RECIPE, tmp_path / "mixed", data=(labelled, bare))
        with pytest.raises(kzoo.UserError, match="more has other classes than pictures"):
            kzoo.train(RECIPE, tmp_path / "mixed", data=(labelled, more))
    with pytest.raises(kzoo.UserError, match="other classes than fake"):
        kzoo.evaluate(run.workdir, data="fake:n=8,size=16,classes=3")
    for changes, told in (
        ({"data.augment.mixup": 1.0}, "MixUp and CutMix mix labels"),
        ({"data.eval_crops": 5}, "eval_crops averages"),
    ):
        with pytest.raises(kzoo.UserError, match=told):
            kzoo.train(RECIPE, tmp_path / "refused", changes)
    with pytest.raises(kzoo.UserError, match="paints no hidden patches"):
        kzoo.train(RECIPE, tmp_path / "refused", {"model": "vit_toy"})
    with pytest.raises(kzoo.UserError, match="knn_temperature must be above 0"):
        Masked(knn_temperature=0)


def test_what_is_predicted_and_drawn_is_the_network_under_that_mask(run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["predict", str(run.workdir), str(tmp_path / "a.png")]
    assert main([*words, "--set", "seed=7", "mask_ratio=0.5", "--out", str(tmp_path / "drawn"), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    model = kzoo.get(NAME, weights=str(run.workdir), **SMALL, mask_ratio=0.5)
    image = keras.ops.convert_to_numpy(kzoo.preprocessor(run.model)(pixels[None]))  # as the recipe has it
    outputs = model.predict_on_batch({"image": image, "noise": uniforms(7, (1 << 32) - 1, [0], 16, MASKS)})
    assert answer["mask_ratio"] == 0.5 and set(answer) == {"image", "reconstruction_error", "mask_ratio"}
    assert answer["reconstruction_error"] == pytest.approx(
        reference_loss(image, outputs["pred"], outputs["mask"], 4, True), rel=1e-5
    )
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "000_a.png"))
    assert drawn.shape[1] > 2 * drawn.shape[0] and drawn.std() > 0

    from kzoo.predicting import open_target

    shown = open_target(run.workdir, asked={"seed": 7, "mask_ratio": 0.5})(pixels)
    mask = np.kron(outputs["mask"][0].reshape(4, 4), np.ones((4, 4))) > 0
    np.testing.assert_allclose(shown["original"], pixels / 255, atol=1e-6)
    assert (shown["masked"][mask] == 0.5).all() and np.array_equal(shown["masked"][~mask], shown["original"][~mask])
    assert np.array_equal(shown["reconstruction"][~mask], shown["original"][~mask])
    # by hand: its prediction in the mean and deviation of what was there
    n = int(np.flatnonzero(outputs["mask"][0])[0])
    rows, columns = (slice(4 * i, 4 * i + 4) for i in divmod(n, 4))
    target = image[0, rows, columns].astype("float64")
    painted = outputs["pred"][0, n].reshape(4, 4, 3) * np.sqrt(target.var(ddof=1) + 1e-6) + target.mean()
    np.testing.assert_allclose(shown["reconstruction"][rows, columns], np.clip(painted * 0.5 + 0.5, 0, 1), atol=1e-5)
    assert main(words) == 0 and "% hidden" in capsys.readouterr().out
    for setting, told in (
        ("seed=-1", "the seed of a mask lies in 0"),
        ("sed=1", "did you mean seed"),
        ("mask_ratio=much", "mask_ratio takes float"),
    ):
        assert main([*words, "--set", setting]) == 2 and told in capsys.readouterr().err
    assert main(["predict", "vit_toy", str(tmp_path / "a.png"), "--random-weights", "--set", "seed=1"]) == 2
    assert "is asked nothing beside the picture" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["saved_model", "onnx", "litert"])
def test_an_artifact_of_a_run_is_its_encoder(run, tmp_path, format, capsys):
    card = kzoo.export(run.workdir, tmp_path / "out", format)
    assert list(card["outputs"]) == ["features"] and card["classes"] is None and card["task"] == "masked"
    assert card["overrides"]["num_classes"] == 0 and card["parameters"] < run.model.count_params() / 1.3
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype="uint8")
    features = open_artifact(tmp_path / "out").predict(pixels)["features"]
    inputs = keras.ops.convert_to_numpy(kzoo.preprocessor(run.model)(pixels))
    encoder = kzoo.get(NAME, weights=str(run.workdir), **SMALL, num_classes=0)
    np.testing.assert_allclose(features, encoder.predict_on_batch(inputs), atol=1e-4)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "out"), str(tmp_path / "a.png"), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["features"] == {"length": 32, "norm": pytest.approx(np.linalg.norm(features[0]), rel=1e-3)}


@pytest.fixture(scope="module")
def started(run, tmp_path_factory):
    """How a classifier starts from the run: a function of changes to its recipe, each trained once."""

    @functools.cache
    def train(key, value):
        labelled = dataclasses.replace(RECIPE, model="vit_toy", task=Classify(), init_from=str(run.workdir), steps=2)
        return kzoo.train(labelled, tmp_path_factory.mktemp("started") / "run", {key: value})

    return train


def vectors_of(encoder, source):
    """The encoder's vectors of a source's training and test pictures, each set one batch."""
    sources = [open_source(source, split) for split in ("train", "test")]
    images = [kzoo.preprocessor(encoder)([s.read(i)[0] for i in range(len(s))]) for s in sources]
    return [encoder.predict_on_batch(keras.ops.convert_to_numpy(batch)) for batch in images]


def test_probes_of_any_runs_features(run, evaluated, started, monkeypatch, capsys):
    words = ["evaluate", str(run.workdir), "--json", "--probe"]
    assert main([*words, "knn"]) == 0
    knn = json.loads(capsys.readouterr().out)
    assert knn == {
        "knn_accuracy": evaluated["knn_accuracy"],
        "reference": 32,
        "images": 32,
        "features": 32,
        "k": 3,
        "temperature": 0.07,
    }
    classifier = started(*PROBED)
    monkeypatch.setattr("kzoo.probing.STEPS", 20)  # what it learns is another test's
    monkeypatch.setattr("kzoo.probing.EPOCHS", 20)
    kzoo.evaluate(classifier.workdir)
    before = json.loads((classifier.workdir / "evaluation.json").read_text())
    assert main(["evaluate", str(classifier.workdir), "--json", "--probe", "linear"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"linear_accuracy", "reference", "images", "features"}
    given, asked = vectors_of(encoder_of(classifier.model), RECIPE.data.source)
    expected = linear(given, np.arange(32) % 4, 4)(asked).argmax(axis=1)
    assert told["linear_accuracy"] == np.mean(expected == np.arange(32) % 4)
    after = json.loads((classifier.workdir / "evaluation.json").read_text())
    assert after == before | {"probes": {"linear": {"data": RECIPE.data.source, "step": 2} | told}}
    kzoo.evaluate(classifier.workdir)
    assert json.loads((classifier.workdir / "evaluation.json").read_text()) == after
    assert main([*words, "lines"]) == 2 and "did you mean linear" in capsys.readouterr().err
    with pytest.raises(kzoo.UserError, match="gives no label for each picture"):
        probe_model(run.model, "knn", Bare("bare", "train", n=4), FakeSource("fake", "test", n=4))
    tokens = kzoo.get("vit_toy", global_pool="none")
    with pytest.raises(kzoo.UserError, match="gives no vector without a head"):
        encoder_of(tokens)


def test_probes_of_names_and_files_with_weights(run, tmp_path, capsys):
    source = "fake:n=24,size=32,classes=4"
    asked, words = ["--probe", "knn", "--data", source, "--json"], {}
    model = randomise(kzoo.get("vit_toy"))
    kzoo.save_weights(model, tmp_path / "vit.safetensors", layout="timm")
    words["name"] = ["vit_toy", "--weights", str(tmp_path / "vit.safetensors")]
    words["file"], models = [str(run.workdir / "model.keras")], {"name": model, "file": run.model}
    for kind, given in words.items():
        assert main(["evaluate", *given, *asked]) == 0
        told = json.loads(capsys.readouterr().out)
        given, queries = vectors_of(encoder_of(models[kind]), source)
        votes = neighbours.votes(given, np.arange(24) % 4, queries, 4, 20, 0.07)
        assert told["knn_accuracy"] == np.mean(votes.argmax(axis=1) == np.arange(24) % 4)
        assert (told["reference"], told["images"], told["features"], told["k"]) == (24, 24, 32, 20)
    assert main(["evaluate", "vit_toy", "--random-weights", *asked]) == 0 and capsys.readouterr().out
    for refused, sentence in (
        (["vit_toy", "--random-weights", "--best"], "--best goes with the folder of a run"),
        ([str(run.workdir), "--random-weights"], "--random-weights goes with the NAME of a model"),
    ):
        assert main(["evaluate", *refused, *asked]) == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in registry.toys("kzoo") if registry.find(name).task == "classify"])
def test_the_encoder_of_any_family_is_what_its_head_is_given(name):
    model = randomise(kzoo.get(name))
    (inputs,), head = keras.tree.flatten(of(model).example(model, 2)), model.get_layer("head")
    kernel, bias = (keras.ops.convert_to_numpy(weight).astype("float64") for weight in head.weights)
    features = encoder_of(model).predict_on_batch(inputs)
    np.testing.assert_allclose(features @ kernel + bias, model.predict_on_batch(inputs), atol=1e-4)


def test_a_files_weights_paint_by_name(tmp_path, capsys):
    model = kzoo.get(NAME)
    kzoo.save_weights(model, tmp_path / "hf", layout="hf")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = [NAME, "--weights", str(tmp_path / "hf"), str(tmp_path / "a.png"), "--set", "norm_pix=False"]
    assert main(["predict", *words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    image = keras.ops.convert_to_numpy(kzoo.preprocessor(model)(pixels[None]))
    outputs = model.predict_on_batch({"image": image, "noise": uniforms(0, (1 << 32) - 1, [0], 16, MASKS)})
    expected = reference_loss(image, outputs["pred"], outputs["mask"], 8, False)
    assert answer["reconstruction_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [("overrides.global_pool", "avg"), PROBED], ids=["fine-tuned", "probed"])
def test_a_classifier_starts_from_a_run(run, started, changes):
    workdir = started(*changes).workdir
    receipt = json.loads((workdir / "init_from.json").read_text())
    assert {name.split("/")[0].rstrip("0123456789_") for name in receipt["training_only"]} >= {
        "mask_token",
        "decoder_embed",
        "decoder_pred",
    }
    first, second = arrays(run.workdir), arrays(workdir)
    same = {
        key
        for key in first.keys() & second.keys()
        if key.startswith("weights/") and np.array_equal(first[key], second[key])
    }
    held = {key for key in second if key.startswith("weights/") and not key.startswith("weights/head/")}
    assert (same == held) if changes == PROBED else len(same) < 3


def test_pictures_with_objects_serve_without_them():
    source = open_source("shapes:n=6,size=32", "train")
    task = make(Masked())
    take = Take((16, 16), 3, Preprocessing(), patch_size=4)
    loader = task.loader(take, source, Data(augment=Augment(flip=0.5)), 4)
    ((x,),) = loader.epoch(0)
    assert x["image"].shape == (4, 16, 16, 3) and x["noise"].shape == (4, 16)
    (_, y, weights), (_, _, last) = loader.evaluation()
    assert y == () and np.array(weights).tolist() == [1] * 4 and np.array(last).tolist() == [1, 1, 0, 0]
