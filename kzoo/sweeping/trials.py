"""The trials of a sweep, kept in Optuna's study, and their table."""

import csv
import dataclasses
import io
import itertools
import json
import logging
import math
import pathlib

from kzoo.errors import UsageError
from kzoo.files import write_text
from kzoo.recipe_files import dump
from kzoo.settings import tupled
from kzoo.sweeping.grids import Range, folder_of, spelled
from kzoo.system import printable, say

STUDY, TABLE, BASE = "study.journal", "sweep.csv", "base.txt"  # in a sweep's folder; the last is its recipe
DIGITS = 4  # of a number that is drawn: what the folder's name says is what the trial has
_TRIES = 100  # draws for one that is new


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


class Trials:
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
        self.recipe = workdir / BASE
        write_text(self.recipe, dump(base))
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

    def tell(self, number, told):
        """Keeps the outcome of a trial."""
        self.study.set_user_attr(f"trial {number}", told)
        if "best" in told:
            self.study.tell(number, told["sign"] * told["best"])
        else:
            say(told["note"])
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
    """Values as they were written down as JSON."""
    return tupled(json.loads(text))


def rows(trials, headline):
    """[[cell, ...], ...] of a table: a head, then a row a trial."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    head = [*keys, f"best {headline}".strip(), "in epoch", "last", "state", "folder", "note"]
    found = []
    for t in trials:
        figures = ["" if v is None else f"{v:.4f}" for v in (t.best, t.last)]
        values = [spelled(t.values.get(key, "")) for key in keys]
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
