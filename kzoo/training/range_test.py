"""The learning-rate range test: the rate rises over a few steps, and the loss tells which is a good one.

L. N. Smith, Cyclical Learning Rates for Training Neural Networks, https://arxiv.org/abs/1506.01186, section 3.3; here
the rate rises by a constant factor, so that every power of ten has as many steps.
"""

import dataclasses
import math
import pathlib

import keras
import numpy as np
from keras import ops

from kzoo.errors import UsageError, require
from kzoo.figures import new_figure, save
from kzoo.models.base import computing_in
from kzoo.system import output_folder, printable, say
from kzoo.training import logs
from kzoo.training.devices import data_parallel, seed_step
from kzoo.training.plan import Plan, opener, settle, take
from kzoo.training.stage import Stage
from kzoo.weights.backbone import start_from

EXPLODED = 4  # times the lowest smoothed loss: the test ends there
SMOOTHING = 0.05  # width of the smoothing, as a share of all steps: the standard deviation of its Gaussian
STEEP = "the rate at which the smoothed loss falls most steeply, before it is lowest"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a range test found: the rates of its steps, the loss of each batch before its step, the same smoothed, and
    the rate that is suggested, None where the loss never fell.
    """

    lr: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]


def find_lr(recipe, overrides=None, data=None, *, low=1e-6, high=1.0, steps=100, out=None):
    """Trains a recipe's model, with its data and optimizer, for `steps` steps of rates that rise from `low` to `high`
    by a constant factor, and returns what it Found; the weights are thrown away, nothing is written but the curve.

    The test ends where the smoothed loss exceeds four times its lowest, or is not finite. Suggested is STEEP. out:
    where the curve is written as PNG, None for nowhere. recipe, overrides and data as in `train`; what scales rates by
    weight holds, optim.lr and the schedule do not. Raises UserError as `train` does, UsageError for limits that are
    none.
    """
    if not (0 < low < high < math.inf) or steps < 10:
        raise UsageError(f"a range test takes rates 0 < low < high and at least 10 steps, not {low}, {high}, {steps}.")
    if out is not None:
        require("matplotlib", why="the curve of a range test")
        output_folder(pathlib.Path(out).parent, make=False)
    name, recipe = settle(recipe, overrides)
    recipe, sources, _ = take(recipe, data)
    keras.utils.set_random_seed(recipe.seed)
    source = sources[0] if sources else opener(recipe.data)(recipe.data.source, 0)
    with computing_in(recipe.precision), data_parallel(recipe):
        plan = Plan(recipe, source)
        plan.schedule = _Rising(low, high, steps)
        stage = Stage(plan, plan.side_at(0))
        if recipe.init_from:
            start_from(stage.network, recipe.init_from)
        stage.compile()
        losses = _losses(stage, steps)
    rates = low * (high / low) ** (np.arange(len(losses)) / (steps - 1))
    smooth = smoothed(losses, SMOOTHING * steps)
    found = Found(steepest(rates, smooth), *(tuple(map(float, values)) for values in (rates, losses, smooth)))
    if out is not None:
        output_folder(pathlib.Path(out).parent)
        draw(out, found, printable(f"{name}: {recipe.optim.name}, batches of {recipe.data.batch_size}"))
    return found


class _Rising(keras.optimizers.schedules.LearningRateSchedule):
    """low at step 0, high at the last of `steps`, by a constant factor from step to step."""

    def __init__(self, low, high, steps):
        self.low, self.growth = math.log(low), math.log(high / low) / (steps - 1)

    def __call__(self, step):
        return ops.exp(self.low + self.growth * ops.cast(step, "float32"))


def _losses(stage, steps):
    """The loss of each optimizer step's batches before that step, float64, up to where it explodes."""
    every, per_epoch = stage.plan.recipe.optim.accumulate, stage.training.steps_per_epoch
    hear, done = _Listening(steps, every, stage.plan.recipe.seed), 0
    with logs.Waiting("compiling the step") as hear.waiting, hear.passing, stage.training.plain_errors():
        while done < steps * every and not hear.over:
            epoch, count = done // per_epoch, min(per_epoch, steps * every - done)
            stage.view.fit(
                stage.training.epoch(epoch), steps_per_epoch=count, epochs=1, verbose=0, shuffle=False, callbacks=[hear]
            )
            done += count
    means = np.array(hear.losses[: len(hear.losses) // every * every]).reshape(-1, every).mean(axis=1)
    return means if len(means) else np.array([math.nan])


class _Listening(keras.callbacks.Callback):
    """Keeps the loss of every batch, and stops where it explodes."""

    def __init__(self, steps, every, seed):
        super().__init__()
        self.losses, self.over, self.every, self.seed = [], False, every, seed
        self.passing, self.lowest, self.mean = logs.Passing("range test, step", steps * every), math.inf, None

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0  # of the epoch's losses so far: Keras tells their running mean

    def on_train_batch_begin(self, batch, logs=None):
        seed_step(self.seed, len(self.losses))

    def on_train_batch_end(self, batch, logs=None):
        self.waiting.done()
        self.passing.batch()
        total = float(logs["loss"]) * (batch + 1)
        loss, self.sum = total - self.sum, total
        if not math.isfinite(loss):
            self.over = self.model.stop_training = True
            return
        self.losses.append(loss)
        self.mean = loss if self.mean is None else 0.8 * self.mean + 0.2 * loss
        self.lowest = min(self.lowest, self.mean)
        if self.mean > EXPLODED * abs(self.lowest):
            self.over = self.model.stop_training = True


def smoothed(losses, width):
    """The losses (N,), each the mean of its neighbours weighted by a Gaussian of that standard deviation, in steps;
    float64. At the ends those that there are count.
    """
    place = np.arange(len(losses))
    weights = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return weights @ np.asarray(losses, np.float64) / weights.sum(axis=1)


def steepest(rates, losses):
    """The rate, to two digits, at which smoothed losses fall most steeply over its logarithm, before they are lowest;
    None where they do not fall.
    """
    end = int(np.argmin(losses)) + 1 if np.isfinite(losses).all() else 0
    if end < 3:
        return None
    slopes = np.gradient(losses[:end], np.log(rates[:end]))
    return float(f"{rates[np.argmin(slopes)]:.2g}") if slopes.min() < 0 else None


def draw(path, found, title):
    """Writes the loss over the rate as PNG, with the suggestion. Needs the extra "plots"."""
    figure = new_figure(7, 4)
    axis = figure.subplots()
    axis.plot(found.rates, found.losses, alpha=0.3, label="loss of a batch")
    axis.plot(found.rates, found.smoothed, label="smoothed")
    if found.lr is not None:
        axis.axvline(found.lr, color="black", linestyle=":", label=f"suggested: {found.lr:.2g}")
    low, top = min(found.smoothed), max(found.smoothed[0], min(found.smoothed))
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss", title=title)
    axis.set_ylim(low - 0.1 * abs(top), top + 0.5 * (top - low) + 0.1 * abs(top))
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
    say(f"the curve is in {path}")
