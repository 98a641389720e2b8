"""kzoo sweep: a recipe trained with several values of its fields, each trial a run in a folder of its own.

Optuna (https://optuna.readthedocs.io) draws the values and keeps, in study.journal, which trials there are; a trial's
own folder keeps how far it came. Trials run one after another, each in a process of its own: TensorFlow keeps some of
every compiled step it ever had (measured: twelve bytes a parameter and the graph), which would add up. Only trials on
data that was given in Python share this process with it.
"""

import pathlib

from kzoo.errors import require
from kzoo.sweeping import apart
from kzoo.sweeping.grids import parsed, require_grid
from kzoo.sweeping.trials import Trial, Trials, told
from kzoo.system import output_folder, printable, say
from kzoo.training.plan import settle, take

__all__ = ["Trial", "sweep", "told"]


def sweep(recipe, grid, random=None, workdir=None, overrides=None, data=None):
    """Trains the recipe once for each combination of the grid's values or, where `random` is a number, for that many
    draws; returns (the Trials, the best first, the name of the headline figure), which the folder's sweep.csv has too.

    grid: {recipe key: its values, as text "a,b" or a list; or, to draw from, a range "low..high"}. A range of whole
    numbers gives such where the field takes them; rates (keys that end in lr, min_lr, warmup_from, weight_decay or
    epsilon) are drawn by their logarithm, others evenly, or as "low..high:log" and ":linear" say. workdir: by default
    sweeps/NAME. overrides and data as in `train`, of every trial.

    Called again on the same folder it goes on: finished trials are left alone, one that was killed continues from its
    checkpoint, a larger `random` draws more. A trial whose loss is not finite or whose memory runs out has failed and
    is not tried again. Raises UsageError for another recipe or grid than the folder's, UserError as `train` does.
    """
    require("optuna", why="a sweep")
    name, base = settle(recipe, overrides)
    base, sources, _ = take(base, data)
    grid = {key: parsed(key, values, base) for key, values in grid.items()}
    require_grid(grid, random)
    workdir = output_folder(workdir or pathlib.Path("sweeps") / name)
    trials = Trials(workdir, base, grid, random)
    for number, values in trials.left():
        folder = trials.folder(values)
        say(f"trial {number + 1}{trials.of}: {printable(folder.name)}")
        told = (
            apart.apart(trials.recipe, folder, values)
            if sources is None
            else apart.outcome(base, folder, values, sources)
        )
        trials.tell(number, told)
        trials.table()
    return trials.table()
