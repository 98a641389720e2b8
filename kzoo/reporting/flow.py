"""The way of a report: refuse, evaluate once, write aside, and only then move into place."""

import datetime
import importlib.metadata
import json
import re

from kzoo import __version__
from kzoo.errors import UserError, require
from kzoo.exporting.place import move, staging
from kzoo.exporting.provenance import headed, history, of_run, recipe_line, weights_digest
from kzoo.figures import encoded, look
from kzoo.files import replacing
from kzoo.recipe_files import dump, read_recipe
from kzoo.reporting import curves, page, sheets
from kzoo.settings import flatten
from kzoo.system import printable, reason, target_folder
from kzoo.tasks.reports.base import Drawing, Section, Sheet, Table, write_rows
from kzoo.training.evaluation import evaluate

PAGE, FIGURES = "evaluation.html", "report.json"
KIND = "kzoo report"  # the value of "kind" in report.json, by which a folder is known to be ours
FORMER = "files"  # in report.json: the names of all files beside it
CARDS = 8


class _Heard:
    """What an evaluation was of, and the Reporter that heard it; named: the data is that of a name, of the run's
    split.
    """

    def __init__(self, named):
        self.named, self.reporter = named, None

    def __call__(self, task, model, loader):
        self.task, self.model, self.source = task, model, loader.source
        self._hears = task.reporter(model, loader.source)
        return None if self._hears is None else self

    def update(self, *batch):
        self._hears.update(*batch)

    def close(self, meter):
        self._hears.close(meter)
        # a task whose evaluation is not the frame's shows it nothing, and has none then
        self.reporter = self._hears


def report(run, folder, data=None, best=False):
    """Evaluates a run as kzoo.evaluate does, in one pass, and writes what it turned out to be into `folder`; returns
    the metrics.

    evaluation.html stands alone: no network, no other file. Beside it lie its tables (CSV) and pictures (PNG),
    report.json with all figures and, as the task has it, predictions of every picture. `folder` may be new, empty or an
    earlier report, which is replaced in one step. Raises UserError, leaving `folder` as it was, for a folder that holds
    something else and as kzoo.evaluate does; MissingPackage without the extra "plots".
    """
    require("matplotlib", why="a report")
    target, heard = check_target(folder), _Heard(named=data is None or isinstance(data, str))
    read_recipe(run)  # which refuses what is no run
    metrics = evaluate(run, data, best, heard)
    try:
        with staging(target) as staged:
            _write(staged, run, best, metrics, heard)
            check_target(folder)  # again: the work took a while
            move(staged, target)
    except OSError as error:
        raise UserError(f"{target} could not be written ({reason(error)}); what was there is unchanged.") from error
    return metrics


def check_target(folder):
    """The folder as an absolute path. Raises UserError unless it can be made, is empty, or is an earlier report
    alone.
    """
    path, there = target_folder(folder, "the report")
    ours = _files_of(path)
    if there and ours is None:
        raise UserError(f"{path} is not empty and holds no kzoo report; name a new folder.")
    if foreign := sorted(there - {FIGURES} - (ours or set())):
        raise UserError(f"{path} holds {foreign[0]}, which kzoo did not write; move it away or name a new folder.")
    return path


def _files_of(path):
    """The names of the files of a report; None for any other folder."""
    try:
        told = json.loads((path / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(told, dict) and told.get("kind") == KIND and isinstance(told.get(FORMER), list)
    return {str(name) for name in told[FORMER]} if ours else None


def _write(folder, run, best, metrics, heard):
    """All files of a report."""
    trained, reporter = of_run(run, best), heard.reporter
    sections, figures = ([], {}) if reporter is None else (reporter.sections(), reporter.figures())
    if reporter is not None:
        reporter.write(folder)
    rows = history(run)
    training = Section("Training", (), tuple(curves.drawings([(trained["run"], rows)], heard.task.curves)))
    for part in [part for section in (*sections, training) for part in section.parts]:
        _write_part(folder, part)
    told = {
        "kind": KIND,
        "kzoo": __version__,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": heard.source.name,
        "metrics": metrics,
        "figures": figures,
        "weights_sha256": weights_digest(heard.model),
        "parameters": heard.model.count_params(),
        "versions": _versions(),
        "trained": trained,
    }
    parts = [page.section(section) for section in sections]
    parts.append(_facts(told, heard))
    parts.append(_training(told, training, dump(*read_recipe(run))))
    name = heard.model.spec.name
    count = metrics.get("images", 0)
    lead = f"{name}, {trained['weights']} weights, on {count:,} pictures of {heard.source.name}; {told['date'][:10]}"
    cards = _cards(metrics, figures, heard.task.headline(heard.source)[0])
    foot = (
        f"Made by kzoo {__version__} on {told['date'][:16].replace('T', ' ')}. The tables lie beside this page as CSV."
    )
    text = page.page(trained["run"], "Evaluation", lead, cards, parts, foot)
    _write_text(folder / PAGE, text)
    names = sorted(path.name for path in folder.iterdir())
    _write_text(folder / FIGURES, json.dumps(told | {FORMER: names}, indent=1) + "\n")


def _write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8")


def _write_part(folder, part):
    """The file of a table, drawing or sheet."""
    if isinstance(part, Table) and part.file:
        rows = (["" if value is None else value for value in row] for row in part.rows)
        write_rows(folder / f"{part.file}.csv", part.heads, rows)
    elif isinstance(part, Drawing):
        with look():
            (folder / f"{part.file}.png").write_bytes(encoded(part.draw()))
    elif isinstance(part, Sheet) and part.tiles:
        with look():
            (folder / f"{part.file}.png").write_bytes(encoded(sheets.draw(part), dpi=110))


def _cards(metrics, figures, headline):
    """[(name, value)] of the first figures, the headline before all."""
    first = dict(headed({headline: metrics[headline]} | metrics if headline in metrics else metrics))
    found = dict(list(first.items())[: max(CARDS - len(figures), 1)]) | figures | first
    return [(_spelt(name), page.number(value)) for name, value in list(found.items())[:CARDS]]


def _spelt(name):
    """A figure's name as people write it."""
    return re.sub(r"\b(ap|ar|f1|knn)(?=\d*\b)", lambda found: found[0].upper(), name.replace("_", " "))


def _facts(told, heard):
    """What was evaluated."""
    trained, spec, source = told["trained"], heard.model.spec, heard.source
    changed = ", ".join(f"{key}={value}" for key, value in sorted(flatten(dict(spec.overrides)).items()))
    classes = f", {source.num_classes:,} classes" if source.num_classes else ""
    split = f", split {trained['eval_split']}" if heard.named else ""
    rows = [
        ("Model", f"{spec.name}, {told['parameters']:,} parameters"),
        ("Its settings", changed),
        ("Weights", f"{trained['weights']} of the run {trained['run']}"),
        ("SHA-256 of the weights", told["weights_sha256"]),
        ("Data", f"{source.name}{split}, {len(source):,} pictures{classes}"),
        ("Evaluated with", ", ".join(f"{name} {version}" for name, version in told["versions"].items())),
        ("Evaluated on", told["date"]),
    ]
    return page.facts("What was evaluated", rows)


def _training(told, section, recipe):
    """How it came about."""
    trained = told["trained"]
    count = f", {trained['training_images']:,} pictures" if trained["training_images"] else ""
    rows = [
        ("Trained on", f"{trained['data']}, split {trained['train_split']}{count}"),
        ("Recipe", recipe_line(trained)),
        ("Started from", trained["init_from"]),
        ("Began", trained["started"]),
        ("Trained with", ", ".join(f"{name} {version}" for name, version in sorted(trained["versions"].items()))),
    ]
    drawings = "".join(page.drawing(part) for part in section.parts)
    return page.facts("How it was trained", rows, drawings + page.folded("The whole recipe", recipe))


def _versions():
    names = ("keras", "tensorflow", "jax", "torch", "numpy", "pycocotools")
    found = {"kzoo": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
