"""Commands that measure what was trained."""

import os
import pathlib

from kzoo.commands.shared import add_weights, emit, load_backend, told_metrics
from kzoo.errors import UsageError


def add(command, group):
    c = command("evaluate", evaluate, "metrics of a run on its evaluation split, or of any model's features")
    c.add_argument("target", metavar="RUN|NAME[.TAG]", help="without --probe a run")
    c.add_argument("--data", help="another source, for example folder:PATH; for a NAME: the one to ask it about")
    add_weights(c)
    c.add_argument(
        "--probe",
        help="instead: what its frozen features tell of the classes; knn (neighbours) or linear (a linear head)",
    )
    c.add_argument(
        "--report",
        metavar="DIR",
        help="also write there what it turned out to be: evaluation.html, which stands alone, tables and predictions",
    )
    c = command("compare", compare, "runs side by side: what differs in their recipes, and what came out")
    c.add_argument("runs", nargs="+", metavar="RUN")
    c.add_argument("--out", metavar="FILE.png", help="draw the curves of all into one picture")


def evaluate(options):
    from kzoo import recipe_files, registry

    target, given = options.target, bool(options.weights or options.random_weights)
    of_run = recipe_files.is_run(target)
    if options.probe is None and (given or not of_run and (registry.is_name(target) or os.path.isfile(target))):
        raise UsageError(
            f"evaluate tells the metrics of a run; of other models' features ({target}) add --probe knn or linear, and "
            "--data SOURCE."
        )
    if options.report is not None:
        return _report(options)
    load_backend(options)
    if options.probe is None:
        from kzoo.training import evaluate

        metrics = evaluate(target, options.data, options.best)
    elif of_run and not given:
        from kzoo.probing import probe

        metrics = probe(target, options.probe, options.data, options.best)
    else:
        from kzoo.predicting import open_model
        from kzoo.probing import check_kind, probe_source

        check_kind(options.probe)
        if options.data is None and not of_run:
            raise UsageError(f"a probe of {target} needs pictures with labels: add --data SOURCE, for example digits.")
        model = open_model(target, options.weights, options.random_weights, options.best)
        metrics = probe_source(model, options.probe, options.data)
    emit(options, metrics, told_metrics(metrics))


def _report(options):
    if options.probe is not None:
        raise UsageError("--report is of a run's evaluation and --probe of other figures; give one of them.")
    load_backend(options)
    from kzoo.reporting.flow import PAGE, report

    metrics = report(options.target, options.report, options.data, options.best)
    page = str(pathlib.Path(options.report) / PAGE)
    emit(options, metrics | {"report": page}, f"{told_metrics(metrics)}\n{page}")


def compare(options):
    from kzoo.reporting.compare import compare, text

    told = compare(options.runs, options.out)
    emit(options, told, text(told) + (f"\n{options.out}" if options.out else ""))
