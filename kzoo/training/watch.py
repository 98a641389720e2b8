"""What happens after every step of a run."""

import math
import time

import keras

from kzoo.training import state
from kzoo.training.devices import seed_step


class Watch(keras.callbacks.Callback):
    """After every step: counts it, stops at a loss that is not finite, saves when it is time or the run is asked to
    end.

    Never at the epoch's last step, whose evaluation comes first.
    """

    def __init__(self, session, epoch, last_step, metric_values):
        super().__init__()
        self.session, self.epoch, self.last_step, self.metric_values = session, epoch, last_step, metric_values
        self.logs = {}
        self.saved_step, self.saved_time = session.step, time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        if self.metric_values:  # continue the epoch's running means where the checkpoint left them
            state.set_metrics(self.session.view, self.metric_values)

    def on_train_batch_begin(self, batch, logs=None):
        seed_step(self.session.recipe.seed, self.session.step)

    def on_train_batch_end(self, batch, logs=None):
        session, self.logs = self.session, {k: float(v) for k, v in logs.items()}
        session.step += 1
        session.waiting.done()
        now = time.monotonic()
        if not math.isfinite(self.logs["loss"]):  # a running mean: once not finite, it stays so
            raise state.Diverged(
                f"the loss became {self.logs['loss']} at step {session.step}; the run stopped and its last good "
                "checkpoint is kept: "
                "lower optim.lr, warm up longer or set optim.clip_norm, in a new --workdir."
            )
        if session.compiled is None:
            session.first_step_done()
        session.progress.update(session.step, self.epoch, session.plan.epochs, self.logs)
        limits = session.recipe.checkpoint
        by_steps = limits.every_steps and session.step - self.saved_step >= limits.every_steps
        by_time = limits.every_minutes is not None and now - self.saved_time >= limits.every_minutes * 60
        if (by_steps or by_time or session.ending.asked) and session.step < self.last_step:
            session.save()
            self.saved_step, self.saved_time = session.step, time.monotonic()
            session.ending.check()
