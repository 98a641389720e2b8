"""Sweeps: what their grids say, and trials that are killed, continued, failed and never repeated."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kzoo
from kzoo import cli, recipe_files, schema, sweeping
from kzoo.errors import UsageError, UserError
from kzoo.settings import flatten, override
from kzoo.sweeping import apart, grids
from kzoo.training import engine

RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 12, "patch_size": 4, "depth": 1},
    data=schema.Data(source="fake:size=12,n=16,classes=3", batch_size=8),
    optim=schema.Optim(clip_norm=None),
    xla="off",
)


def parsed(key, text):
    return grids.parsed(key, text, RECIPE)


def test_values_are_those_of_the_recipes_fields():
    assert parsed("optim.lr", "1e-4, 3e-4,1") == [1e-4, 3e-4, 1.0]
    assert parsed("epochs", [2, "3", 2]) == [2, 3]
    assert parsed("optim.clip_norm", "None,1") == [None, 1.0]
    assert parsed("progressive", "(8,12),(12,)") == [(8, 12), (12,)]
    assert parsed("overrides.depth", "1,2") == [1, 2] and parsed("optim.name", "sgd,lion") == ["sgd", "lion"]
    assert parsed("data.source", '"a,b",npz:../x') == ["a,b", "npz:../x"]
    for key, text, words in (
        ("optim.rate", "1", "unknown recipe key"),
        ("lr", "1e-3", "did you mean optim.lr"),
        ("epochs", "1.5", "epochs takes int"),
        ("optim.name", "sgdd", "did you mean sgd"),
        ("epochs", " , ", "no values to try"),
    ):
        with pytest.raises(UsageError, match=words):
            parsed(key, text)


def test_ranges():
    made = grids.Range
    assert parsed("optim.lr", "1e-5..1e-2") == made(1e-5, 1e-2, True, False)
    assert parsed("optim.weight_decay", "0..1:linear") == made(0.0, 1.0, False, False)
    assert parsed("optim.beta_1", "0.5..0.99") == made(0.5, 0.99, False, False)
    assert parsed("epochs", "2..40:log") == made(2, 40, True, True)
    assert parsed("overrides.depth", "1..3") == made(1, 3, False, True)
    for key, text, words in (
        ("optim.lr", "1e-2..1e-5", "a range goes up"),
        ("optim.weight_decay", "0..1", "above 0 where it is drawn by its logarithm"),
        ("epochs", "1..2.5", "epochs takes int"),
        ("optim.name", "1..2", "did you mean|unknown"),
    ):
        with pytest.raises(UsageError, match=words):
            parsed(key, text)


def test_folders_tell_the_values():
    assert grids.folder_of({"optim.lr": 1e-4, "epochs": 3}) == "optim.lr=0.0001,epochs=3"
    assert grids.folder_of({"progressive": (8, 12)}) == "progressive=(8,12)"
    names = {grids.folder_of({"data.source": source}) for source in ("npz:a/b", "npz:a_b", "x" * 300)}
    assert len(names) == 3 and all("/" not in name and len(name) < 120 for name in names)


def test_without_optuna_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("kzoo.errors.importlib.util.find_spec", lambda name: None)
    assert cli.main(["sweep", "vit_tiny_digits", "--grid", "optim.lr=1,2"]) == 1
    assert 'a sweep needs optuna: pip install "kzoo[tune]"' in capsys.readouterr().err


def test_a_grid_killed_goes_on_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    """The second of three trials ends after its first step, the third leaves the numbers; in this process, as the data
    is given.
    """
    pytest.importorskip("optuna")
    data = [kzoo.data.open_source("fake:size=12,n=16,classes=3", split) for split in ("train", "test")]
    grid = {"optim.lr": "1e-3,0.0,1e38", "optim.name": ["sgd"]}
    save = engine._Session.save

    def killed(self):
        save(self)
        if self.recipe.optim.lr == 0 and self.step == 1:
            raise KeyboardInterrupt

    changes = {"checkpoint.every_steps": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine._Session, "save", killed)
        kzoo.sweep(RECIPE, grid, workdir=tmp_path / "sweep", overrides=changes, data=data)
    first = (tmp_path / "sweep" / "optim.lr=0.001" / "model.keras").stat().st_mtime_ns
    capsys.readouterr()
    trials, headline = kzoo.sweep(RECIPE, grid, workdir=tmp_path / "sweep", overrides=changes, data=data)
    said = capsys.readouterr().err
    assert "optim.lr=0.0 from step 1 of 2" in said and "optim.lr=0.001" not in said
    assert "trial 3 of 3: optim.lr=1e+38" in said and "at step 2; the run stopped" in said
    assert (tmp_path / "sweep" / "optim.lr=0.001" / "model.keras").stat().st_mtime_ns == first
    assert headline == "accuracy" and [trial.state for trial in trials] == ["finished", "finished", "failed"]
    assert trials[0].best >= trials[1].best and trials[2].best is None and "the loss became" in trials[2].note
    for trial in trials[:2]:
        told = json.loads((trial.folder / "metrics.json").read_text())
        assert (trial.last, trial.epoch) == (told["accuracy"], 1) and trial.last == trial.best
        assert recipe_files.read_recipe(trial.folder)[0].optim.lr == trial.values["optim.lr"]
    with open(tmp_path / "sweep" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [trial.folder.name for trial in trials]
    assert [row["state"] for row in rows] == ["finished", "finished", "failed"]
    text = sweeping.told(trials, headline).splitlines()
    assert text[0].split() == "optim.lr optim.name best accuracy in epoch last state".split() and len(text) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/*")}
    assert kzoo.sweep(RECIPE, grid, workdir=tmp_path / "sweep", overrides=changes, data=data)[0] == trials
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/*")} == before
    for other, base, words in (({"optim.lr": "1e-3"}, changes, "grid"), (grid, {}, "recipe")):
        with pytest.raises(UsageError, match=f"holds a sweep of another {words}"):
            kzoo.sweep(RECIPE, other, workdir=tmp_path / "sweep", overrides=base)


@pytest.mark.slow
def test_trials_have_processes_of_their_own_and_end_with_the_sweeps(tmp_path, monkeypatch):
    """Under JAX, which starts soonest. The sweep is killed, and its trial saves and ends by itself."""
    pytest.importorskip("optuna")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    (tmp_path / "toy.txt").write_text(recipe_files.dump(RECIPE))
    words = ["--grid", "optim.lr=1e-3", "--workdir", str(tmp_path / "sweep")]
    long = ["--set", "epochs=4000", "checkpoint.every_minutes=None"]
    path = os.pathsep.join(filter(None, (str(pathlib.Path(kzoo.__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "kzoo", "sweep", str(tmp_path / "toy.txt"), *words]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([*command, *long], env=os.environ | {"PYTHONPATH": path}, stderr=said)
    folder = tmp_path / "sweep" / "optim.lr=0.001"
    try:
        wait_for(lambda: (folder / "checkpoint.npz").exists() or process.poll() is not None)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    wait_for(lambda: "ended by SIGTERM: what was trained is saved" in (tmp_path / "said").read_text())
    shutil.rmtree(tmp_path / "sweep")
    (trial,), headline = kzoo.sweep(RECIPE, {"optim.lr": [1e-3]}, workdir=tmp_path / "sweep")
    assert (trial.state, trial.folder, headline) == ("finished", folder, "accuracy")
    assert recipe_files.read_recipe(folder)[1]["backend"] == "jax"
    assert trial.last == json.loads((folder / "metrics.json").read_text())["accuracy"]


def wait_for(true):
    end = time.monotonic() + 600
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def in_this_process(monkeypatch):
    """Of a recipe in a file."""
    read = recipe_files.read_record
    monkeypatch.setattr(apart, "apart", lambda file, *trial: apart.outcome(read(file)[0], *trial, None))


@pytest.mark.parametrize(
    ("child", "kind", "words"),
    [
        ('print(\'{"error": "no such file.", "usage": false}\')', UserError, "^no such file.$"),
        ('print(\'{"error": "no key.", "usage": true}\')', UsageError, "^no key.$"),
        ("import os; os.kill(os.getpid(), 9)", UserError, "a trial: the process ended with status -9"),
    ],
)
def test_what_ends_a_trials_process_is_told(monkeypatch, child, kind, words):
    monkeypatch.setattr(apart, "_CHILD", child)
    with pytest.raises(kind, match=words):
        apart.apart("base.txt", "a trial", {"epochs": 1})


def stand_in(monkeypatch, **told):
    """Trains nothing: the figure is that of the rate, nearest 1e-3 the best."""
    ran = []

    def train(recipe, folder, values, data):
        ran.append(values)
        if len(ran) == told.get("ends_at"):
            raise KeyboardInterrupt
        loss = abs(np.log10(values["optim.lr"]) + 3)
        history = ({"epoch": 1, "step": 1, "eval_loss": loss}, {"epoch": 2, "step": 2, "eval_loss": loss + 1})
        return engine.Run(folder, {"loss": loss + 1}, history)

    monkeypatch.setattr(apart, "train", train)
    in_this_process(monkeypatch)
    return ran


def test_random_trials_are_the_same_however_often_the_sweep_is_ended(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    grid = {"optim.lr": "1e-5..1e-1", "epochs": "1..3", "progressive": "(12,),(8,12)"}
    whole = stand_in(monkeypatch)
    trials, headline = kzoo.sweep(RECIPE, grid, random=8, workdir=tmp_path / "whole")
    assert headline == "loss" and len(whole) == 8 == len({str(values) for values in whole})
    rates = np.log10([values["optim.lr"] for values in whole])
    assert rates.min() >= -5 and rates.max() <= -1 and rates.std() > 0.6 and (rates < -3).any() and (rates > -3).any()
    assert {values["epochs"] for values in whole} == {1, 2, 3}
    assert {values["progressive"] for values in whole} == {(12,), (8, 12)}
    assert [t.best for t in trials] == sorted(t.best for t in trials) and trials[0].last == trials[0].best + 1
    assert all(float(f"{v['optim.lr']:.4g}") == v["optim.lr"] for v in whole)
    ended = stand_in(monkeypatch, ends_at=3)
    with pytest.raises(KeyboardInterrupt):
        kzoo.sweep(RECIPE, grid, random=5, workdir=tmp_path / "ended")
    kzoo.sweep(RECIPE, grid, random=5, workdir=tmp_path / "ended")
    assert ended == whole[:3] + whole[2:5]
    kzoo.sweep(RECIPE, grid, random=8, workdir=tmp_path / "ended")
    assert ended[6:] == whole[5:]


def test_a_small_grid_is_drawn_whole_and_no_further(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    ran = stand_in(monkeypatch)
    kzoo.sweep(RECIPE, {"optim.lr": "1e-3,1e-2"}, random=5, workdir=tmp_path / "sweep")
    assert sorted(values["optim.lr"] for values in ran) == [1e-3, 1e-2]
    assert "no more than 2 combinations" in capsys.readouterr().err


def test_what_fails_for_all_trials_ends_the_sweep_and_a_grid_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    in_this_process(monkeypatch)
    with pytest.raises(UserError, match="there is no file"):
        kzoo.sweep(RECIPE, {"epochs": "1,2"}, workdir=tmp_path / "a", overrides={"data.source": "npz:none.npz"})
    for grid, random, words in (
        ({}, None, "--grid KEY=a,b or"),
        ({"optim.lr": "1e-5..1e-3"}, None, "optim.lr is a range, of which --random N draws"),
        ({"optim.lr": "1e-5..1e-3"}, 0, "at least 1, not 0"),
    ):
        with pytest.raises(UsageError, match=words):
            kzoo.sweep(RECIPE, grid, random, workdir=tmp_path / "b")


def test_the_command_tells_the_table(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    stand_in(monkeypatch)
    words = ["sweep", "vit_tiny_digits", "--grid", "optim.lr=1e-4,1e-3", "--workdir", str(tmp_path / "sweep")]
    assert cli.main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["optim.lr", "0.001", "0.0001"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["headline"] == "loss" and [t["values"]["optim.lr"] for t in told["trials"]] == [1e-3, 1e-4]


def test_a_recipe_is_shown_as_it_would_be_recorded(capsys):
    assert cli.main(["recipe", "show", "vit_tiny_digits", "--set", "optim.lr=0.5"]) == 0
    text = capsys.readouterr().out
    assert text == recipe_files.dump(override(kzoo.recipe("vit_tiny_digits"), {"optim.lr": 0.5}))
    assert cli.main(["recipe", "show", "vit_tiny_digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(flatten(kzoo.recipe("vit_tiny_digits"))))
