"""Commands about models: what there are, what one is, whether it keeps what all promise."""

import dataclasses
import json

from kzoo.commands.shared import emit, load_backend
from kzoo.errors import UserError


def add(command, group):
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

    c = command("check", check, "the conformance list of a model, or of the toys of a family or plugin, a line each")
    c.add_argument("name", metavar="NAME|FAMILY|PLUGIN")
    c.add_argument(
        "--task",
        metavar="KIND",
        help="instead: what is asked of a task, a plugin's for example, as it trains the model",
    )


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
    emit(options, names, "\n".join(names))


def info(options):
    from kzoo import registry, zoo

    registry.find(options.name)
    load_backend(options)
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
    emit(options, facts, "\n".join(lines))


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
    load_backend(options)
    from kzoo.checking import run_checks

    results = []
    for name in names:
        if not options.json:
            print(f"{name}:")
        results += run_checks(name, options.task, show=not options.json)
    if options.json:
        print(json.dumps(results))
    return 0 if all(r["result"] != "failed" for r in results) else 1
