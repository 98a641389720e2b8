"""The command line. Each command imports what it needs when it runs, so that `kzoo list` costs milliseconds."""

import argparse
import dataclasses
import errno
import json
import sys

from kzoo.errors import UsageError, UserError
from kzoo.system import Terminated, give_up_output, hushed, out_of_memory, output_folder, reason, terminable, unseen

BEST = "of a run: the weights of its best evaluation, not the last ones"


def main(arguments=None):
    """Runs one command and returns the exit status: 0 done, 1 the work failed, 2 wrong usage, 143 ended by SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names that the terminal cannot spell are told in escapes
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
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


def _parser():
    parser = argparse.ArgumentParser(prog="kzoo", description="A pluggable zoo of image models for Keras 3.")
    parser.add_argument("--version", action="version", version=_version())
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options.add_argument("--json", action="store_true", help="machine-readable output alone on stdout")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name, run, help, of=commands):
        added = of.add_parser(name, help=help, description=help, parents=[options])
        added.set_defaults(run=run)
        return added

    _add_making(command)
    _add_using(command)
    data = commands.add_parser("data", help="data sets").add_subparsers(metavar="COMMAND", required=True)
    c = command("pack", pack, "a data set as one .npz that needs no TensorFlow to read", of=data)
    c.add_argument("source", help="for example tfds:cifar10 or folder:PATH")
    c.add_argument("file", help="FILE.npz")
    c.add_argument("--data-dir", help="where TFDS keeps its data (default: the setting KZOO_DATA_DIR)")
    return parser


def _add_making(command):
    """The commands that find models and train them."""
    c = command("list", list_, "names of models, or of recipes")
    c.add_argument("pattern", nargs="?", default="*", help="shell-style, for example 'vit_*_384'")
    c.add_argument("--task", help="only models of this task")
    c.add_argument("--family", help="only models of this family")
    c.add_argument(
        "--weights", action="store_true", help="only models with published weights; 'PATTERN.*' lists their tags"
    )
    c.add_argument("--recipes", action="store_true", help="recipes instead of models")

    c = command(
        "info", info, "what a model is: size, parameters, multiply-accumulates, features, recipes, tags of weights"
    )
    c.add_argument("name", metavar="NAME[.TAG]")

    c = command("train", train, "train a recipe; started again on the same folder, it continues")
    c.add_argument("recipe", help="a recipe's name, a recipe file (X.py or X.py:NAME) or a run's recipe.txt")
    c.add_argument("--workdir", help="the run's folder (default runs/RECIPE)")
    c.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change fields of the recipe"
    )
    c.add_argument("--smoke", action="store_true", help="the toy row, generated data, two steps")
    c.add_argument(
        "--preview", action="store_true", help="train nothing: draw the first augmented pictures and the learning rate"
    )
    c.add_argument("--out", metavar="DIR", help="where --preview writes its pictures (default kzoo-preview)")

    c = command("quickstart", quickstart, "train the embedded digits, export three ways, verify and show")
    c.add_argument("--out", default="kzoo-quickstart", metavar="DIR")


def _add_using(command):
    """The commands that take a trained model further."""
    c = command("evaluate", evaluate, "metrics of a run on its evaluation split")
    c.add_argument("folder", metavar="RUN")
    c.add_argument("--data", help="another source, for example folder:PATH")
    c.add_argument("--best", action="store_true", help=BEST)

    c = command("predict", predict, "classes of pictures by a run, an artifact or a model with weights")
    c.add_argument("target", metavar="RUN|ARTIFACT|NAME[.TAG]")
    c.add_argument("images", nargs="+", metavar="IMAGE")
    c.add_argument("--weights", help="for a NAME: a run, a file of weights or hf://org/repo[@revision][/file]")
    c.add_argument("--random-weights", action="store_true", help="for a NAME: allow untrained weights")
    c.add_argument("--best", action="store_true", help=BEST)
    c.add_argument("--dtype", help="bfloat16: compute in that precision and say what it costs in accuracy")
    c.add_argument("--top", type=int, default=5, help="how many classes to show (default 5)")
    c.add_argument(
        "--attention", action="store_true", help="also draw what the model looks at (without --out into kzoo-attention)"
    )
    c.add_argument("--out", metavar="DIR", help="also write each picture with its classes there")

    c = command("export", export, "write a verified artifact: SavedModel, ONNX or LiteRT")
    c.add_argument("target", metavar="RUN|NAME[.TAG]")
    c.add_argument("--format", required=True, help="saved_model, onnx or litert")
    c.add_argument("--out", required=True, metavar="DIR")
    c.add_argument("--weights", help="for a NAME: a run, a file of weights or hf://org/repo[@revision][/file]")
    c.add_argument("--random-weights", action="store_true", help="for a NAME: allow untrained weights")
    c.add_argument("--best", action="store_true", help=BEST)
    c.add_argument("--quantize", help="litert: fp16 or dynamic; saved_model: bfloat16")

    c = command("check", check, "the conformance list of a model, or of the toys of a family or plugin, a line each")
    c.add_argument("name", metavar="NAME|FAMILY|PLUGIN")
    c.add_argument(
        "--task",
        metavar="KIND",
        help="instead: what is asked of a task, a plugin's for example, as it trains the model",
    )


def _version():
    from kzoo import __version__

    return f"kzoo {__version__}"


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


def _settings(pairs):
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, for example optim.lr=3e-4, not {pair!r}.")
        settings[key] = value
    return settings


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
    _backend(options)
    from kzoo.training import evaluate

    metrics = evaluate(options.folder, options.data, options.best)
    _emit(options, metrics, _metrics(metrics))


def predict(options):
    from kzoo.exporting.papers import own_format
    from kzoo.predicting import check_drawing, check_top, draw, draw_attention, open_target, predict

    check_top(options.top)
    folder = options.out or ("kzoo-attention" if options.attention else None)
    if folder:
        output_folder(folder, make=False)  # told before the work, which may be long
    # The target decides which runtime is imported. TensorFlow would import Keras and JAX, of which an artifact has no
    # use.
    others = ("keras", "jax") if own_format(options.target) else ()
    with hushed(options.debug), unseen(*others):
        predictor = open_target(options.target, options.weights, options.random_weights, options.dtype, options.best)
    if folder:
        check_drawing(predictor, options.attention)
    results = predict(predictor, options.images, options.top)
    lines = [f"{result['image']}: {predictor.task.line(result)}" for result in results]
    try:
        if options.attention:
            paths = draw_attention(predictor, results, folder)
            for result, path in zip(results, paths, strict=False):  # those of the model itself come after the results'
                result["attention"] = str(path)
            lines += [f"pictures: {', '.join(map(str, paths))}"]
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
