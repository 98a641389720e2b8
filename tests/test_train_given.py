"""Runs on one's own data, given in Python: what is read of it, told, held out and refused; how runs end early, go on
for longer, and tell Keras' callbacks.
"""

import dataclasses
import io
import sys
import time
import types

import keras
import numpy as np
import pytest

import kzoo
from kzoo import data as kdata
from kzoo import recipe_files, schema
from kzoo.data import given as given_data
from kzoo.data.npz import held_out
from kzoo.errors import UsageError, UserError
from kzoo.recipe_files import read_recipe
from kzoo.training import engine, logs
from kzoo.training.judge import Judge
from kzoo.training.longer import require_same_so_far
from kzoo.training.plan import Plan
from kzoo.weights.read import read_checkpoint

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 60)
RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 12, "patch_size": 4, "depth": 1, "drop_path_rate": 0.1},
    data=schema.Data(batch_size=8, augment=schema.Augment(flip=0.5, shift=2)),
    schedule=schema.Schedule(name="constant"),
    epochs=2,
    xla="off",
)


def by_name(name, place):
    return kdata.open_source(name, ("train", "test")[place])


def sources(data, **options):
    return kdata.sources_of(data, by_name, **options)


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return -(-len(self.images) // 7)

    def __getitem__(self, i):
        part = slice(7 * i, 7 * i + 7)
        return self.images[part], self.labels[part]


def tf_dataset(batch=None, images=IMAGES, labels=LABELS, named=False):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.map(lambda image, label: {"image": image, "label": label}) if named else dataset
    return dataset if batch is None else dataset.batch(batch)


def brighter_later():
    return Batches(np.concatenate([IMAGES / 255] * 5 + [IMAGES * 1.0]), np.tile(LABELS, 6))


SAME = {
    "uint8": lambda: (IMAGES, LABELS),
    "list": lambda: [IMAGES, list(LABELS)],
    "column": lambda: (IMAGES, LABELS[:, None]),
    "floats of 0..255": lambda: (IMAGES.astype("float64"), LABELS.astype("float32")),
    "floats of 0..1": lambda: (IMAGES.astype("float32") / 255, LABELS),
    "whole numbers": lambda: (IMAGES.astype("int64"), LABELS),
    "one-hot": lambda: (IMAGES, np.eye(3)[LABELS]),
    "tensors": lambda: (keras.ops.convert_to_tensor(IMAGES), keras.ops.convert_to_tensor(LABELS)),
    "PyDataset": lambda: Batches(IMAGES, LABELS),
    "PyDataset of floats": lambda: Batches(IMAGES / np.float32(255), np.eye(3)[LABELS]),
    "tf.data": tf_dataset,
    "tf.data in batches": lambda: tf_dataset(16),
    "tf.data as TFDS has it": lambda: tf_dataset(named=True),
    "tf.data of floats": lambda: tf_dataset(4, images=IMAGES / np.float32(255)),
}


@pytest.mark.parametrize("form", SAME)
def test_every_form_of_the_same_data_is_the_same_source(form):
    training, evaluation = sources(SAME[form]())
    out = held_out(60)
    assert 0 < out.sum() < 15
    for source, part in ((training, ~out), (evaluation, out)):
        pictures, labels = source.batch(np.arange(len(source)))
        np.testing.assert_array_equal(pictures, IMAGES[part])
        np.testing.assert_array_equal(labels, LABELS[part])
        np.testing.assert_array_equal(source.all_labels(), LABELS[part])
        assert (source.num_classes, source.channels, source.targets) == (3, 3, "label")
        picture, label = source.open(1)
        assert picture.dtype == np.uint8 and (picture == IMAGES[part][1]).all() and label == LABELS[part][1]
    assert training.name == evaluation.name == sources((IMAGES, LABELS))[0].name
    assert training.name.startswith("array:") and len(training.name) == len("array:") + 16


def test_what_the_digest_is_of():
    one_more, other = IMAGES.copy(), LABELS.copy()
    one_more[5, 3, 2, 1] ^= 1
    other[7] = (other[7] + 1) % 3
    several = [(IMAGES, LABELS), (one_more, LABELS), (IMAGES, other), (IMAGES[::-1], LABELS[::-1])]
    names = [sources(data)[0].name for data in several] + [sources(IMAGES)[0].name]
    assert len(set(names)) == 5


def test_pairs_and_their_parts():
    training, evaluation = sources(((IMAGES, LABELS), "fake:classes=3,n=9"))
    assert (len(training), len(evaluation), evaluation.name) == (60, 9, "fake:classes=3,n=9")
    own = kdata.open_source("fake:classes=3,n=20", "train")
    assert sources((own, (IMAGES, LABELS)))[0] is own
    first, second = sources([Batches(IMAGES, LABELS), (IMAGES[:9], np.minimum(LABELS[:9], 1))])
    assert (len(first), len(second), first.num_classes, second.num_classes) == (60, 9, 3, 3)
    names = np.array(["dog", "cat", "ape"])[LABELS]
    first, second = sources(((IMAGES, names), (IMAGES[:9], names[:9].astype(bytes))))
    assert first.class_names == second.class_names == ("ape", "cat", "dog")
    np.testing.assert_array_equal(second.all_labels(), 2 - LABELS[:9])
    assert [len(part) for part in sources(own)] == [20 - (out := held_out(20)).sum(), out.sum()]
    assert [sources(own)[1].open(i)[1] for i in range(out.sum())] == list(np.flatnonzero(out) % 3)
    assert sources((IMAGES, LABELS), parts=False)[0] is None and len(sources(own, parts=False)[1]) == 20


def test_several_labels_and_none():
    marks = (RNG.random((60, 4)) < 0.5).astype(int)
    training, evaluation = sources(((IMAGES, marks), (IMAGES[:9], np.eye(4)[:1].repeat(9, axis=0))))
    assert training.multilabel and evaluation.multilabel and training.num_classes == 4
    np.testing.assert_array_equal(training.batch(np.arange(5))[1], marks[:5].astype("float32"))
    for alone in (IMAGES, (IMAGES, None)):
        assert sources(alone)[0].targets == "picture"


def test_pictures_of_several_sizes_stay_as_they_are():
    tf = pytest.importorskip("tensorflow")

    def pictures():
        for side in range(5, 25):
            yield np.full((side, side + 1, 1), 10 * side, "float32"), side % 2

    spec = (tf.TensorSpec((None, None, 1)), tf.TensorSpec((), "int32"))
    source = sources(tf.data.Dataset.from_generator(pictures, output_signature=spec), parts=False)[1]
    found, labels = source.batch(np.array([3, 0]))
    assert [(p.shape, p.dtype, p.max()) for p in found] == [((8, 9, 1), np.uint8, 80), ((5, 6, 1), np.uint8, 50)]
    assert list(labels) == [0, 1]


WRONG = {
    "normalised": (lambda: ((IMAGES - 127.0) / 60, LABELS), r"neither in 0..255 nor in 0..1; undo their normalisation"),
    "faint": (lambda: (IMAGES / 255.0 * 16, LABELS), r"could be in 0..16 or in 0..255; multiply them by 15.9"),
    "whole but faint": (lambda: (IMAGES.astype(int) % 2, LABELS), r"could be in 0..1 or in 0..255"),
    "not finite": (lambda: (np.where(IMAGES > 250, np.nan, IMAGES / 255), LABELS), "not finite"),
    "channels first": (lambda: (IMAGES.transpose(0, 3, 1, 2), LABELS), r"give images.transpose\(0, 2, 3, 1\)"),
    "flat": (lambda: (IMAGES.reshape(60, -1), LABELS), r"not \(60, 432\)"),
    "texts": (lambda: (IMAGES.astype(str), LABELS), "pictures are numbers"),
    "none": (lambda: (IMAGES[:0], LABELS[:0]), "no pictures"),
    "too few labels": (lambda: (IMAGES, LABELS[:7]), r"60 pictures and targets of shape \(7,\)"),
    "half labels": (lambda: (IMAGES, LABELS + 0.5), "target 0 is .*whole numbers counted from 0"),
    "negative labels": (lambda: (IMAGES, LABELS - 1), "target .* is -1"),
    "shares": (lambda: (IMAGES, np.full((60, 3), 1 / 3)), "are 0 or 1 for each class"),
    "a new class": (lambda: ((IMAGES, ["a"] * 60), (IMAGES, ["b"] * 60)), "the class 'b', which the training data has"),
    "names and numbers": (lambda: ((IMAGES, ["a"] * 60), (IMAGES, LABELS)), "names of classes as labels and the other"),
    "one without": (lambda: ((IMAGES, LABELS), (IMAGES, None)), "one part of data has targets and the other has none"),
    "two forms": (lambda: ((IMAGES, LABELS), (IMAGES, np.eye(3)[LABELS])), r"of shapes \(60,\) and \(60, 3\)"),
    "two sets of pictures": (lambda: (IMAGES, IMAGES), "could be pictures and targets or two sets; give"),
    "with weights": (lambda: (IMAGES, LABELS, np.ones(60)), "weights, which are not read"),
    "no kind": (lambda: {"x": IMAGES}, "of type dict; data takes"),
    "a part of no kind": (lambda: (3, (IMAGES, LABELS)), "a part of type int; data takes"),
    "too few": (lambda: (IMAGES[:5], LABELS[:5]), "too few to hold a tenth out; give a pair"),
    "endless": (lambda: tf_dataset().repeat(), "never ends; give it without repeat"),
    "brighter later": (lambda: brighter_later(), "whose first values were in 0..1 hold others"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_could_be_read_wrongly_is_refused_in_a_sentence(case):
    make, words = WRONG[case]
    with pytest.raises(UserError, match=words) as error:
        sources(make())
    assert "\n" not in str(error.value)


def test_more_than_fits_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(given_data, "LARGEST", IMAGES[:20].nbytes)
    with pytest.raises(UserError, match="more than .* GiB of pictures.*folder:PATH"):
        sources(Batches(IMAGES, LABELS))


def learned(history):
    return [{k: v for k, v in row.items() if k not in ("time", "minutes", "images_per_second")} for row in history]


def assert_same_end(run, other):
    (ours, meta), (theirs, other_meta) = read_checkpoint(run.workdir), read_checkpoint(other.workdir)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    assert (meta["step"], meta["metrics"]) == (other_meta["step"], other_meta["metrics"])
    assert learned(run.history) == learned(other.history)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three epochs of arrays."""
    recipe = dataclasses.replace(RECIPE, epochs=3)
    return kzoo.train(recipe, tmp_path_factory.mktemp("whole") / "run", data=(IMAGES, LABELS))


class Diary(keras.callbacks.Callback):
    """Writes down what it is told."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.said, self.logs, self.stop_after = [], [], stop_after

    def on_train_begin(self, logs=None):
        self.said.append("begin")
        assert self.params["epochs"] == 2 and self.params["steps"] == 6

    def on_epoch_begin(self, epoch, logs=None):
        self.said.append(f"epoch {epoch}")

    def on_train_batch_begin(self, batch, logs=None):
        self.said.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        assert type(self.model).__name__ == "ClassifyView" and "loss" in logs

    def on_epoch_end(self, epoch, logs=None):
        self.said.append(f"end of {epoch}")
        self.logs.append(logs)
        if epoch == self.stop_after:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.said.append("end")


EPOCHS = ["epoch 0", *range(6), "end of 0", "epoch 1", *range(6), "end of 1"]


def test_a_run_killed_and_continued_and_then_made_longer_ends_as_a_long_one(whole, tmp_path, monkeypatch, capsys):
    save, first, second = engine._Session.save, Diary(), Diary()

    def killed_at_four(self):
        save(self)
        if self.step == 4:
            raise KeyboardInterrupt

    changes = {"checkpoint.every_steps": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine._Session, "save", killed_at_four)
        kzoo.train(RECIPE, tmp_path / "run", changes, data=SAME["PyDataset of floats"](), callbacks=[first])
    said = capsys.readouterr().err
    for line in (
        f"training on 52 pictures of {sources((IMAGES, LABELS))[0].name}, evaluation on 8",
        "3 classes: ",
        " parameters; float32 by ",
        f"12 steps of 8 pictures in 2 epochs of 6; written to {tmp_path / 'run'}",
    ):
        assert line in said
    run = kzoo.train(RECIPE, tmp_path / "run", changes, data=(IMAGES, LABELS), callbacks=[second])
    assert first.said == ["begin", *EPOCHS[:5]] and second.said == ["begin", "epoch 0", *EPOCHS[5:], "end"]
    assert second.logs[-1] == {
        key: run.history[-1][key.replace("val_", "eval_")] for key in ("accuracy", "loss", "val_accuracy", "val_loss")
    }
    capsys.readouterr()
    longer = kzoo.train(RECIPE, tmp_path / "run", {"epochs": 3}, data=(IMAGES, LABELS))
    assert "run goes on with epochs 3 instead of 2" in capsys.readouterr().err
    assert_same_end(longer, whole)
    recipe, record = read_recipe(longer.workdir)
    known = read_recipe(whole.workdir)[1]["compiled"]
    assert (recipe.epochs, record["total_steps"], record["compiled"]) == (3, 18, known)
    with pytest.raises(UserError, match="has trained 18 steps, and the epochs or steps asked for now are only 12"):
        kzoo.train(RECIPE, tmp_path / "run", data=(IMAGES, LABELS))
    with pytest.raises(UserError, match=r"data.source \('array:.*has to be the same again"):
        kzoo.train(RECIPE, tmp_path / "run", {"epochs": 3}, data=(IMAGES[::-1], LABELS[::-1]))


def test_what_a_run_of_arrays_is_evaluated_on(whole):
    assert kzoo.evaluate(whole.workdir, data=(IMAGES, LABELS)) == whole.metrics
    assert whole.metrics["images"] == held_out(60).sum()
    everything = kzoo.evaluate(whole.workdir, data=Batches(IMAGES[:50], LABELS[:50]))
    assert everything["images"] == 50
    with pytest.raises(UserError, match="array:.* names data that was given in Python.* give it again"):
        kzoo.evaluate(whole.workdir)


def test_a_callback_ends_the_run_and_evaluation_goes_by_the_record(tmp_path, capsys):
    data = ((IMAGES[:52], LABELS[:52]), "fake:classes=3,n=9,size=12")
    diary = Diary(stop_after=0)
    changes = {"eval_every": 2}
    run = kzoo.train(RECIPE, tmp_path / "run", changes, data=data, callbacks=diary)
    assert diary.said == ["begin", *EPOCHS[:8], "end"] and "val_loss" not in diary.logs[0]
    assert run.ended == "a callback set model.stop_training" and len(run.history) == 1
    assert run.metrics["images"] == 9 and "eval_loss" in run.history[0]
    assert (run.workdir / "model.keras").exists() and (run.workdir / "metrics.json").exists()
    assert kzoo.evaluate(run.workdir)["images"] == 9
    assert read_recipe(run.workdir)[1]["evaluation_source"] == "fake:classes=3,n=9,size=12"
    capsys.readouterr()
    again = kzoo.train(RECIPE, tmp_path / "run", changes, data=data, callbacks=diary)
    assert (again.history, again.ended) == (run.history, run.ended)
    said = capsys.readouterr().err
    assert f"{run.workdir} is finished, at step 6 of 12" in said and "ended after epoch 1 of 2: a callback" in said
    assert len(diary.said) == 10  # nothing was left to be told
    longer = kzoo.train(RECIPE, tmp_path / "run", changes | {"epochs": 3}, data=data)
    assert [row["epoch"] for row in longer.history] == [1, 2, 3] and not longer.ended
    with pytest.raises(UserError, match="evaluation_source"):
        kzoo.train(RECIPE, tmp_path / "run", changes | {"epochs": 3}, data=(data[0], "fake:classes=3,n=12,size=12"))


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (keras.callbacks.ReduceLROnPlateau(), "the learning rate is the recipe's; set optim.lr and schedule"),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), "the learning rate is the recipe's"),
        ("early", "callbacks are keras.callbacks.Callback objects, not str"),
    ],
)
def test_callbacks_that_are_none_or_meddle_are_refused(tmp_path, callback, words):
    with pytest.raises(UsageError, match=words):
        kzoo.train(RECIPE, tmp_path / "run", data=(IMAGES, LABELS), callbacks=[callback])


# Figures of evaluations (None: an epoch without one), patience and min_delta; after which epoch the run ends.
TIRED = [
    ([0.1, 0.2, 0.2, 0.1], 2, 0.0, 4),
    ([0.1, 0.2, 0.2, 0.3, 0.3, 0.3], 2, 0.0, 6),
    ([0.1, None, 0.1, None, 0.1], 2, 0.0, 5),
    ([0.1, 0.14, 0.18, 0.22], 2, 0.05, None),
    ([0.1, 0.11, 0.12], 2, 0.05, 3),
    ([0.1, 0.1, 0.1], None, 0.0, None),
    ([np.nan, np.nan, 0.1], 2, 0.0, 2),
    ([0.5, np.nan, 0.6], 2, 0.0, None),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("figures", "patience", "min_delta", "end"), TIRED)
def test_when_a_run_no_longer_gets_better(figures, patience, min_delta, end, sign):
    early = schema.EarlyStop(patience=patience, min_delta=min_delta)
    judge = types.SimpleNamespace(
        plan=types.SimpleNamespace(recipe=types.SimpleNamespace(early_stop=early)), headline="figure", sign=sign
    )
    rows = [{"epoch": i + 1} | ({} if v is None else {"eval_figure": sign * v}) for i, v in enumerate(figures)]
    ends = [count for count in range(1, len(rows) + 1) if Judge.tired(judge, rows[:count])]
    assert (ends or [None])[0] == end


def test_a_run_ends_early_at_the_same_epoch_after_a_kill(tmp_path, monkeypatch, capsys):
    """The rate is 0, so that nothing gets better."""
    changes = {"epochs": 9, "optim.lr": 0.0, "early_stop.patience": 2}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        save = engine._Session.save

        def killed_at_the_second_epoch(self):
            save(self)
            if self.step == 12:
                raise KeyboardInterrupt

        patch.setattr(engine._Session, "save", killed_at_the_second_epoch)
        kzoo.train(RECIPE, tmp_path / "run", changes, data=(IMAGES, LABELS))
    run = kzoo.train(RECIPE, tmp_path / "run", changes, data=(IMAGES, LABELS))
    assert [row["epoch"] for row in run.history] == [1, 2, 3] and run.best["epoch"] == 1
    assert "the last 2 evaluations gave no better accuracy than" in run.ended
    assert "ended after epoch 3 of 9: early_stop.patience=2: " in (said := capsys.readouterr().err)
    assert "best.npz has the best" in said and (run.workdir / "model.keras").exists()
    again = kzoo.train(RECIPE, tmp_path / "run", changes, data=(IMAGES, LABELS))
    assert again.history == run.history
    assert "is finished, at step 18 of 54" in capsys.readouterr().err
    on = kzoo.train(RECIPE, tmp_path / "run", changes | {"early_stop.patience": 3}, data=(IMAGES, LABELS))
    assert [row["epoch"] for row in on.history] == [1, 2, 3, 4]


def test_old_records_know_no_early_stop(whole):
    text = (whole.workdir / "recipe.txt").read_text()
    old = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("early_stop"))
    assert old != text and recipe_files.parse(old)[0] == recipe_files.parse(text)[0]


SCHEDULES = {
    "constant": ({}, True),
    "constant, warm-up of half the run": ({"warmup_steps": 15}, False),
    "step": ({"name": "step", "drop_epochs": (1.0,)}, True),
    "cosine": ({"name": "cosine"}, False),
    "cosine, still in its warm-up": ({"name": "cosine", "warmup_steps": 6}, True),
    "linear": ({"name": "linear"}, False),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_which_schedules_let_a_run_go_on(case, monkeypatch):
    """By the rates themselves: of 12 of 18 steps in 3 epochs, or of 6, then of 30 in 5."""
    fields, allowed = SCHEDULES[case]
    old = dataclasses.replace(RECIPE, epochs=3, schedule=schema.Schedule(**{"name": "constant"} | fields))
    new = dataclasses.replace(old, epochs=5)
    step = 6 if "still" in case else 12
    monkeypatch.setattr("kzoo.training.longer.read_checkpoint", lambda *_: ({}, {"step": step}))
    source = kdata.open_source("fake:size=12,n=54,classes=3", "train")
    rates = [np.asarray(Plan(recipe, source).schedule(np.arange(step)) + np.zeros(step)) for recipe in (old, new)]
    assert np.array_equal(*rates) == allowed
    if allowed:
        require_same_so_far("run", old, new, {"steps_per_epoch": 6})
    else:
        with pytest.raises(UserError, match="rates of the steps so far would have been others.*init_from=run"):
            require_same_so_far("run", old, new, {"steps_per_epoch": 6})
    with pytest.raises(UserError, match="progressive gives every image size an equal share"):
        require_same_so_far(
            "run",
            dataclasses.replace(old, progressive=(8, 12)),
            dataclasses.replace(new, epochs=9, progressive=(8, 12)),
            {"steps_per_epoch": 2},
        )


def test_a_terminal_sees_that_something_is_going_on(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, lively in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with logs.Waiting("compiling the step") as waiting:
            while lively and not stream.getvalue():
                time.sleep(0.001)
            waiting.done()
            waiting.done()
        with logs.Passing("evaluating, batch", 2) as passing:
            for _ in range(3):
                passing.batch()
        shown = [text.strip() for text in stream.getvalue().split("\r") if text.strip()]
        assert shown == (["compiling the step ... 0:00", "evaluating, batch 1/2"] if lively else [])
        assert not lively or stream.getvalue().endswith("\r")  # what comes next begins the line anew
