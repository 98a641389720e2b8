"""What a training leaves to whoever asked for it."""

import dataclasses
import math
import pathlib

from kzoo.weights import load


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, its metrics on the evaluation split, its history (one row an epoch), and why it ended
    before its epochs did, a sentence, "" where it did not.
    """

    workdir: pathlib.Path
    metrics: dict
    history: tuple[dict, ...]
    ended: str = ""
    headline: tuple[str, int] = ("loss", -1)  # the figure that it is judged by, 1 where more of it is better, else -1

    @property
    def best(self):
        """The row of the history with the best evaluation, of equals the first; None before one."""
        return best_row(self.history, *self.headline)

    @property
    def model(self):
        """The trained model (averaged weights where the recipe keeps an average)."""
        return load(self.workdir)


def best_row(history, headline, sign):
    """The row of a history with the best finite eval_ figure of that name, of equals the first; None for none."""
    key = f"eval_{headline}"
    rows = [row for row in history if math.isfinite(row.get(key, math.nan))]
    return max(rows, key=lambda row: sign * row[key], default=None)
