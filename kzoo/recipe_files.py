"""Recipes on disk: found by name or in a file, shrunk for a smoke, recorded as recipe.txt and read back. Standard
library only.
"""

import ast
import dataclasses
import fnmatch
import functools
import importlib.util
import json
import pathlib
import traceback

from kzoo.errors import UsageError, UserError, unknown
from kzoo.registry import PACKAGE, keys_of, literals
from kzoo.schema import Recipe
from kzoo.settings import flatten, override, tupled
from kzoo.system import read_file

RECORD = "recipe.txt"  # in a run's folder
EVALUATION_SOURCE = "evaluation_source"  # its record: the source that judges the run, where it is not the recipe's
# keys of old records
FORMER = {"task": "task.kind"} | {key: f"task.{key}" for key in ("loss", "label_smoothing", "target_threshold")}
_LARGEST = 2**20  # bytes of a record, which has a few thousand


@functools.cache
def recipe_rows():
    """{recipe name: (file, name of its model)}: recipes lie inside the package in a wheel, beside it in a checkout."""
    folder = next((f for f in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if f.is_dir()), None)
    found = {}
    for path in sorted(folder.glob("*.py")) if folder else ():
        values, _ = literals(path)
        table = values.get("RECIPES")
        for name, call in zip(keys_of(table), table.values if table else (), strict=True):
            model = next(
                (k.value.value for k in call.keywords if k.arg == "model" and isinstance(k.value, ast.Constant)), None
            )
            found[name] = (path, model)
    return dict(sorted(found.items()))


def list_recipes(pattern="*"):
    """The sorted names of the recipes that match a shell-style pattern."""
    return fnmatch.filter(recipe_rows(), pattern)


def recipe(name):
    """The Recipe of that name. Raises UsageError with the nearest names."""
    if name not in recipe_rows():
        raise unknown("recipe", name, recipe_rows())
    return load_recipes(recipe_rows()[name][0])[name]


def find_recipe(source):
    """(name, Recipe) from a recipe's name, a Recipe, a run's recipe.txt, or a recipe file `X.py` or `X.py:NAME`."""
    if isinstance(source, Recipe):
        return source.model, source
    path, _, wanted = str(source).partition(".py:")
    path = pathlib.Path(path + ".py" if wanted else path)
    if path.suffix == ".txt" and path.exists():
        return path.parent.name, read_record(path)[0]
    if path.suffix == ".py" and path.exists():
        recipes = load_recipes(path)
        name = wanted or next(iter(recipes))
        if name not in recipes:
            raise unknown(f"recipe of {path.name}", name, recipes)
        return name, recipes[name]
    if path.suffix in (".txt", ".py"):
        raise UserError(
            f"{path} does not exist; give the name of a recipe (kzoo.list_recipes()), a recipe file or a run's "
            "recipe.txt."
        )
    return str(source), recipe(str(source))


def load_recipes(path):
    """The table RECIPES of a recipe file: {name: Recipe}. Raises UserError where it has none or the file fails."""
    recipes = getattr(load_module(path), "RECIPES", None)
    if not isinstance(recipes, dict) or not recipes or not all(isinstance(r, Recipe) for r in recipes.values()):
        raise UserError(
            f'{path} needs a table of recipes, RECIPES = {{"NAME": Recipe(...)}}, with at least one; correct the '
            "recipe file."
        )
    return recipes


def load_module(path):
    """Runs a Python file under its stem's name and returns the module. Only for recipe files, which are code by
    contract.

    Raises UserError with the file and the line for one that fails, of the kind of its own where that is a UserError.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a recipe file.")
    spec = importlib.util.spec_from_file_location(f"kzoo_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise type(error)(f"{path}, line {_line_in(path, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        said = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}".strip(": ")
        if former := [key for key in FORMER if f"unexpected keyword argument '{key}'" in said]:
            said = f"{former[0]} is a field of the task now, task=Classify({former[0]}=...)"
        raise UserError(
            f"{path}, line {_line_in(path, error)}: {said.splitlines()[0]}; correct the recipe file."
        ) from error
    return module


def _line_in(path, error):
    """The number of the line of a file that raised, or that could not be read as Python."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())
    ]
    unread = isinstance(error, SyntaxError) and error.filename == str(path.absolute())
    return error.lineno if unread else lines[-1] if lines else 1


def smoke(recipe, toy):
    """The one rule that shrinks any recipe: the family's toy row, generated data, two steps.

    Overrides that are sizes (whole numbers and tuples) come from the toy row; choices (words, shares, switches) stay.
    """
    kept = {k: v for k, v in recipe.overrides.items() if isinstance(v, (str, bool, float))}
    data = dataclasses.replace(
        recipe.data,
        source=recipe.task.smoke_source,
        data_dir=None,
        train_split="train",
        eval_split="test",
        batch_size=4,
        eval_batch_size=4,
        **{"holdout": None, "folds": None, "fold": None},  # of data that is not there
        class_weight=recipe.data.class_weight if recipe.data.class_weight == "balanced" else {},
    )
    small = {
        "task": recipe.task.smoked(),
        "progressive": (),
        "data_parallel": False,
        "init_from": None,
        "keep_architecture": False,
        "optim": dataclasses.replace(recipe.optim, accumulate=min(recipe.optim.accumulate, 2)),
        "epochs": 1,
        "steps": 2,
        "eval_every": 1,
        "track": (),
    }
    return dataclasses.replace(recipe, model=toy, overrides=kept, data=data, **small)


def dump(recipe, record=None):
    """The text of recipe.txt: sorted `key = JSON value` lines; `record` adds what was found at run time under
    `record.`.
    """
    flat = flatten(recipe) | {f"record.{k}": v for k, v in (record or {}).items()}
    return "".join(f"{key} = {json.dumps(flat[key])}\n" for key in sorted(flat))


def parse(text, origin="recipe.txt"):
    """Reads dump()'s text back: (Recipe, record). It is only ever data; raises UsageError naming the line that is
    not.
    """
    flat = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            key, equals, value = line.partition(" = ")
            try:
                flat[key.strip()] = json.loads(value)
            except (ValueError, RecursionError):
                raise UsageError(
                    f"{origin}, line {number}: expected `key = JSON value`, found {line[:60]!r}."
                ) from None
            if "\0" in str(flat[key.strip()]):
                raise UsageError(f"{origin}, line {number}: no name or path of a recipe holds a NUL character.")
    record = {k.removeprefix("record."): flat.pop(k) for k in list(flat) if k.startswith("record.")}
    if not isinstance(flat.get("model"), str):
        raise UsageError(f"{origin} names no model; it is not the record of a run.")
    changes = tupled({FORMER.get(key, key): value for key, value in flat.items()})
    try:
        return override(Recipe(model=changes.pop("model")), changes), record
    except RecursionError:
        raise UsageError(f"{origin} is nested too deeply; it is not the record of a run.") from None


def read_record(path):
    """(Recipe, record) of a recipe.txt. Raises UserError for one that cannot be read or is none."""
    return parse(read_file(path, "the recipe.txt of a run", _LARGEST).decode(errors="replace"), str(path))


def is_run(target):
    """Whether it is the folder of a run."""
    return (pathlib.Path(target) / RECORD).is_file()


def read_recipe(run):
    """(Recipe, record) of a run's recipe.txt."""
    if not is_run(run):
        raise UserError(f"{run} is not a run: it has no {RECORD}; give the --workdir of kzoo train.")
    return read_record(pathlib.Path(run) / RECORD)
