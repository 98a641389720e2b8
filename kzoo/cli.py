"""The command line. Each command imports what it needs when it runs, so that `kzoo list` costs milliseconds."""

import dataclasses
import errno
import json
import os
import sys

from kzoo.arguments import parser_of
from kzoo.errors import UsageError, UserError
from kzoo.system import Terminated, give_up_output, hushed, out_of_memory, output_folder, reason, terminable, unseen


def main(arguments=None):
    """Runs one command and returns the exit status: 0 done, 1 the work failed, 2 wrong usage, 143 ended by SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal cannot spell are told in escapes
            stream.reconfigure(errors="backslashreplace")
    parser = parser_of(commands=sys.modules[__name__])
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help(sys.stderr)
        return 2
    try:
        with terminable():
            status = options.run(options) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # the reader of a pipe (head) has gone
        give_up_output()
        return 1
    except Terminated as end:
        if not end.told:
            print("kzoo: ended by SIGTERM", file=sys.stderr)
        return end.code
    except (KeyboardInterrupt, Exception) as error:
        told = _told(error, options)
        if options.debug or told is None:
            raise
        print(f"kzoo: {told}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _told(error, options):
    """The sentence for a failure that the user can do something about; None: it is our mistake and shows itself."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return (
            "interrupted; started again in the same folder, the run continues"
            if options.run is train
            else "interrupted"
        )
    if out_of_memory(error):
        first = (str(error).strip().splitlines() or ["no more to be had"])[0]
        return (
            f"the memory ran out ({first[:120]}); choose a smaller model, picture or batch, or end what else takes "
            "memory."
        )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path holds a NUL character, which none can; correct it."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({reason(error)}); check the path."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a file, it would have its name
        give_up_output()
        return f"the output could not be written ({reason(error)})."
    return None


def _backend(options):
    """Imports Keras and its backend quietly."""
    from kzoo.errors import require_backend

    require_backend()
    with hushed(options.debug):
        import keras  # noqa: F401


def _emit(options, value, text):
    """The result on stdout: JSON where it was asked for, else text."""
    print(json.dumps(value) if options.json else text)


def list_(options):
    from kzoo import recipe_files, registry

    if options.recipes:
        names = recipe_files.list_recipes(options.pattern)
    else:
        names = registry.list_models(
            options.pattern, task=options.task, family=options.family, weights=options.weights or None
        )
    if not names:
        raise UserError(f"nothing matches {options.pattern!r}; kzoo list shows every name.")
    _emit(options, names, "\n".join(names))


def info(options):
    from kzoo import registry, zoo

    registry.find(options.name)
    _backend(options)
    facts = dataclasses.asdict(zoo.info(options.name))
    shown = facts | {
        "params": f"{facts['params']:,}",
        "gmacs": f"{facts['gmacs']:.3f}",
        "image_size": "{} x {}".format(*facts["image_size"]),
    }
    stages = facts["feature_info"]
    shown["feature_info"] = (
        f"{len(stages)} maps, strides {sorted({s['stride'] for s in stages})}, channels "
        f"{sorted({s['channels'] for s in stages})}"
    )
    shown |= {key: ", ".join(facts[key]) or "none" for key in ("recipes", "tags")}
    shown["preprocessing"] = ", ".join(f"{key} {value}" for key, value in facts["preprocessing"].items())
    # what only a tag has is empty without one
    lines = [f"{key:<13} {value}" for key, value in shown.items() if value != ""]
    _emit(options, facts, "\n".join(lines))


def _settings(pairs, example="optim.lr=3e-4"):
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, for example {example}, not {pair!r}.")
        settings[key] = value
    return settings


def _points(options):
    """[(y, x), ...] of --points."""
    if options.points and not options.attention:
        raise UsageError("--points chooses what --attention draws; add --attention.")
    try:
        points = [tuple(map(float, text.split(","))) for text in options.points]
    except ValueError:
        points = [()]
    if any(len(point) != 2 or not all(0 <= side <= 1 for side in point) for point in points):
        raise UsageError(f"--points takes Y,X in 0..1 of the picture, such as 0.3,0.5, not {' '.join(options.points)}.")
    return points


def train(options):
    settings = _settings(options.set)
    if options.out and not options.preview:
        raise UsageError("--out is where --preview writes; a run is written to --workdir.")
    _backend(options)
    if options.preview:
        from kzoo.training.preview import preview

        paths = [str(path) for path in preview(options.recipe, options.out, settings, smoke=options.smoke)]
        return _emit(options, {"pictures": paths}, "\n".join(paths))
    from kzoo.training import train

    run = train(options.recipe, options.workdir, settings, smoke=options.smoke)
    _emit(options, {"workdir": str(run.workdir), **run.metrics}, f"{run.workdir}: " + _metrics(run.metrics))


def _metrics(metrics):
    return ", ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics.items()
    )


def evaluate(options):
    from kzoo import recipe_files, registry

    target, given = options.target, bool(options.weights or options.random_weights)
    of_run = recipe_files.is_run(target)
    if options.probe is None and (given or not of_run and (registry.is_name(target) or os.path.isfile(target))):
        raise UsageError(
            f"evaluate tells the metrics of a run; of other models' features ({target}) add --probe knn or linear, and "
            "--data SOURCE."
        )
    _backend(options)
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
    _emit(options, metrics, _metrics(metrics))


def predict(options):
    from kzoo.exporting.papers import own_format
    from kzoo.predicting import check_drawing, check_top, draw, draw_attention, open_target, predict

    check_top(options.top)
    points = _points(options)
    asked = _settings(options.set, "seed=1") | ({} if options.threshold is None else {"threshold": options.threshold})
    folder = options.out or ("kzoo-attention" if options.attention else None)
    if folder:
        output_folder(folder, make=False)  # told before the work, which may be long
    # The target decides which runtime is imported. TensorFlow would import Keras and JAX, of which an artifact has no
    # use.
    others = ("keras", "jax") if own_format(options.target) else ()
    with hushed(options.debug), unseen(*others):
        predictor = open_target(
            options.target, options.weights, options.random_weights, options.dtype, options.best, asked
        )
    if folder:
        check_drawing(predictor, options.attention)
    results = predict(predictor, options.images, options.top)
    lines = [f"{result['image']}: {predictor.task.line(result)}" for result in results]
    try:
        if options.attention:
            paths = draw_attention(predictor, results, folder, points)
            lines += [f"pictures: {', '.join(map(str, paths))}"] if paths else []
        if options.out:
            draw(predictor, results, options.out)
    finally:  # the answer does not depend on its pictures
        _emit(options, results, "\n".join(lines))


def export(options):
    from kzoo.exporting.flow import refuse

    refuse(options.format, options.quantize, options.out)
    _backend(options)
    from kzoo.exporting import export
    from kzoo.predicting import open_model, run_pictures

    model = open_model(options.target, options.weights, options.random_weights, options.best)
    card = export(model, options.out, options.format, options.quantize, **run_pictures(options.target))
    worst = max(record["max_abs_difference"] for record in card["verified"])
    text = (
        f"{options.out}: {card['format']}, {card['file_bytes'] / 1e6:.1f} MB, largest difference from Keras {worst:.1e}"
    )
    _emit(options, card, text)


def check(options):
    from kzoo import registry
    from kzoo.errors import unknown
    from kzoo.schema import settings_class

    rows = registry.rows()
    names = [options.name] if options.name in rows else registry.toys(options.name)
    if not names:
        raise unknown(
            "model, family or plugin", options.name, {word for row in rows.values() for word in (row.name, row.family)}
        )
    for name in names:
        registry.find(name)  # a name that two packages claim cannot be checked
    if options.task:
        settings_class(options.task)
    _backend(options)
    from kzoo.checking import run_checks

    results = []
    for name in names:
        if not options.json:
            print(f"{name}:")
        results += run_checks(name, options.task, show=not options.json)
    if options.json:
        print(json.dumps(results))
    return 0 if all(r["result"] != "failed" for r in results) else 1


def pack(options):
    from kzoo.data import pack

    pack(options.source, options.file, data_dir=options.data_dir)
    _emit(options, {"file": options.file}, f"{options.source} packed into {options.file}")


def quickstart(options):
    output_folder(options.out, make=False)
    _backend(options)
    from kzoo.quickstart import quickstart

    rows, text = quickstart(options.out)
    _emit(options, rows, text)
