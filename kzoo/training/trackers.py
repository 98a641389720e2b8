"""Experiment trackers beside TensorBoard: Weights & Biases and MLflow, by their own packages, for whoever names them in
`track`.

A run has one run of a tracker, however often it is continued: its id lies in the run's folder. Where the trackers keep
what they are told is theirs to say, by WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the
like.
"""

import json
import os
import re
import shutil
import time
import weakref

from kzoo.errors import require
from kzoo.files import write_text
from kzoo.settings import flatten
from kzoo.system import reason, say

IDS = "trackers.json"  # in a run's folder
PROJECT = "kzoo"  # where the environment names no other
SECONDS = 60  # that a tracker may take to begin and to end


def open_trackers(recipe, workdir, history):
    """The trackers of a recipe's `track`, opened, with those rows of the run's history that they do not hold yet.

    Raises MissingPackage for one that is not installed. Whatever else goes wrong with a tracker, now or later, is said
    once; the run goes on without it.
    """
    for name in recipe.track:
        require(name, why=f"track={name!r}")
    return [_Guarded(name, KINDS[name], recipe, workdir, history) for name in recipe.track]


class Boards:
    """Some of them as one: add(row) of an epoch, close(metrics) at the end of the run."""

    def __init__(self, *boards):
        self._boards = boards

    def add(self, row):
        for board in self._boards:
            board.add(row)

    def close(self, metrics):
        """metrics: what the finished run is judged by."""
        for board in self._boards:
            board.close(metrics) if isinstance(board, _Guarded) else board.close()


class _Guarded:
    """A tracker whose failures are told once."""

    def __init__(self, name, kind, recipe, workdir, history):
        self.name, self._tracker = name, None
        self._tracker = self._tried(lambda: kind(recipe, workdir, history))

    def add(self, row):
        if self._tracker is not None:
            self._tried(lambda: self._tracker.add(row))

    def close(self, metrics):
        if self._tracker is not None:
            self._tried(lambda: self._tracker.close(metrics))

    def _tried(self, work):
        try:
            return work()
        except Exception as error:  # each has its own classes, for the network, the disk, the account
            said = " ".join(reason(error).split())[:200]
            say(f"{self.name} fails ({said}); the run goes on without it.")
            self._tracker = None


def named(row):
    """{name as in TensorBoard: number} of a row of the run's history."""
    return {
        key if key in ("epoch", "minutes") else f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}": value
        for key, value in row.items()
        if key not in ("step", "time") and isinstance(value, (int, float))
    }


def _kept_id(workdir, name, made):
    """The id of the tracker's run for this folder: that of before, else made(), which is then kept."""
    path = workdir / IDS
    ids = json.loads(path.read_text()) if path.exists() else {}
    if name not in ids:
        ids[name] = made()
        write_text(path, json.dumps(ids, indent=1) + "\n")
    return ids[name]


class WandB:
    """https://docs.wandb.ai. Offline, a continued run is written anew, whole; online the server tells what it has."""

    def __init__(self, recipe, workdir, history):
        import wandb

        own = _kept_id(workdir, "wandb", lambda: os.urandom(4).hex())
        before = sorted((workdir / "wandb").glob(f"offline-run-*-{own}"))
        settings = wandb.Settings(
            reinit="create_new",  # whoever trains may have a run of their own
            console="off",
            silent=True,
            init_timeout=SECONDS,
            finish_timeout=SECONDS,
            login_timeout=SECONDS,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=own,
            name=os.environ.get("WANDB_NAME", workdir.resolve().name),
            dir=str(workdir),
            config=flatten(recipe),
            resume="allow",
            settings=settings,
        )
        self._end = weakref.finalize(self, self._run.finish, 1)  # of a run that does not come to its end
        first = 0 if self._run.offline else self._run.step
        for row in history:
            if row["step"] >= first:
                self.add(row)
        if self._run.offline:
            for folder in before:
                shutil.rmtree(folder)
        say(f"wandb: run {own}, {self._run.dir if self._run.offline else self._run.url}")

    def add(self, row):
        self._run.log(named(row), step=row["step"], commit=True)

    def close(self, metrics):
        self._run.summary.update({f"final/{key}": value for key, value in metrics.items()})
        self._end.detach()
        self._run.finish()


class MLflow:
    """https://mlflow.org. Of a continued run what is already there is asked and not added again."""

    def __init__(self, recipe, workdir, history):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # of 7, an epoch would wait minutes for a server
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self._client = MlflowClient()
        self._id = _kept_id(workdir, "mlflow", lambda: self._made(workdir.resolve().name))
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id).data
        params = {re.sub(r"[^\w./ -]", "_", key): str(value)[:500] for key, value in flatten(recipe).items()}
        new = [Param(key, value) for key, value in params.items() if key not in known.params]
        for start in range(0, len(new), 100):  # the most that it takes at once
            self._client.log_batch(self._id, params=new[start : start + 100])
        self._client.log_batch(self._id, tags=[RunTag("kzoo.workdir", str(workdir))])
        self._end = weakref.finalize(self, self._client.set_terminated, self._id, "KILLED")
        self._held = {key: {m.step for m in self._client.get_metric_history(self._id, key)} for key in known.metrics}
        self._step = 0
        for row in history:
            self.add(row)
        say(f"mlflow: run {self._id} in {self._client.tracking_uri}")

    def _made(self, name):
        called = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(called)
        number = experiment.experiment_id if experiment else self._client.create_experiment(called)
        return self._client.create_run(number, run_name=name).info.run_id

    def add(self, row):
        self._step = row["step"]
        self._log(named(row), self._step, row["time"])

    def _log(self, figures, step, when):
        from mlflow.entities import Metric

        new = [
            Metric(key, float(value), int(1000 * when), step)
            for key, value in figures.items()
            if step not in self._held.get(key, ())
        ]
        if new:
            self._client.log_batch(self._id, metrics=new)

    def close(self, metrics):
        figures = {f"final/{key}": value for key, value in metrics.items() if isinstance(value, (int, float))}
        self._log(figures, self._step, time.time())
        self._end.detach()
        self._client.set_terminated(self._id, "FINISHED")


KINDS = {"wandb": WandB, "mlflow": MLflow}
