"""The words of the command line: commands, their arguments and what their help says. Standard library only."""

import argparse


def parser_of(commands):
    """The parser of `kzoo`; each command's `run` is the function of its name in the module `commands`."""
    parser = argparse.ArgumentParser(prog="kzoo", description="A pluggable zoo of image models for Keras 3.")
    parser.add_argument("--version", action="version", version=_version())
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options.add_argument("--json", action="store_true", help="machine-readable output alone on stdout")
    subparsers = parser.add_subparsers(metavar="COMMAND")

    def command(name, run, help, of=subparsers):
        added = of.add_parser(name, help=help, description=help, parents=[options])
        added.set_defaults(run=run)
        return added

    _add_making(command, commands)
    _add_using(command, commands)
    data = subparsers.add_parser("data", help="data sets").add_subparsers(metavar="COMMAND", required=True)
    c = command("pack", commands.pack, "a data set as one .npz that needs no TensorFlow to read", of=data)
    c.add_argument("source", help="for example tfds:cifar10 or folder:PATH")
    c.add_argument("file", help="FILE.npz")
    c.add_argument("--data-dir", help="where TFDS keeps its data (default: the setting KZOO_DATA_DIR)")
    return parser


def _add_making(command, run):
    """The commands that find models and train them."""
    c = command("list", run.list_, "names of models, or of recipes")
    c.add_argument("pattern", nargs="?", default="*", help="shell-style, for example 'vit_*_384'")
    c.add_argument("--task", help="only models of this task")
    c.add_argument("--family", help="only models of this family")
    c.add_argument(
        "--weights", action="store_true", help="only models with published weights; 'PATTERN.*' lists their tags"
    )
    c.add_argument("--recipes", action="store_true", help="recipes instead of models")

    c = command(
        "info", run.info, "what a model is: size, parameters, multiply-accumulates, features, recipes, tags of weights"
    )
    c.add_argument("name", metavar="NAME[.TAG]")

    c = command("train", run.train, "train a recipe; started again on the same folder, it continues")
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

    c = command("quickstart", run.quickstart, "train the embedded digits, export three ways, verify and show")
    c.add_argument("--out", default="kzoo-quickstart", metavar="DIR")


def _add_using(command, run):
    """The commands that take a trained model further."""
    c = command("evaluate", run.evaluate, "metrics of a run on its evaluation split, or of any model's features")
    c.add_argument("target", metavar="RUN|NAME[.TAG]", help="without --probe a run")
    c.add_argument("--data", help="another source, for example folder:PATH; for a NAME: the one to ask it about")
    _add_weights(c)
    c.add_argument(
        "--probe",
        help="instead: what its frozen features tell of the classes; knn (neighbours) or linear (a linear head)",
    )

    c = command("predict", run.predict, "answers about pictures by a run, an artifact or a model with weights")
    c.add_argument("target", metavar="RUN|ARTIFACT|NAME[.TAG]")
    c.add_argument("images", nargs="+", metavar="IMAGE")
    _add_weights(c)
    c.add_argument("--dtype", help="bfloat16: compute in that precision and say what it costs in accuracy")
    c.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="of autoencoders: mask_ratio, norm_pix, seed; of detectors: threshold",
    )
    c.add_argument("--threshold", metavar="T", help="of detectors: the score in 0..1 from which to show (default 0.5)")
    c.add_argument("--top", type=int, default=5, help="how many classes to show (default 5)")
    c.add_argument(
        "--attention", action="store_true", help="also draw what the model looks at (without --out into kzoo-attention)"
    )
    c.add_argument(
        "--points",
        nargs="+",
        action="extend",
        default=[],
        metavar="Y,X",
        help="with --attention: also what these points, in 0..1 of the picture, look at",
    )
    c.add_argument("--out", metavar="DIR", help="also write each picture with its classes there")

    c = command("export", run.export, "write a verified artifact: SavedModel, ONNX or LiteRT")
    c.add_argument("target", metavar="RUN|NAME[.TAG]")
    c.add_argument("--format", required=True, help="saved_model, onnx or litert")
    c.add_argument("--out", required=True, metavar="DIR")
    _add_weights(c)
    c.add_argument("--quantize", help="litert: fp16 or dynamic; saved_model: bfloat16")

    c = command(
        "check", run.check, "the conformance list of a model, or of the toys of a family or plugin, a line each"
    )
    c.add_argument("name", metavar="NAME|FAMILY|PLUGIN")
    c.add_argument(
        "--task",
        metavar="KIND",
        help="instead: what is asked of a task, a plugin's for example, as it trains the model",
    )


def _add_weights(c):
    """What says which weights a target has."""
    c.add_argument("--weights", help="for a NAME: a run, a file of weights or hf://org/repo[@revision][/file]")
    c.add_argument("--random-weights", action="store_true", help="for a NAME: allow untrained weights")
    c.add_argument(
        "--best", action="store_true", help="of a run: the weights of its best evaluation, not the last ones"
    )


def _version():
    from kzoo import __version__

    return f"kzoo {__version__}"
