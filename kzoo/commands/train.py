"""Commands that train."""

from kzoo.commands.shared import emit, load_backend, settings_of, told_metrics
from kzoo.errors import UsageError
from kzoo.system import output_folder


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

    c = command("quickstart", quickstart, "train the embedded digits, export three ways, verify and show")
    c.add_argument("--out", default="kzoo-quickstart", metavar="DIR")


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
