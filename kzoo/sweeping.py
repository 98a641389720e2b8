"""kzoo sweep: a recipe trained with several values of its fields, each trial a run in a folder of its own.

Optuna (https://optuna.readthedocs.io) draws the values and keeps, in study.journal, which trials there are; a trial's
own folder keeps how far it came. Trials run in this process, one after another: each leaves its memory to the next,
data that was given in Python serves all of them, and nothing is imported or claimed on a device twice.
"""

import csv
import dataclasses
import gc
import hashlib
import io
import itertools
import json
import logging
import math
import pathlib
import re

import keras

from kzoo.errors import UsageError, UserError, require
from kzoo.files import write_text
from kzoo.recipe_files import dump
from kzoo.settings import flatten, override
from kzoo.system import out_of_memory, output_folder, printable, say
from kzoo.training import train
from kzoo.training.plan import settle, take
from kzoo.training.state import Diverged

STUDY, TABLE = "study.journal", "sweep.csv"
RATES = {
    "lr",
    "min_lr",
    "warmup_from",
    "weight_decay",
    "epsilon",
}  # last words of keys that are drawn by their logarithm
DIGITS = 4  # of a number that is drawn: what the folder's name says is what the trial has
_NAME = 100  # letters of a folder's name at most
_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER}?)\.\.(?P<high>{_NUMBER})(?::(?P<scale>log|linear))?")
_TRIES = 100  # draws for one that is new


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, whole ones where `whole`, drawn evenly or, where `log`, by their logarithm."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial of a sweep: its values, its folder, how it ended (finished | failed | unfinished), the headline figure of
    its last and of its best evaluation, the epoch of that, why it failed or ended early.
    """

    values: dict
    folder: pathlib.Path
    state: str
    last: float | None = None
    best: float | None = None
    epoch: int | None = None
    note: str = ""


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
    _require_grid(grid, random)
    workdir = output_folder(workdir or pathlib.Path("sweeps") / name)
    trials = _Trials(workdir, base, grid, random)
    for number, values in trials.left():
        folder = trials.folder(values)
        say(f"trial {number + 1}{trials.of}: {printable(folder.name)}")
        try:
            run = train(base, folder, values, sources)
        except UserError as error:
            if not isinstance(error, Diverged) and not (error.__cause__ and out_of_memory(error.__cause__)):
                raise
            trials.failed(number, str(error))
        else:
            trials.finished(number, run)
            del run
        keras.utils.clear_session(free_memory=True)
        gc.collect()
        trials.table()
    return trials.table()


def parsed(key, values, base):
    """The values of a key of the grid, a list as the recipe's field takes them, or a Range. Raises UsageError for
    values that are none of the field.
    """
    if isinstance(values, str) and (found := _RANGE.fullmatch(values.strip())):
        return _range(key, base, **found.groupdict())
    texts = split(values) if isinstance(values, str) else list(values)
    if not texts:
        raise UsageError(f"{key} has no values to try; give them as {key}=a,b.")
    typed = [flatten(override(base, {key: value})).get(key, value) for value in texts]
    return [value for i, value in enumerate(typed) if value not in typed[:i]]


def split(text):
    """Values separated by commas, those within brackets and quotes aside."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _range(key, base, low, high, scale):
    ends = [flatten(override(base, {key: end})).get(key) for end in (low, high)]
    if not all(type(end) in (int, float) for end in ends):
        raise UsageError(f"{key}={low}..{high} is no range of numbers; list values as {key}=a,b.")
    whole = all(type(end) is int for end in ends)
    log = scale == "log" if scale else key.rpartition(".")[2] in RATES
    low, high = ends
    if not low < high or (log and low <= 0):
        above = ", and is above 0 where it is drawn by its logarithm (else add :linear)" if log else ""
        raise UsageError(f"{key}={low}..{high}: a range goes up, low..high{above}.")
    return Range(low, high, log, whole)


def _require_grid(grid, random):
    ranges = [key for key, values in grid.items() if isinstance(values, Range)]
    if not grid:
        raise UsageError("a sweep needs something to vary: --grid KEY=a,b or, with --random N, --grid KEY=low..high.")
    if random is None and ranges:
        raise UsageError(f"{ranges[0]} is a range, of which --random N draws; or list values, --grid {ranges[0]}=a,b.")
    if random is not None and random < 1:
        raise UsageError(f"--random takes the number of trials, at least 1, not {random}.")


def folder_of(values):
    """The name of a trial's folder, which tells its values."""
    told = ",".join(f"{key}={_spelled(value)}" for key, value in values.items())
    name = re.sub(r"[^\w.,=+()-]", "_", told)
    if name == told and len(name) <= _NAME:
        return name
    return f"{name[:_NAME]}-{hashlib.blake2b(told.encode(), digest_size=4).hexdigest()}"


def _spelled(value):
    return f"({','.join(map(_spelled, value))})" if isinstance(value, list | tuple) else str(value)


class _Trials:
    """The trials of a sweep, in Optuna's study: which there are, what became of them."""

    def __init__(self, workdir, base, grid, random):
        import optuna

        self.optuna, self.workdir, self.base, self.grid, self.random = optuna, workdir, base, grid, random
        logging.getLogger("optuna").setLevel(logging.WARNING)
        journal = optuna.storages.journal.JournalFileBackend(str(workdir / STUDY))
        self.study = optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(journal),
            direction="maximize",  # the headline's best, negated where less of it is better
            load_if_exists=True,
        )
        self._require_same()
        self.of = f" of {self.count}"

    @property
    def count(self):
        """How many trials there are to be."""
        return self.random or math.prod(map(len, self.grid.values()))

    def _require_same(self):
        """Raises UsageError where the folder holds another sweep; a new one is noted."""
        grid = {key: dataclasses.asdict(v) if isinstance(v, Range) else v for key, v in self.grid.items()}
        told = {"recipe": dump(self.base), "grid": json.dumps(grid), "random": self.random is not None}
        known = self.study.user_attrs
        for key, value in told.items():
            if key not in known:
                self.study.set_user_attr(key, value)
            elif known[key] != value:
                raise UsageError(
                    f"{self.workdir} holds a sweep of another {key}; call it as it was called, or choose another "
                    "--workdir."
                )

    def left(self):
        """(number, values) of the trials that are not done, those first that an earlier process began."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            yield trial.number, _restored(trial.user_attrs["values"])
        while self.study.get_trials(states=(states.WAITING,)):
            yield self._next()
        for values in self._grid() if self.random is None else self._draws():
            fixed = {key: self._number(key, value) for key, value in values.items()}
            self.study.enqueue_trial(fixed, user_attrs={"values": json.dumps(values)})  # known before it begins
            yield self._next()

    def _next(self):
        """(number, values) of the trial that waits."""
        trial = self.study.ask({key: self._distribution(found) for key, found in self.grid.items()})
        return trial.number, _restored(trial.user_attrs["values"])

    def folder(self, values):
        """Where a trial runs: the name tells those of its values that others may have otherwise."""
        varied = [key for key, v in self.grid.items() if isinstance(v, Range) or len(v) > 1]
        return self.workdir / folder_of({key: values[key] for key in varied or values})

    def _tried(self):
        return [_restored(trial.user_attrs["values"]) for trial in self.study.get_trials()]

    def _grid(self):
        tried = self._tried()
        for combination in itertools.product(*self.grid.values()):
            values = dict(zip(self.grid, combination, strict=True))
            if values not in tried:
                yield values

    def _draws(self):
        """Draws until there are as many as were asked for: the n-th is a function of the recipe's seed and n, so that a
        sweep that is continued has the same.
        """
        while len(tried := self._tried()) < self.random:
            for again in range(_TRIES):
                seed = self.base.seed + 1000 * len(tried) + again
                values = self._drawn(self.optuna.samplers.RandomSampler(seed=seed % 2**32))
                if values not in tried:
                    break
            else:
                say(f"the grid has no more than {len(tried)} combinations that differ")
                return
            yield values

    def _drawn(self, sampler):
        study = self.optuna.create_study(sampler=sampler)  # in memory, for one draw
        asked = study.ask({key: self._distribution(values) for key, values in self.grid.items()})
        return {key: self._value(key, drawn) for key, drawn in asked.params.items()}

    def _distribution(self, values):
        d = self.optuna.distributions
        if not isinstance(values, Range):
            return d.IntDistribution(0, len(values) - 1)  # its number: Optuna's categories may be no tuples
        kind = d.IntDistribution if values.whole else d.FloatDistribution
        return kind(values.low, values.high, log=values.log)

    def _value(self, key, drawn):
        values = self.grid[key]
        if not isinstance(values, Range):
            return values[drawn]
        return drawn if values.whole else min(max(float(f"{drawn:.{DIGITS}g}"), values.low), values.high)

    def _number(self, key, value):
        return value if isinstance(self.grid[key], Range) else self.grid[key].index(value)

    def finished(self, number, run):
        name, sign = run.headline
        told = {"headline": name, "sign": sign, "last": run.metrics[name], "note": run.ended}
        if run.best is None:  # no evaluation gave a number
            return self.failed(number, f"no evaluation gave a finite {name}", told)
        told |= {"best": run.best[f"eval_{name}"], "epoch": run.best["epoch"]}
        self.study.set_user_attr(f"trial {number}", told)
        self.study.tell(number, sign * told["best"])

    def failed(self, number, why, told=None):
        say(why)
        self.study.set_user_attr(f"trial {number}", (told or {}) | {"note": why})
        self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)

    def table(self):
        """(the Trials, best first, the headline's name); writes them into the table."""
        found, headline, sign, known = [], "", 1, self.study.user_attrs
        for trial in self.study.get_trials():
            told = known.get(f"trial {trial.number}", {})
            headline, sign = told.get("headline", headline), told.get("sign", sign)
            values = _restored(trial.user_attrs["values"])
            state = "unfinished" if not trial.state.is_finished() else "finished" if "best" in told else "failed"
            figures = {key: told.get(key) for key in ("last", "best", "epoch")}
            found.append(Trial(values, self.folder(values), state, **figures, note=told.get("note", "")))
        found.sort(key=lambda t: -math.inf if t.best is None else sign * t.best, reverse=True)
        write_table(self.workdir / TABLE, found, headline)
        return found, headline


def _restored(text):
    return {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(text).items()}


def rows(trials, headline):
    """[[cell, ...], ...] of a table: a head, then a row a trial."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    head = [*keys, f"best {headline}".strip(), "in epoch", "last", "state", "folder", "note"]
    found = []
    for t in trials:
        figures = ["" if v is None else f"{v:.4f}" for v in (t.best, t.last)]
        values = [_spelled(t.values.get(key, "")) for key in keys]
        epoch = "" if t.epoch is None else str(t.epoch)
        found.append([*values, figures[0], epoch, figures[1], t.state, t.folder.name, t.note])
    return [head, *found]


def write_table(path, trials, headline):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows(trials, headline))
    write_text(path, text.getvalue())


def told(trials, headline):
    """The table as text, without folders and notes."""
    table = [[printable(cell) for cell in row[:-2]] for row in rows(trials, headline)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table)
