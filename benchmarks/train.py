"""A recipe trained for its record: accuracy, minutes, images per second.

The run goes on where an interrupted one stopped, and a finished one is only read: its record costs nothing then.
"""

import pathlib

from benchmarks.common import emit, parser


def main():
    options = parser(__doc__)
    options.add_argument("recipe")
    options.add_argument("--workdir", help="the run's folder (default runs/RECIPE)")
    options.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change fields of the recipe"
    )
    options = options.parse_args()
    import kzoo
    from kzoo.recipe_files import read_recipe

    workdir = pathlib.Path(options.workdir or pathlib.Path("runs") / options.recipe)
    run = kzoo.train(options.recipe, workdir, dict(pair.split("=", 1) for pair in options.set))
    record = read_recipe(workdir)[1]
    result = {
        "recipe": options.recipe,
        "changed": options.set,
        **{
            key: record[key]
            for key in ("backend", "devices", "compiled", "parameters", "total_steps", "training_images")
        },
        "epochs": len(run.history),
        "minutes": run.history[-1]["minutes"],
        "images_per_second": run.history[-1]["images_per_second"],
        **run.metrics,
    }
    emit(f"train_{options.recipe}", result, options.save)


if __name__ == "__main__":
    main()
