"""Experiment trackers: what they are told of a run that was broken off and continued, by their own packages; what fails
is told once.
"""

import csv
import gc
import importlib.util
import json
import struct

import numpy as np
import pytest

import kzoo
from kzoo import recipe_files, schema
from kzoo.errors import UsageError, UserError
from kzoo.settings import override
from kzoo.training import engine, trackers

ROW = {"epoch": 1, "step": 3, "lr": 0.1, "loss": 2.5, "eval_loss": 2.0, "time": 5.0, "minutes": 0.1}
RECIPE = schema.Recipe(
    model="vit_toy",
    overrides={"image_size": 16, "patch_size": 4},
    data=schema.Data(source="fake:size=16,n=16,classes=4", batch_size=8),
    epochs=3,
    xla="off",
)


def installed(name):
    why = f'needs the package of {name}: pip install "kzoo[test]"'
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=why)


@pytest.mark.parametrize(
    ("text", "found"),
    [("wandb", ("wandb",)), ("wandb,mlflow", ("wandb", "mlflow")), ("()", ()), ('["mlflow"]', ("mlflow",))],
)
def test_trackers_are_named_in_the_recipe(text, found, tmp_path):
    recipe = override(RECIPE, {"track": text})
    assert recipe.track == found
    (tmp_path / "recipe.txt").write_text(recipe_files.dump(recipe))
    assert recipe_files.read_record(tmp_path / "recipe.txt")[0] == recipe
    assert recipe_files.smoke(recipe, "vit_toy").track == ()


def test_another_tracker_is_refused():
    with pytest.raises(UsageError, match="unknown tracker 'wandbb'; did you mean wandb"):
        schema.Recipe(model="vit_toy", track=("wandbb",))


def test_one_that_is_not_installed_is_refused_before_the_first_step(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else find(name))
    with pytest.raises(UserError, match=r"""track='mlflow' needs mlflow: pip install "kzoo\[mlflow\]\""""):
        trackers.open_trackers(override(RECIPE, {"track": "mlflow"}), tmp_path, [])


class Failing:
    """Of a network that is gone at a given moment."""

    def __init__(self, moment):
        self.moment = moment

    def __call__(self, recipe, workdir, history):
        self.reached("open")
        return self

    def reached(self, moment):
        if moment == self.moment:
            raise ConnectionError(f"no network\nat {moment}")

    def add(self, row):
        self.reached("add")

    def close(self, metrics):
        self.reached("close")


@pytest.mark.parametrize("moment", ["open", "add", "close"])
def test_a_failure_is_told_once_and_stops_nothing(moment, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers, "require", lambda *names, why: None)
    monkeypatch.setattr(trackers, "KINDS", {"wandb": Failing(moment), "mlflow": Failing("never")})
    added = []

    class Board:
        def add(self, row):
            added.append(row)

        def close(self):
            added.append("closed")

    recipe = override(RECIPE, {"track": "wandb,mlflow"})
    boards = trackers.Boards(Board(), *trackers.open_trackers(recipe, tmp_path, []))
    boards.add(ROW)
    boards.add(ROW)
    boards.close({"accuracy": 1.0})
    assert added == [ROW, ROW, "closed"]
    assert capsys.readouterr().err == f"wandb fails (no network at {moment}); the run goes on without it.\n"


def test_figures_are_named_as_in_tensorboard():
    assert trackers.named(ROW | {"note": "x"}) == {
        "epoch": 1,
        "train/lr": 0.1,
        "train/loss": 2.5,
        "eval/loss": 2.0,
        "minutes": 0.1,
    }


def wandb_records(path):
    """The records of a .wandb file: after a header of 7 bytes LevelDB's log, in blocks of 32 KiB, and in it W&B's own
    protocol buffers.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])  # kind: 1 whole, 2 first, 3 middle, 4 last
        whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record


def told_wandb(workdir, run):
    """({figure: [(step, value)]}, final metrics, configuration) of what lies there to be synced."""
    (store,) = (workdir / "wandb").glob(f"offline-run-*/run-{run}.wandb")
    figures, final, config = {}, {}, {}
    for record in wandb_records(store):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                figures.setdefault(name, []).append((row["_step"], value))
        elif kind == "summary":
            items = ((".".join(item.nested_key) or item.key, item.value_json) for item in record.summary.update)
            final |= {name[6:]: json.loads(value) for name, value in items if name.startswith("final/")}
        elif kind == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return figures, final, config


def told_mlflow(workdir, run):
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_run(run)
    assert found.info.status == "FINISHED"
    held = {name: [(m.step, m.value) for m in client.get_metric_history(run, name)] for name in found.data.metrics}
    final = {name[6:]: rows[0][1] for name, rows in held.items() if name.startswith("final/") and len(rows) == 1}
    return held, final, found.data.params


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("wandb", told_wandb, marks=installed("wandb")),
        pytest.param("mlflow", told_mlflow, marks=installed("mlflow")),
    ],
)
def test_a_run_that_was_broken_off_is_one_run_there(name, told, tmp_path, monkeypatch, capsys):
    """Once between the checkpoint and the row, once after it; every row of log.csv is there once, with its step."""
    monkeypatch.chdir(tmp_path)
    for key, value in (("WANDB_MODE", "offline"), ("MLFLOW_ALLOW_FILE_STORE", "true"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    workdir = tmp_path / "run"
    for method, row in (("add", 1), ("save", 2)):
        owner = trackers.Boards if method == "add" else engine._Session
        whole, calls = getattr(owner, method), []

        def broken(self, *arguments, whole=whole, calls=calls, row=row):
            whole(self, *arguments)
            calls.append(1)
            if len(calls) == row:
                raise Killed

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(owner, method, broken)
            kzoo.train(RECIPE, workdir, {"track": name})
        gc.collect()
    ids = json.loads((workdir / "trackers.json").read_text())
    done = kzoo.train(RECIPE, workdir, {"track": name, "checkpoint.every_minutes": 5.0})
    assert json.loads((workdir / "trackers.json").read_text()) == ids and len(ids) == 1
    figures, final, config = told(workdir, ids[name])
    rows = list(csv.DictReader((workdir / "log.csv").open(newline="")))
    assert len(rows) == 3
    for column in set(rows[0]) - {"step"}:
        (key,) = trackers.named({column: 0.0})
        expected = [(int(row["step"]), float(row[column])) for row in rows]
        np.testing.assert_allclose(sorted(figures[key]), expected, rtol=1e-6)
    assert final == pytest.approx(done.metrics) and float(config["optim.lr"]) == 1e-3
    assert f"{name}: run {ids[name]}" in capsys.readouterr().err
    if name == "wandb":  # what is learnt does not depend on who is told
        plain = kzoo.train(RECIPE, tmp_path / "plain")
        assert [row["loss"] for row in plain.history] == [row["loss"] for row in done.history]
        assert not (tmp_path / "plain" / "trackers.json").exists()
