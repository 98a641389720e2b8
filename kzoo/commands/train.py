"""Commands that train."""

import dataclasses

from kzoo.commands.shared import emit, load_backend, settings_of, told_metrics
from kzoo.errors import UsageError, require
from kzoo.settings import flatten, override
from kzoo.system import output_folder, printable


def add(command, group):
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

    c = command("find-lr", find_lr, "a learning-rate range test: the rate rises, and the loss tells a good one")
    _add_recipe(c)
    c.add_argument("--low", type=float, default=1e-6, help="the first rate (default 1e-6)")
    c.add_argument("--high", type=float, default=1.0, help="the last rate (default 1)")
    c.add_argument("--steps", type=int, default=100, help="steps from the one to the other (default 100)")
    c.add_argument("--out", metavar="FILE.png", help="where the curve is drawn (default NAME.find-lr.png)")

    c = command("sweep", sweep, "train a recipe with several values of its fields; called again, it continues")
    _add_recipe(c)
    c.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUES",
        help="values to try, KEY=a,b,c; for --random also a range, KEY=low..high[:log|:linear]",
    )
    c.add_argument("--random", type=int, metavar="N", help="N trials of values drawn from the grid, not all of them")
    c.add_argument("--workdir", help="the folder of the trials and their table (default sweeps/RECIPE)")

    of = group("recipe", "recipes")
    c = command("show", show, "a recipe's settings as text, as a run of it would record them", of=of)
    _add_recipe(c)

    c = command("quickstart", quickstart, "train the embedded digits, export three ways, verify and show")
    c.add_argument("--out", default="kzoo-quickstart", metavar="DIR")


def _add_recipe(c):
    c.add_argument("recipe", help="a recipe's name, a recipe file (X.py or X.py:NAME) or a run's recipe.txt")
    c.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change fields of the recipe"
    )


def train(options):
    settings = settings_of(options.set)
    if options.out and not options.preview:
        raise UsageError("--out is where --preview writes; a run is written to --workdir.")
    load_backend(options)
    if options.preview:
        from kzoo.training.preview import preview

        paths = [str(path) for path in preview(options.recipe, options.out, settings, smoke=options.smoke)]
        return emit(options, {"pictures": paths}, "\n".join(paths))
    from kzoo.training import train

    run = train(options.recipe, options.workdir, settings, smoke=options.smoke)
    emit(options, {"workdir": str(run.workdir), **run.metrics}, f"{run.workdir}: " + told_metrics(run.metrics))


def quickstart(options):
    output_folder(options.out, make=False)
    load_backend(options)
    from kzoo.quickstart import quickstart

    rows, text = quickstart(options.out)
    emit(options, rows, text)


def find_lr(options):
    settings = settings_of(options.set)
    load_backend(options)
    from kzoo.recipe_files import find_recipe
    from kzoo.training.range_test import STEEP, find_lr

    out = options.out or f"{printable(find_recipe(options.recipe)[0])}.find-lr.png"
    limits = {"low": options.low, "high": options.high, "steps": options.steps}
    found = find_lr(options.recipe, settings, out=out, **limits)
    told = (
        f"optim.lr={found.lr:g}, {STEEP}"
        if found.lr
        else "no rate is suggested: the loss did not fall; look at the curve, or try more --steps"
    )
    keys = ("rates", "losses", "smoothed")
    emit(options, {"lr": found.lr, "picture": out} | {key: getattr(found, key) for key in keys}, told)


def sweep(options):
    settings, grid = settings_of(options.set), settings_of(options.grid, "optim.lr=1e-4,3e-4", "--grid")
    require("optuna", why="a sweep")
    load_backend(options)
    from kzoo.sweeping import sweep, told

    trials, headline = sweep(options.recipe, grid, options.random, options.workdir, settings)
    rows = [dataclasses.asdict(trial) | {"folder": str(trial.folder)} for trial in trials]
    emit(options, {"headline": headline, "trials": rows}, told(trials, headline))


def show(options):
    from kzoo import recipe_files

    recipe = override(recipe_files.find_recipe(options.recipe)[1], settings_of(options.set))
    emit(options, flatten(recipe), recipe_files.dump(recipe).rstrip())
