"""kzoo.train: a recipe becomes a run in a folder, which a second call continues where it stopped."""

import dataclasses
import datetime
import json
import math
import pathlib
import tempfile
import time

import keras

from kzoo import __version__
from kzoo.data import tell_skipped
from kzoo.errors import UserError
from kzoo.files import replacing, write_text
from kzoo.keras_private import compiled_as
from kzoo.layers.base import parts_config
from kzoo.models.base import computing_in
from kzoo.recipe_files import EVALUATION_SOURCE, RECORD, dump, read_recipe
from kzoo.system import Terminated, say, terminable
from kzoo.training import logs, state
from kzoo.training.callbacks import Callbacks
from kzoo.training.devices import data_parallel
from kzoo.training.evaluation import averaged
from kzoo.training.judge import Judge
from kzoo.training.optimizer import require_xla
from kzoo.training.plan import Plan, opener, settle, take
from kzoo.training.record import record_of
from kzoo.training.run import Run
from kzoo.training.stage import Stage
from kzoo.training.survey import survey
from kzoo.training.trackers import Boards, open_trackers
from kzoo.training.watch import Watch
from kzoo.training.workdir import RECEIPT, claimed
from kzoo.weights import load
from kzoo.weights.backbone import start_from
from kzoo.weights.fill import transfer
from kzoo.weights.read import BEST, CHECKPOINT, read_checkpoint

CURVE_SECONDS = 30  # between drawings of the learning curve, which cost more than a short epoch's bookkeeping


def train(recipe, workdir=None, overrides=None, data=None, *, callbacks=(), smoke=False):
    """Trains a recipe in `workdir` (default runs/NAME) and returns a Run; called again on the same folder, it
    continues.

    overrides: {dotted recipe key: value}; on a run that has begun, epochs and steps may be others where its rates so
    far stay the same. data: a source's name, a kzoo.data source, (images, targets), a tf.data.Dataset or a PyDataset,
    or a pair of these (training, evaluation); without evaluation a tenth is held out by the samples' numbers (see
    kzoo.data.sources_of). What is no source is read into memory as bytes; a digest of it stands in the record, and a
    run is only continued with the same. callbacks: of Keras, told of the whole run as `fit` would tell them, epochs
    numbered from 0; the evaluation's figures are val_... in their logs, self.model is the task, its weights those that
    are trained, and one that sets model.stop_training ends the run as its last epoch would. What they change in
    on_train_end is not kept, and what they remember is not continued. smoke: the toy row, generated data, two steps, in
    a temporary folder unless one is given.

    Raises UserError for a folder that holds another run, a loss that is not finite, a required XLA step that is not to
    be had, a disk or memory that is full. Asked to end by SIGTERM, in the main thread, it finishes the step, saves and
    raises Terminated, a SystemExit of status 143.
    """
    name, recipe = settle(recipe, overrides, smoke)
    if smoke:
        workdir = workdir or tempfile.mkdtemp(prefix=f"kzoo-smoke-{name}-")
    recipe, sources, other = take(recipe, data)
    workdir = pathlib.Path(workdir or pathlib.Path("runs") / name)
    with terminable() as ending, claimed(workdir, recipe, other) as changed:
        with computing_in(recipe.precision), data_parallel(recipe):
            session = _Session(recipe, workdir, sources, ending, callbacks, changed)
            with ending.held():
                session.run()
        ending.check()
        return session.finish()


class _Session:
    """One process's work on a run."""

    def __init__(self, recipe, workdir, data, ending, callbacks, changed):
        keras.utils.set_random_seed(recipe.seed)
        self.recipe, self.workdir, self.ending, self.changed = recipe, workdir, ending, changed
        source, held_out = data or map(opener(recipe.data), (recipe.data.source,) * 2, (0, 1))
        self.plan = Plan(recipe, source)
        self.task, self.steps_per_epoch, self.total_steps = (
            self.plan.task,
            self.plan.steps_per_epoch,
            self.plan.total_steps,
        )
        self.judge = Judge(self.plan, held_out)
        self.callbacks = Callbacks(callbacks, self.plan.epochs, self.steps_per_epoch)
        self.resumes = (workdir / CHECKPOINT).exists()
        self.stage = Stage(self.plan, self._first_side())
        if recipe.init_from and not self.resumes:
            self._initialise()
        self.stage.compile()
        self.finest = self.stage.network if self.stage.is_last else self.plan.network()
        if not self.stage.is_last:
            state.require_carried(self.view, self.task.view(self.finest))
        self.judge.prepare(self.finest)
        self.step, self.history = 0, []
        self.unevaluated = None  # the last step's running means of an epoch that was ended during its evaluation
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.compiled, self.fresh, self.drawn = None, True, -math.inf  # fresh: the next step is compiled first
        self.stopped = ""  # by a callback: the sentence that says so
        self.started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")

    @property
    def view(self):
        return self.stage.view

    @property
    def seconds(self):
        """Wall time of the run, evaluations included; what a kill threw away is not counted."""
        return self.seconds_before + time.monotonic() - self.began

    def _first_side(self):
        """The image size to begin at: the checkpoint's own, from which the run may go on to another."""
        if not self.resumes:
            return self.plan.side_at(0)
        side = read_checkpoint(self.workdir, ("none",))[1]["side"]
        if side not in (self.recipe.progressive or (None,)):
            raise UserError(
                f"the checkpoint in {self.workdir} is of pictures of {side} pixels, which its recipe does not train on."
            )
        return side

    def _initialise(self):
        network, source = self.stage.network, self.recipe.init_from
        report = start_from(network, source)
        write_text(self.workdir / RECEIPT, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        say(f"started from {source}: {report}")

    def run(self):
        """Trains from the last checkpoint, or from the start, to the end of the recipe."""
        metric_values = self._resume() if self.resumes else self._begin()
        board = logs.TensorBoard(self.workdir, self.task.curves, self.history)
        self.board = Boards(board, *open_trackers(self.recipe, self.workdir, self.history))
        self.progress = logs.Progress(self.total_steps, self.recipe.data.batch_size, self.step)
        with self.callbacks:
            while self.unevaluated or not self._over():
                self._close_epoch(self.unevaluated or self._train_epoch(metric_values))
                metric_values = None
                self.ending.check()
        self.board.close(self.judge.metrics)

    def _over(self):
        return self.step >= self.total_steps or bool(self.ended)

    @property
    def ended(self):
        """Why the run ends before its epochs do, a sentence; "" where it does not."""
        return self.stopped or self.judge.tired(self.history)

    def _begin(self):
        for line in survey(self.plan, self.stage, self.judge.held_out, self.workdir):
            say(line)
        self._record()

    def _resume(self):
        """Takes up the checkpoint's state; returns the running means of the epoch it lies in, or None between two
        epochs.
        """
        meta, metric_values = state.restore(self.view, self.workdir)
        self.step, self.history, self.seconds_before = meta["step"], meta["history"], meta["seconds"]
        self.started, self.unevaluated = meta["started"], meta.get("unevaluated")
        self.judge.metrics, self.judge.memory = meta["metrics"], meta.get("memory", {})
        self.stopped = "" if self.changed else meta.get("stopped", "")  # asked for another length, it goes on
        if self.changed:
            self.compiled = read_recipe(self.workdir)[1].get("compiled")
            self._record()
            self.compiled = None
            told = ", ".join(f"{key} {new} instead of {old}" for key, (old, new) in self.changed.items())
            say(f"{self.workdir} goes on with {told}; its steps so far are those of such a run")
        # a kill may have come between the checkpoint and its row
        logs.write_csv(self.workdir, self.task.curves, self.history)
        over = self._over() and not self.unevaluated
        say(
            f"{self.workdir} is finished, at step {self.step} of {self.total_steps}"
            if over
            else f"continuing {self.workdir} from step {self.step} of {self.total_steps}"
        )
        return metric_values if self.step % self.steps_per_epoch else None

    def _train_epoch(self, metric_values):
        """Trains to the end of the current epoch (or of the run); returns the last step's running means."""
        per_epoch = self.steps_per_epoch
        epoch, done = divmod(self.step, per_epoch)
        self._enter(self.plan.side_at(epoch))
        steps = min(per_epoch - done, self.total_steps - self.step)
        batches = self.stage.training.epoch(epoch, start_step=done)
        watch = Watch(self, epoch, self.step + steps, metric_values)
        hear = [*self.callbacks.epoch_begin(epoch, done, self.view), watch]
        self.waiting, self.fresh = logs.Waiting("compiling the step", self.fresh), False
        with self.stage.training.plain_errors(), self.waiting:
            self.view.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=hear)
        self.progress.end_line()
        self._heed()
        return watch.logs

    def _heed(self):
        """Takes up that a callback asked for the end."""
        if self.view.stop_training and not self.stopped:
            self.stopped = "a callback set model.stop_training"

    def _close_epoch(self, means):
        """Evaluates after an epoch's last step, whose running means are given, and saves."""
        epoch = (self.step - 1) // self.steps_per_epoch
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "lr": float(self.plan.schedule((self.step - 1) // self.recipe.optim.accumulate)),
            "time": time.time(),
        } | means
        row["images_per_second"] = round(self.progress.rate(self.step), 1)
        due = (epoch + 1) % self.recipe.eval_every == 0 or self.step >= self.total_steps or self.stopped
        if due:
            row |= self._evaluate(means)
        self.callbacks.epoch_end(epoch, means | (self.judge.logs() if due else {}))
        self._heed()
        if self.stopped and not due:
            row |= self._evaluate(means)
        row["minutes"] = round(self.seconds / 60, 3)
        tell_skipped(self.plan.source, self.judge.held_out)
        self.history.append(row)
        self.unevaluated = None
        self.save()
        logs.write_csv(self.workdir, self.task.curves, self.history)
        self.board.add(row)
        if time.monotonic() - self.drawn > CURVE_SECONDS:
            self.draw()

    def _evaluate(self, means):
        """Measures the weights of now: {column of the history: figure}. Ended meanwhile, the run is saved as it is
        after the step, to be evaluated when it continues.
        """
        epoch = (self.step - 1) // self.steps_per_epoch + 1
        passing = logs.Passing(f"epoch {epoch}/{self.plan.epochs}: evaluating, batch", self.judge.batches)
        try:
            with averaged(self.view), passing:
                network = self._at_full_size()
                self.judge.evaluate(self.view, network, lambda: (self.ending.check(), passing.batch()))
                self._keep_best(network)
        except Terminated:
            self.unevaluated = means
            self.save()
            raise
        say(f"epoch {epoch}/{self.plan.epochs}: evaluation {self.judge.told()}")
        return {f"eval_{name}": value for name, value in self.judge.figures().items()}

    def _keep_best(self, network):
        """Writes the weights just evaluated, where none before were as good.

        Before the checkpoint: a run killed between the two goes on from the last one, and repeats the evaluation and
        this file.
        """
        if self.judge.beats(self.judge.best(self.history)):
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            meta = {"step": self.step, "epoch": epoch, "metrics": self.judge.metrics, **self._told_of(network)}
            state.save_best(self.view, network, self.workdir, meta)

    def _told_of(self, network):
        """What a file of weights tells of the model."""
        frozen = parts_config(self.stage.network).get("frozen", [])
        return {"spec": dataclasses.asdict(network.spec), "frozen": frozen, "kzoo": __version__}

    def _enter(self, side):
        """Goes on at another image size, where the recipe says so for this epoch."""
        if side == self.stage.side:
            return
        before, self.stage, self.fresh = self.stage, Stage(self.plan, side), True
        self.stage.compile()
        self.stage.follow(before)
        if self.stage.is_last:
            self.finest = self.stage.network
        say(f"pictures of {side} pixels from here on")

    def _at_full_size(self):
        """The model at its own image size, with the weights of the current stage."""
        if not self.stage.is_last:
            transfer(self.finest, self.stage.network, resize=True, new_head=False)
        return self.finest

    def draw(self):
        logs.draw_curve(self.workdir, self.task.curves, self.history)
        self.drawn = time.monotonic()

    def save(self):
        meta = {
            "step": self.step,
            "history": self.history,
            "metrics": self.judge.metrics,
            "seconds": self.seconds,
            "side": self.stage.side,
            "started": self.started,
            "unevaluated": self.unevaluated,
            "stopped": self.stopped,
            "memory": self.judge.memory,
        }
        state.save(self.view, self.workdir, meta | self._told_of(self.stage.network))

    def first_step_done(self):
        """Asks the compiled step what it is, once; a run that requires XLA stops here if the answer is another."""
        self.compiled = compiled_as(self.view)
        require_xla(self.recipe, self.view, self.compiled)
        self._record()

    def _record(self):
        record = record_of(self.plan, self.stage.network, compiled=self.compiled, started=self.started)
        if self.judge.held_out.name != self.plan.source.name:
            record[EVALUATION_SOURCE] = self.judge.held_out.name
        write_text(self.workdir / RECORD, dump(self.recipe, record))

    def finish(self):
        """Writes what a finished run leaves. model.keras is the model that `kzoo.load` gives: float32, averaged
        weights.
        """
        self.draw()
        metrics, headline = self.judge.metrics, self.judge.headline
        with computing_in("float32"), replacing(self.workdir / "model.keras") as temporary:
            load(self.workdir).save(temporary)
        write_text(self.workdir / "metrics.json", json.dumps(metrics | {"steps": self.step}, indent=1) + "\n")
        best, told = (
            self.judge.best(self.history),
            f"{headline} {metrics[headline]:.4f} on {metrics['images']} pictures",
        )
        if best and best["step"] < self.step:
            told += f"; the best, {best[f'eval_{headline}']:.4f}, was after epoch {best['epoch']}"
        if self.ended and self.step < self.total_steps:
            epoch = self.history[-1]["epoch"]
            say(f"ended after epoch {epoch} of {self.plan.epochs}: {self.ended}; {BEST} has the best")
        say(f"done: {self.workdir}, {told}")
        ended = self.ended if self.step < self.total_steps else ""
        return Run(self.workdir, metrics, tuple(self.history), ended, (headline, self.judge.sign))
