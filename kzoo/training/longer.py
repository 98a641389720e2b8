"""A run that is to go on for longer than it began: allowed where every step so far would have been the same."""

import math

import numpy as np

from kzoo.errors import UserError
from kzoo.training.optimizer import Rate, updates
from kzoo.weights.read import read_checkpoint

LENGTH = ("epochs", "steps", "early_stop.patience", "early_stop.min_delta")  # keys that say when a run ends


def require_same_so_far(workdir, old, new, record):
    """Raises UserError unless the run of the recipe `old`, whose record is given, has trained until now as it would
    have by the recipe `new`, which differs from it in LENGTH alone.
    """
    step, per_epoch = read_checkpoint(workdir, ("none",))[1]["step"], record.get("steps_per_epoch")
    if type(per_epoch) is not int or per_epoch < 1:
        raise UserError(
            f"the recipe.txt of {workdir} does not say how long an epoch is; continue it with its own epochs."
        )
    before, after = (min(r.epochs * per_epoch, r.steps or math.inf) for r in (old, new))
    if after < step:
        raise UserError(
            f"{workdir} has trained {step} steps, and the epochs or steps asked for now are only {after}; ask for no "
            "fewer, or choose another --workdir."
        )
    seen = range(-(-step // per_epoch))
    if [_side(old, epoch) for epoch in seen] != [_side(new, epoch) for epoch in seen]:
        raise UserError(
            f"progressive gives every image size an equal share of the epochs, of which {workdir} would have had other "
            f"ones by epochs={new.epochs}; choose another --workdir, with "
            f"init_from={workdir} to go on from its weights."
        )
    if before != after and not np.array_equal(
        *(_rates(r, total, per_epoch, step) for r, total in ((old, before), (new, after)))
    ):
        raise UserError(
            f"{workdir} cannot go on for {after} steps instead of {before}: by schedule.name={new.schedule.name!r} the "
            "rates of the steps so far would have been others (those of constant and step would not). Choose another "
            f"--workdir, with init_from={workdir} to go on from its weights, or continue it as it began."
        )


def _rates(recipe, total_steps, per_epoch, step):
    """The rates of the updates of a run's first `step` steps."""
    every = recipe.optim.accumulate
    rate = Rate(recipe, per_epoch / every, updates(recipe, total_steps))
    return np.asarray(rate(np.arange(step // every, dtype=np.float32))) * np.ones(step // every, np.float32)


def _side(recipe, epoch):
    """As Plan.side_at has it."""
    sides = recipe.progressive
    return sides[min(epoch * len(sides) // recipe.epochs, len(sides) - 1)] if sides else None
