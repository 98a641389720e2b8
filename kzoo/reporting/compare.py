"""Runs side by side: what differs in their recipes, what came out, and their curves in one picture."""

import json
import pathlib
import statistics

from kzoo.data import Source
from kzoo.errors import UsageError, UserError
from kzoo.exporting.provenance import history, metrics_of
from kzoo.figures import look, save
from kzoo.recipe_files import read_recipe
from kzoo.reporting import curves
from kzoo.settings import flatten
from kzoo.system import output_folder, printable
from kzoo.tasks import make

RESULTS = ("headline", "best", "best_epoch", "parameters", "minutes", "images_per_second")


def compare(runs, out=None):
    """{"task", "headline", "runs": [{"run", "settings", ...RESULTS}]} of two or more finished runs of one task.

    settings: {dotted key: value} of the recipes where they differ. headline: the figure that the task judges runs by,
    of the last evaluation, and the best of all. out: a file for the curves of all, PNG. Raises UsageError for fewer
    runs, UserError for folders that are no finished runs and for runs of several tasks; MissingPackage for out without
    the extra "plots".
    """
    if len(runs) < 2:
        raise UsageError("compare takes two runs or more; kzoo evaluate tells about one.")
    read = [_read(run) for run in runs]
    (first, recipe, metrics, _), kinds = read[0], [one[1].task.kind for one in read]
    for (run, *_), kind in zip(read, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{first} is a run of the task {kinds[0]}, {run} of {kind}; compare runs of one task.")
    task = make(recipe.task)
    headline, sign = headline_of(task, metrics)
    names = _distinct([one[0] for one in read])
    told = zip(names, _differing([one[1] for one in read]), read, strict=True)
    rows = [{"run": name, "settings": settings} | _results(one, headline, sign) for name, settings, one in told]
    if out is not None:
        _draw(out, [(name, one[3]) for name, one in zip(names, read, strict=True)], (headline, *task.curves))
    return {"task": kinds[0], "headline": headline, "runs": rows}


def _read(run):
    """(the run as it was named, its Recipe, its metrics, the rows of its log)."""
    recipe, record = read_recipe(run)
    metrics, rows = metrics_of(run), history(run)
    missing = "metrics.json" if metrics is None else "log.csv" if not rows else None
    if missing:
        raise UserError(f"{run} has no {missing} that can be read; let kzoo train finish it, or leave it out.")
    return str(run), recipe, metrics | {"parameters": record.get("parameters")}, rows


def headline_of(task, metrics):
    """The task's headline, which may depend on the data: the first of those for any kind of source that the metrics
    have, with the sign of what is better.
    """
    for targets in (task.targets, "label", "objects", "picture"):
        for multilabel in (False, True):
            source = Source()
            source.targets, source.multilabel = targets, multilabel
            name, sign = task.headline(source)
            if name in metrics:
                return name, sign
    return "loss", -1


def _results(one, headline, sign):
    _, _, metrics, rows = one
    judged = [row for row in rows if f"eval_{headline}" in row]
    best = max(judged, key=lambda row: sign * row[f"eval_{headline}"], default={})
    rates = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    return {
        "headline": metrics.get(headline),
        "best": best.get(f"eval_{headline}"),
        "best_epoch": int(best["epoch"]) if best else None,
        "parameters": metrics["parameters"],
        "minutes": rows[-1].get("minutes"),
        "images_per_second": round(statistics.median(rates), 1) if rates else None,
    }


def _differing(recipes):
    """Of each Recipe {dotted key: value} of what is not the same in all."""
    flat = [flatten(recipe) for recipe in recipes]
    keys = sorted(set().union(*flat))
    apart = [key for key in keys if len({json.dumps(each.get(key), sort_keys=True) for each in flat}) > 1]
    return [{key: each.get(key) for key in apart} for each in flat]


def _distinct(names):
    """The last parts of the paths, as many as tell them apart."""
    paths = [pathlib.Path(name).resolve().parts for name in names]
    for count in range(1, max(map(len, paths)) + 1):
        short = ["/".join(parts[-count:]) for parts in paths]
        if len(set(short)) == len(short):
            return [printable(name) for name in short]
    return [printable(name) for name in names]


def _draw(out, runs, names):
    path = pathlib.Path(out)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out takes a file that ends in .png, not {out}.")
    output_folder(path.parent)
    with look():
        for drawing in curves.drawings(runs, names):
            save(drawing.draw(), path)


def text(told):
    """The comparison as a table for a terminal, a line a run or, of few runs with much that differs, a line a fact."""
    headline = told["headline"]
    heads = {"headline": headline, "best": f"best {headline}", "images_per_second": "images/s"}
    table = [["run", *told["runs"][0]["settings"], *(heads.get(name, name.replace("_", " ")) for name in RESULTS)]]
    for row in told["runs"]:
        table.append(
            [row["run"], *map(_word, row["settings"].values()), *(_number(name, row[name]) for name in RESULTS)]
        )
    if len(table[0]) > 12 or len(table) <= 4:
        table = [list(line) for line in zip(*table, strict=True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def _word(value):
    told = "–" if value is None else value if isinstance(value, str) else json.dumps(value)
    return printable(told if len(told) <= 40 else told[:39] + "…")


def _number(name, value):
    if value is None:
        return "–"
    return (
        f"{value:.4f}" if name in ("headline", "best") else f"{value:,}" if isinstance(value, int) else f"{value:.1f}"
    )
