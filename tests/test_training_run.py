"""Whole runs: continued after any end bit for bit, on the averaged weights, stopped in a sentence, refused where they
do not fit.
"""

import csv
import dataclasses
import errno
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import kzoo
from kzoo import recipe_files, schema, settings
from kzoo.errors import UserError
from kzoo.tasks.classify import Classify, ClassMeter
from kzoo.training import engine, state, watch
from kzoo.weights.read import read_checkpoint

ROOT = pathlib.Path(__file__).parent.parent
STEPS_PER_EPOCH, STEPS = 3, 8
# Everything random is on, every step is saved; the third epoch is cut short. A graph compiles faster than XLA, which
# JAX uses below.
RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 16, "patch_size": 4}
    | dict.fromkeys(("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"), 0.1)
    | {"drop_path_rate": 0.2},
    data=schema.Data(
        source="fake:size=16,n=26,classes=4",
        batch_size=8,
        augment=schema.Augment(crop_scale=(0.5, 1.0), flip=0.5, shift=2),
    ),
    optim=schema.Optim(ema=0.8),
    schedule=schema.Schedule(warmup_steps=2),
    checkpoint=schema.Checkpoint(every_steps=1),
    task=schema.Classify(label_smoothing=0.1),
    epochs=3,
    steps=STEPS,
    xla="off",
)


def train(workdir, recipe=RECIPE, **overrides):
    return kzoo.train(recipe, workdir, {key.replace("__", "."): value for key, value in overrides.items()})


def learned(history):
    """A history without what the clock says."""
    return [{k: v for k, v in row.items() if k not in ("time", "minutes", "images_per_second")} for row in history]


def assert_same_end(run, other):
    """Weights, averages, optimizer, random state and running means; metrics and history: everything but times."""
    (ours, meta), (theirs, other_meta) = read_checkpoint(run), read_checkpoint(other)
    assert set(ours) == set(theirs)
    assert any(key.startswith("average/") for key in ours) and any(key.startswith("state/") for key in ours)
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    assert meta["step"] == other_meta["step"] == STEPS
    assert (meta["metrics"], learned(meta["history"])) == (other_meta["metrics"], learned(other_meta["history"]))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return train(tmp_path_factory.mktemp("untouched") / "run")


def interrupt_after(monkeypatch, step):
    """The run is interrupted as soon as its checkpoint of that step is on disk."""
    save = engine._Session.save

    def save_and_stop(self):
        save(self)
        if self.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine._Session, "save", save_and_stop)


def test_a_run_interrupted_at_its_very_end_ends_as_if_nothing_had_happened(untouched, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, STEPS)
        train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[1]["step"] == STEPS
    run = train(tmp_path / "run")
    assert_same_end(run.workdir, untouched.workdir)
    rows = list(csv.DictReader(io.StringIO((run.workdir / "log.csv").read_text())))
    assert [int(row["step"]) for row in rows] == [3, 6, 8]


def terminate(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)


# Where SIGTERM comes: (module or class, its function, at which of its calls); the step that is then saved.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "step"),
    [
        ((watch.Watch, "on_train_batch_end", 4), 4),  # in the middle of an epoch
        ((ClassMeter, "update", 1), 3),  # between the batches of an evaluation, which is left for later
        ((state.np, "savez", 3), 6),  # while it saves
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_a_run_asked_to_end_saves_its_step_and_ends_as_if_nothing_had_happened(
    untouched, tmp_path, monkeypatch, capsys, where, step
):
    owner, name, call = where
    function, calls, previous = getattr(owner, name), [], signal.getsignal(signal.SIGTERM)

    def terminated(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            terminate(times=2)
        return function(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(owner, name, terminated)
        train(tmp_path / "run", checkpoint__every_steps=5)
    assert end.value.code == 143 and signal.getsignal(signal.SIGTERM) is previous
    assert f"{tmp_path / 'run'} ended by SIGTERM: what was trained is saved" in capsys.readouterr().err.splitlines()[-1]
    assert read_checkpoint(tmp_path / "run")[1]["step"] == step and not list((tmp_path / "run").glob(".*.tmp-*"))
    assert_same_end(train(tmp_path / "run").workdir, untouched.workdir)


@pytest.mark.slow
def test_what_an_evaluation_leaves_for_the_next_outlives_an_end(tmp_path, monkeypatch):
    """The run is asked to end in its second evaluation, which is then repeated beside the same one before it."""
    update, told = ClassMeter.update, []

    def since(self, memory):
        memory["times"] = memory.get("times", 0) + 1
        told.append(memory["times"])
        return {"times": memory["times"]}

    def ended_once(self, *arguments):
        if told == [1]:
            told.append("ended")
            terminate()
        update(self, *arguments)

    monkeypatch.setattr(ClassMeter, "since", since)
    monkeypatch.setattr(ClassMeter, "update", ended_once)
    with pytest.raises(SystemExit):
        train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[1]["memory"] == {"times": 1}
    run = train(tmp_path / "run")
    assert told == [1, "ended", 2, 3] and run.metrics["times"] == 3
    assert kzoo.evaluate(run.workdir) | {"times": 3} == run.metrics  # of no run: not compared


@pytest.mark.slow
def test_an_end_during_the_evaluation_loses_no_epoch(untouched, tmp_path, monkeypatch):
    """The checkpoint may not stand at an epoch's last step before that epoch has its evaluation."""
    evaluate, calls = Classify.evaluate, []

    def stop_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Classify, "evaluate", stop_third)
        train(tmp_path / "run")
    assert_same_end(train(tmp_path / "run").workdir, untouched.workdir)


# Trains in each of the folders argv[2] (separated by commas) and, given argv[3], dies in the middle of that checkpoint.
CHILD = """
import os, signal, sys
from kzoo import recipe_files
from kzoo.training import engine
recipe, _ = recipe_files.parse(open(sys.argv[1]).read())
if len(sys.argv) > 3:
    import numpy as np
    savez, calls = np.savez, []
    def killed_in_the_middle(file, **arrays):
        calls.append(os.path.basename(file).startswith(".checkpoint"))
        if sum(calls) == int(sys.argv[3]):
            open(file, "wb").write(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        savez(file, **arrays)
    np.savez = killed_in_the_middle
for workdir in sys.argv[2].split(","):
    engine.train(recipe, workdir)
"""


def child(tmp_path, *arguments, recipe=RECIPE, **environment):
    (tmp_path / "recipe.txt").write_text(recipe_files.dump(recipe))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "recipe.txt"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_while_it_saves_and_started_again(untouched, tmp_path):
    """kill -9 in the middle of writing the fifth checkpoint: the fourth is whole, and what lies about is swept up."""
    run = tmp_path / "run"
    assert child(tmp_path, run, 5).returncode == -signal.SIGKILL
    assert read_checkpoint(run)[1]["step"] == 4
    assert list(run.glob(".*.tmp-*"))
    assert_same_end(train(run).workdir, untouched.workdir)
    assert not list(run.glob(".*.tmp-*"))


@pytest.mark.slow
def test_jax_continues_too(tmp_path):
    """Two processes of the JAX backend, whose step is XLA: the first ends one run and is killed in another, the second
    continues it. Of one block, as most of the time is compilation.
    """
    recipe = settings.override(RECIPE, {"xla": "required", "overrides.depth": 1})
    runs = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    assert child(tmp_path, runs, STEPS + 5, recipe=recipe, KERAS_BACKEND="jax").returncode == -signal.SIGKILL
    result = child(tmp_path, tmp_path / "b", recipe=recipe, KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "from step 4 of 8" in result.stderr
    assert_same_end(tmp_path / "b", tmp_path / "a")


def test_what_a_run_leaves(untouched):
    folder = untouched.workdir
    files = {p.name for p in folder.iterdir() if p.name != ".lock"}
    expected = {
        "checkpoint.npz",
        "checkpoint.npz.previous",
        "best.npz",
        "recipe.txt",
        "metrics.json",
        "log.csv",
        "model.keras",
        "learning_curve.png",
        "tensorboard",
    }
    assert files == expected
    recipe, record = recipe_files.parse((folder / "recipe.txt").read_text())
    assert recipe == RECIPE
    assert record["compiled"] == "graph" and record["version.keras"] == keras.__version__
    assert (record["backend"], record["steps_per_epoch"], record["total_steps"]) == (
        keras.backend.backend(),
        STEPS_PER_EPOCH,
        STEPS,
    )
    assert json.loads((folder / "metrics.json").read_text()) == untouched.metrics | {"steps": STEPS}
    assert [row["epoch"] for row in untouched.history] == [1, 2, 3]
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_tells_what_the_csv_tells(untouched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(untouched.workdir / "tensorboard")).Reload()
    for tag, key in (("train/loss", "loss"), ("eval/accuracy", "eval_accuracy"), ("train/lr", "lr")):
        assert [(e.step, e.value) for e in events.Scalars(tag)] == [
            (r["step"], np.float32(r[key])) for r in untouched.history
        ]


def test_evaluation_and_saved_models_are_on_the_averaged_weights(untouched):
    arrays, _ = read_checkpoint(untouched.workdir)
    for model in (untouched.model, kzoo.load(untouched.workdir / "model.keras")):
        for weight in model.trainable_weights:
            value = keras.ops.convert_to_numpy(weight)
            np.testing.assert_array_equal(value, arrays[f"average/{weight.path}"])
            assert not np.array_equal(value, arrays[f"weights/{weight.path}"])
    assert kzoo.evaluate(untouched.workdir) == pytest.approx(untouched.metrics, rel=1e-6)
    assert json.loads((untouched.workdir / "evaluation.json").read_text())["data"] == RECIPE.data.source


@pytest.mark.slow
def test_the_record_of_a_run_reproduces_it(untouched, tmp_path):
    run = kzoo.train(str(untouched.workdir / "recipe.txt"), tmp_path / "run")
    assert_same_end(run.workdir, untouched.workdir)


@pytest.mark.slow
def test_data_and_class_names_are_carried_along(tmp_path):
    run = train(tmp_path / "run", steps=1, data__source="digits", data__batch_size=64)
    assert run.model.spec.class_names == tuple("0123456789")
    assert run.model.input_shape == (None, 16, 16, 1) and run.metrics["images"] == 355
    others = kzoo.evaluate(run.workdir, data="fake:n=9,classes=4,channels=1")
    assert others["images"] == 9
    with pytest.raises(UserError, match="20 classes"):
        kzoo.evaluate(run.workdir, data="fake:classes=20")
    source = kzoo.data.open_source("digits", "test")
    source.class_names = tuple("abcdefghij")
    with pytest.raises(UserError, match="same classes"):
        kzoo.evaluate(run.workdir, data=source)


@pytest.mark.slow
def test_own_sources_are_named_in_the_record(tmp_path):
    sources = [kzoo.data.open_source("fake:size=16,n=10,classes=3", split) for split in ("train", "test")]
    run = kzoo.train(RECIPE, tmp_path / "run", {"steps": 1}, data=sources)
    assert recipe_files.parse((run.workdir / "recipe.txt").read_text())[0].data.source == "fake:size=16,n=10,classes=3"
    assert run.model.output_shape == (None, 3)
    assert run.history[-1]["step"] == 1  # ten pictures make one batch of eight: an epoch of one step


@pytest.mark.slow
def test_mixed_precision_is_the_runs_own(tmp_path):
    run = train(tmp_path / "run", steps=2, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    for model in (run.model, kzoo.load(run.workdir / "model.keras")):
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    arrays, _ = read_checkpoint(run.workdir)
    assert {value.dtype.name for key, value in arrays.items() if key.startswith("weights/")} == {"float32"}
    assert kzoo.evaluate(run.workdir)["loss"] == pytest.approx(run.metrics["loss"], abs=0.05)


@pytest.mark.slow
def test_starting_from_another_run_at_another_resolution(untouched, tmp_path):
    run = train(tmp_path / "run", steps=1, init_from=str(untouched.workdir), overrides__image_size=24, optim__lr=0.0)
    receipt = json.loads((run.workdir / "init_from.json").read_text())
    assert receipt["resized"] == ["pos_embed/table"] and receipt["source"] == str(untouched.workdir)
    assert receipt["reinitialised"] == receipt["unused"] == [] and len(receipt["loaded"]) > 20
    first, second = ({w.path: w for w in model.weights} for model in (untouched.model, run.model))
    assert second["pos_embed/table"].shape[1] == 1 + 36
    np.testing.assert_array_equal(second["head/kernel"], first["head/kernel"])


def test_a_rate_that_overflows_stops_the_run(tmp_path):
    settings = {"optim__name": "sgd", "optim__lr": 1e38, "optim__clip_norm": None, "schedule__warmup_steps": 0}
    with pytest.raises(UserError, match="at step 2;.*optim.lr"):
        train(tmp_path / "run", checkpoint__every_steps=None, **settings)
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it; what the step did to them shows when they are saved."""
    save = engine._Session.save

    def ruined_at_two(self):
        if self.step == 2:
            weight = self.stage.network.weights[0]
            weight.assign(np.full(weight.shape, np.inf))
        save(self)

    monkeypatch.setattr(engine._Session, "save", ruined_at_two)
    with pytest.raises(UserError, match="not finite after step 2;.*optim.lr"):
        train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[1]["step"] == 1


def test_a_nan_names_its_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    from kzoo.tasks.views.classify import ClassifyView

    compute, steps = ClassifyView.compute_loss, 5

    def poisoned(self, *arguments, **options):
        count = keras.ops.cast(self.optimizer.iterations, "float32")
        return keras.ops.where(count >= steps - 1, np.nan, compute(self, *arguments, **options))

    monkeypatch.setattr(ClassifyView, "compute_loss", poisoned)
    with pytest.raises(UserError, match=f"nan at step {steps};.*optim.lr"):
        train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[1]["step"] == steps - 1
    assert all(np.isfinite(weight).all() for weight in kzoo.load(tmp_path / "run").get_weights())


def copy_of(untouched, folder):
    folder.mkdir()
    for name in ("recipe.txt", "checkpoint.npz"):
        (folder / name).write_bytes((untouched.workdir / name).read_bytes())
    return folder


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
@pytest.mark.parametrize("call", [train, kzoo.load], ids=["train", "load"])
def test_a_damaged_checkpoint_is_told_in_a_sentence(untouched, tmp_path, damage, call):
    run = copy_of(untouched, tmp_path / "run")
    good = (run / "checkpoint.npz").read_bytes()
    middle = good.index(b"weights/blocks_0") + 2000
    flipped = good[:middle] + bytes(255 - b for b in good[middle : middle + 50]) + good[middle + 50 :]
    bad = {"truncated": good[: len(good) // 2], "flipped": flipped, "empty": b"", "text": b"no archive"}[damage]
    (run / "checkpoint.npz").write_bytes(bad)
    with pytest.raises(UserError, match="checkpoint.npz is damaged") as error:
        call(run)
    assert "\n" not in str(error.value)


def test_other_settings_are_refused_with_their_keys(untouched, tmp_path):
    run = copy_of(untouched, tmp_path / "run")
    with pytest.raises(UserError, match=r"optim.lr \(0.001 there, 0.5 now\).*seed"):
        train(run, optim__lr=0.5, seed=3)
    again = train(run, checkpoint__every_minutes=1)  # which changes no result
    assert again.metrics == untouched.metrics


def test_a_run_recorded_before_tasks_had_settings_goes_on(untouched, tmp_path):
    run = copy_of(untouched, tmp_path / "run")
    text = (run / "recipe.txt").read_text()
    former = text.replace("task.threshold = 0.5\n", "")  # which came later
    former = former.replace("task.kind = ", "task = ").replace("task.", "")
    assert former != text and all(line in former for line in ('task = "classify"\n', "label_smoothing = 0.1\n"))
    (run / "recipe.txt").write_text(former)
    assert train(run).metrics == kzoo.evaluate(run) == untouched.metrics
    with pytest.raises(UserError, match=r"task.label_smoothing \(0.1 there, 0.2 now\)"):
        train(run, task__label_smoothing=0.2)


def test_a_start_that_failed_may_be_corrected_in_place(tmp_path):
    with pytest.raises(UserError, match="no file"):
        train(tmp_path / "run", data__source=f"npz:{tmp_path}/none.npz")
    # a kill at the first step
    (tmp_path / "run" / "recipe.txt").write_text(recipe_files.dump(dataclasses.replace(RECIPE, seed=9)))
    assert train(tmp_path / "run", steps=1).history[-1]["step"] == 1


# What stands in a finished run's folder instead of what it wrote, and the words of the refusal.
@pytest.mark.parametrize(
    ("gone", "folder", "words"),
    [
        (
            "checkpoint.npz checkpoint.npz.previous",
            None,
            "model.keras of a run that has lost its checkpoint.npz: put it back to continue",
        ),
        ("checkpoint.npz", "checkpoint.npz", "checkpoint.npz stands where a run writes its own"),
        ("log.csv", "log.csv", "log.csv stands where a run writes its own"),
        ("metrics.json", "metrics.json", "metrics.json stands where a run writes its own"),
    ],
)
def test_a_finished_run_whose_files_are_gone_is_left_alone(untouched, tmp_path, gone, folder, words):
    run = tmp_path / "run"
    shutil.copytree(untouched.workdir, run)
    for name in gone.split():
        (run / name).unlink()
    if folder:
        (run / folder).mkdir()
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(UserError, match=words):
        train(run)
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda run: shutil.rmtree(run), "was moved or deleted while the run trained"),
        (lambda run: run.rename(run.with_name("moved")), "was moved or deleted while the run trained"),
        (lambda run: (run / "log.csv").mkdir(), "log.csv.*what was saved before is kept"),
        (lambda run: np.empty(2**50), "the memory ran out; what .*run holds is kept: lower data.batch_size"),
    ],
)
def test_a_folder_or_memory_lost_meanwhile_is_told(tmp_path, monkeypatch, harm, words):
    save = engine._Session.save

    def harmed(self):
        if self.step == 3:
            harm(tmp_path / "run")
        save(self)

    monkeypatch.setattr(engine._Session, "save", harmed)
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", overrides__depth=1, checkpoint__every_steps=2)


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\0b"])
def test_a_name_that_no_backend_writes_to_is_told(tmp_path, name):
    with pytest.raises(UserError, match="no UTF-8 or holds a NUL"):
        train(tmp_path / name)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, what):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("dear")
    target = tmp_path / "work" if what == "folder" else tmp_path / "work" / "thesis.tex"
    with pytest.raises(UserError, match="is not a run"):
        train(target)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["thesis.tex"]


def test_two_processes_in_one_folder_are_one_too_many(tmp_path):
    (tmp_path / "run").mkdir()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', "
        "flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "run" / ".lock"], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(UserError, match="another process"):
                train(tmp_path / "run")
        finally:
            holder.kill()
    with engine.claimed(tmp_path / "run", RECIPE):  # let go of with the process
        pass


@pytest.mark.slow
def test_a_full_disk_is_told_and_loses_nothing(untouched, tmp_path, monkeypatch):
    savez, calls = np.savez, []

    def full_at_the_third(file, **arrays):
        calls.append(1)
        if len(calls) == 3:
            pathlib.Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device.*make room"):
        patch.setattr(state.np, "savez", full_at_the_third)
        train(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[1]["step"] == 2
    assert not list((tmp_path / "run").glob(".*.tmp-*"))
    assert_same_end(train(tmp_path / "run").workdir, untouched.workdir)


@pytest.mark.slow
def test_checkpoints_by_minutes(tmp_path, monkeypatch):
    saved, save = [], engine._Session.save
    monkeypatch.setattr(engine._Session, "save", lambda self: (saved.append(self.step), save(self)))
    train(tmp_path / "run", steps=4, checkpoint__every_steps=None, checkpoint__every_minutes=0)
    assert saved == [1, 2, 3, 4]
    saved.clear()
    train(tmp_path / "other", steps=4, checkpoint__every_steps=2, checkpoint__every_minutes=None)
    assert saved == [2, 3, 4]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"overrides__num_classes": 2}, "4 classes"),
        ({"overrides__num_classes": 0}, "without a classifier's head"),
        ({"overrides__features_only": True}, "without a classifier's head"),
        ({"data__batch_size": 500}, "fewer than one batch; set data.batch_size to 26 or less"),
        ({"init_from": "runs/none"}, "does not exist"),
        ({"data__source": "coco"}, "data source"),
    ],
)
def test_what_cannot_be_trained_is_told(tmp_path, overrides, words):
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", **overrides)


def test_progress_tells_rate_and_remaining_time(capsys, monkeypatch):
    from kzoo.training import logs

    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    progress = logs.Progress(total=1000, batch_size=32, start=0)
    progress.live = False
    for step in range(1, 6):  # four seconds a step, a line every ten
        progress.update(step, 0, 3, {"loss": 1.5})
        now[0] += 4
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "epoch 1/3  step 1/1000  loss 1.5000  compiled",
        "epoch 1/3  step 4/1000  loss 1.5000  8 images/s, 1:06:24 left",
    ]
